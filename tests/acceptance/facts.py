"""What the checks of a running guest look at: gathered there by one program, with one call of its agent."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from pipelines.artifact.manifest import Manifest
from pipelines.guest.agent import Agent
from pipelines.guest.guest import Guest
from pipelines.target import programs
from pipelines.text import split_fields, split_lines
from tests.acceptance import expectations

_PROGRAM = Path(__file__).with_name("gather.sh")

#: Files by which guest and host see each other's writing, and what the host writes.
FROM_HOST, TO_HOST = "root/virtroot-from-host", "root/virtroot-shared"
GREETING = "from the host\n"

#: The services that it asks for, in its order.
SERVICES = ("qemu-guest-agent", "systemd-networkd", "ssh", "sshd")


@dataclass(frozen=True)
class Fact:
    """How a command in the guest ended, and what it printed."""

    status: int
    output: str
    errors: str


class Facts(dict[str, Fact]):
    """The facts by their names."""

    def text(self, name: str) -> str:
        """Return a fact's output without the closing newlines; fails where its command did."""
        fact = self[name]
        assert fact.status == 0, f"{name} cannot be found out in the guest, exit status {fact.status}: {fact.errors}"
        return fact.output.rstrip("\n")

    def service(self, name: str) -> tuple[str, str]:
        """Return a service's state, like ``active``, and that of its unit file, like ``enabled``."""
        blocks = self.text("services").split("\n\n")
        assert len(blocks) == len(SERVICES), f"systemctl show answers for {len(blocks)} services"
        shown = dict(line.split("=", 1) for line in split_lines(blocks[SERVICES.index(name)]))
        return shown.get("ActiveState", ""), shown.get("UnitFileState", "")


def parse(content: bytes) -> Facts:
    """Read what the program printed; raises ValueError for anything else, and where it did not come to its end."""
    count, _, rest = content.partition(b"\n")
    # Of each fact a line with its name and two with sizes, and a line with their sum.
    lines = rest.split(b"\n", 3 * int(count) + 1)
    names = [split_fields(line.decode()) for line in lines[: int(count)]]
    sizes = [int(split_fields(line)[0]) for line in lines[int(count) : -2]]
    if len(sizes) != 2 * len(names) or sum(sizes) != len(lines[-1]):
        raise ValueError(f"{len(names)} facts of {sum(sizes)} bytes have {len(lines[-1])}")
    printed = io.BytesIO(lines[-1])
    texts = [printed.read(size).decode(errors="replace") for size in sizes]
    answers = zip(names, texts[::2], texts[1::2], strict=True)
    return Facts({name: Fact(int(status), output, errors) for (name, status), output, errors in answers})


def gather(agent: Agent, guest: Guest, manifest: Manifest) -> Facts:
    """Run the program in the guest; raises `VirtrootError` or ValueError where it does not come to its end."""
    programs.write(guest.target, guest.root, FROM_HOST, 0o644, GREETING)
    query, check = expectations.packages_query(manifest), expectations.packages_check(manifest)
    shares = [word for share in guest.shares for word in (share.tag, "ro" if share.readonly else "rw")]
    argv = [query, check, "" if guest.source.initrd else guest.source.kernel, *shares]
    done = agent.run(["/bin/sh", "-c", _PROGRAM.read_text(encoding="utf-8"), "gather", *argv])
    try:
        return parse(done.stdout)
    except (ValueError, IndexError) as error:
        raise ValueError(f"the facts are incomplete: {error}; {done.complaint}") from error

"""Collects the facts of an existing system's tree; see `pipelines.origin.system`."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.origin import owners as owning
from pipelines.origin import signs as origins
from pipelines.origin.system import ASKED, System
from pipelines.target import programs
from pipelines.target.payload import signs as searching
from pipelines.target.payload.beneath import open_beneath, open_regular
from pipelines.target.payload.errors import Refused
from pipelines.target.target import Target
from pipelines.text import plain, split_lines, trim

#: How many bytes of a file are read; a larger fstab is refused.
_MAX_SIZE = 64 << 10

#: Programs whose ELF header has the system's processor, the length of that header, and their maximum size in bytes.
_PROGRAMS = (
    "usr/lib/systemd/systemd", "lib/systemd/systemd", "usr/bin/bash", "usr/bin/dash", "usr/bin/busybox",
)  # fmt: skip
_ELF, _MAX_PROGRAM = 20, 1 << 30

_FACTS = Path(__file__).with_name("system_facts.sh").read_text(encoding="utf-8")


def collect(target: Target, root: str) -> System:
    """Collect the facts of the tree ``root`` on ``target``. Raises VirtrootError if its fstab is too large."""
    argv = ["sh", "-c", _FACTS, "facts", root, str(_MAX_SIZE), " ".join(_PROGRAMS), *ASKED]
    answer = target.run(argv, limit=32 << 20, timeout=300).stdout.decode(errors="replace")
    sections = dict(part.split("\037", 1) for part in answer.split("\036")[1:])
    lines = {name: tuple(line for line in split_lines(body) if trim(line)) for name, body in sections.items()}
    if int(trim(sections["size"]) or 0) > _MAX_SIZE:
        raise VirtrootError(f"etc/fstab: larger than {_MAX_SIZE >> 10} KiB", "fix it in the system first")
    links = dict(line.split(" ", 1) for line in lines["links"])
    machine_id, hostname = trim(sections["machine-id"]), trim(sections["hostname"])
    modules = set(lines["modules"])
    shown, owners = _find_signs(target, root)
    return System(
        top=frozenset(lines["top"]),
        found=frozenset(lines["found"]),
        machine=trim(sections["machine"]),
        release=_parse_fields(lines["release"]),
        fstab=sections["fstab"],
        resume=lines["resume"],
        fstype=lines["fstype"],
        dracut=lines["dracut"],
        presets=lines["presets"],
        cmdline=" ".join(lines["cmdline"]),
        crypttab=lines["crypttab"],
        units=lines["units"],
        cards=lines["cards"],
        machine_id=machine_id if re.fullmatch(r"[0-9a-f]{32}", machine_id) else "",
        hostname=hostname if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", hostname) else "",
        # Debian names kernels by version, Arch by package.
        kernels=tuple(name for name in lines["kernels"] if name in modules or not name[:1].isdigit()),
        # For the host, an absolute link is a file outside the root.
        links={path: to for path, to in links.items() if not to.startswith("/")},
        signs=shown,
        owners=owners,
    )


def read_owners(target: Target, root: str) -> dict[str, tuple[int, int, int]]:
    """Return the owners of the paths that belong to root in every system."""
    return _find_signs(target, root)[1]


def _find_signs(target: Target, root: str) -> tuple[origins.Shown, dict[str, tuple[int, int, int]]]:
    """Return the signs in a tree, and the owners of the paths that belong to root in every system."""
    answer = programs.find_signs(target, root, origins.make_queries(), owning.ASKED)
    if not answer["openat2"]:
        raise VirtrootError(
            "cannot open files of a root in the builder: the engine denies openat2",
            "use a newer container engine, or kernel 5.6 or newer",
        )
    return origins.parse_answer(answer["signs"]), {path: tuple(each) for path, each in answer["owners"].items()}


def collect_basics(root: Path) -> System:
    """Collect the facts to refuse a tree on this machine; follow no link out of it, and read files up to a limit."""
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        known = set()
        for path in ASKED:
            with suppress(Refused):
                os.close(open_beneath(descriptor, path, os.O_PATH))
                known.add(path)
        heads = filter(None, (_read_head(descriptor, path, _ELF) for path in _PROGRAMS))
        release = _read_head(descriptor, "usr/lib/os-release", _MAX_SIZE).decode(errors="replace")
        return System(
            top=frozenset(each.name for each in root.iterdir()),
            found=frozenset(known),
            machine=next((f"{head[19]:02x}{head[18]:02x}" for head in heads if len(head) == _ELF), ""),
            release=_parse_fields(tuple(split_lines(plain(release)))),
            fstab=_read_head(descriptor, "etc/fstab", _MAX_SIZE).decode(errors="replace"),
            owners=searching.find_owners(descriptor, list(owning.ASKED)),
        )
    finally:
        os.close(descriptor)


def _read_head(root: int, path: str, length: int) -> bytes:
    """Return the first bytes of a regular file of the root; empty if there is no such file."""
    try:
        with os.fdopen(open_regular(root, path, _MAX_PROGRAM), "rb") as content:
            return content.read(length)
    except (Refused, OSError):
        return b""


def _parse_fields(lines: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of an os-release file (see os-release(5))."""
    pairs = (re.fullmatch(r"([A-Z_]+)=(.*)", line) for line in lines)
    return {pair[1]: pair[2].strip("\"'") for pair in pairs if pair}

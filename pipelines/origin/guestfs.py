"""Reads a disk image with libguestfs in a container. This machine's kernel never mounts it, and it is never written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from pipelines.builder.container import Builder, make_output_labels, run_piped
from pipelines.engine import images
from pipelines.engine.container import Container
from pipelines.engine.engine import Engine, Sink
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.host.feed import count_reads
from pipelines.log import progress, step
from pipelines.origin import tree_stream
from pipelines.origin.disk import Choice, Disks
from pipelines.origin.tree_stream import Source
from pipelines.recipe.stage import ROOT
from pipelines.settings import Settings
from pipelines.text import split_lines, trim

#: The name of the Containerfile and its image.
_NAME = "guestfs"

_BASE_IMAGE, _BASE_SUITE = "debian:trixie-slim", "trixie"

_PROGRAM = "/usr/local/lib/virtroot/read-disk"

_IMAGE = "/disk/image"

# The tar of libguestfs has zeros instead of holes. Digging holes removes a file's capabilities and changes its time. So
# executables are skipped, and times are restored.
_DIG_HOLES = r"""
find "$1" -xdev -type f -size +1023k ! -perm /111 -exec sh -ec '
for file do time=$(stat --format=%y -- "$file"); fallocate --dig-holes -- "$file"; touch --date="$time" -- "$file"; done
' dig {} +
"""

#: The maximum size of the description of a disk, in bytes.
_MAX_DESCRIPTION = 1 << 20


@contextmanager
def run_reader(engine: Engine, name: str, settings: Settings) -> Iterator[Container]:
    """Run a container with libguestfs for the import ``name``, whose lock the caller holds; remove it at the end."""
    since = images.compute_oldest(settings.image_max_age)
    base = images.ensure_base(engine, settings.base, _BASE_IMAGE, _BASE_SUITE, made_since=since)
    tag, _ = images.ensure_built(engine, _NAME, base, made_since=since)
    labels = {**make_output_labels(settings), "virtroot.recipe": name, "virtroot.purpose": "disk"}
    engine.remove_containers(labels)
    called = f"virtroot-disk-{name}-{settings.key}"
    container = engine.start(tag, name=called, labels=labels, hostname="disk", niced=True, tied=True, proxied=False)
    try:
        yield container
    finally:
        container.remove()


def copy_image(image: Source, container: Container) -> None:
    """Copy a disk image to ``container``, without its holes."""
    directory, name = os.path.split(image.handle_path)
    # The path of the open image is a link in /proc, so it has to be dereferenced.
    argv = ["tar", "--create", "--sparse", "--dereference", "--file=-", "--directory", directory, "--", f"./{name}"]
    container.run(["mkdir", "-p", _IMAGE.rpartition("/")[0]])
    with progress(f"reading {image.path.name}", image.size) as advance, process.open_output(argv) as content:
        extract = ["tar", "--extract", "--file=-", "--directory=/disk", "--transform=s|.*|image|", "--no-same-owner"]
        container.run(extract, stdin=count_reads(content, advance))


class _Conversation:
    """The conversation with the program in the container. It prints a description of the disk, then a tar.

    It is a single run of the program, because libguestfs' virtual machine takes longer to start than to inspect a disk.
    """

    def __init__(self, choose: Callable[[Disks], Choice], reply: IO[bytes], sink: Sink, stack: ExitStack) -> None:
        self._choose, self._reply, self._sink, self._stack = choose, reply, sink, stack
        self._said = b""
        self._advance: Callable[[int], object] = int
        self.choice: Choice | None = None

    def take(self, chunk: bytes) -> None:
        """Handle a chunk of output. Raises VirtrootError for an unreadable disk, and what ``choose`` raises."""
        if self.choice is None:
            self._said += chunk
            line, newline, chunk = self._said.partition(b"\n")
            if not newline:
                if len(self._said) > _MAX_DESCRIPTION:
                    raise _make_error("the description of the disk is too long")
                return
            self._reply_choice(line)
        self._advance(len(chunk))
        self._sink(chunk)

    def _reply_choice(self, line: bytes) -> None:
        try:
            disks = Disks.model_validate_json(line)
        except ValidationError as error:
            raise _make_error(str(error)) from error
        choice = self._choose(disks)
        self._stack.close()
        what = f"copying {', '.join(point for point, _ in choice.mounts)}"
        self._advance = self._stack.enter_context(progress(what, choice.size))
        self._reply.write(json.dumps({"mounts": choice.mounts}).encode() + b"\n")
        self.choice = choice


def _make_error(why: str) -> VirtrootError:
    last = (split_lines(trim(why)) or ["libguestfs gave no reason"])[-1]
    return VirtrootError(f"cannot read the disk image: {last}", "check it with qemu-img check", why)


def read_passphrase(path: str) -> str:
    """Return the passphrase in the file ``path``, without its newline. Raises VirtrootError if it cannot be read."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise VirtrootError(f"cannot read the key {path}: {error}", "use a file with the passphrase") from error
    return text.removesuffix("\n")


def unpack(
    image: Source, container: Container, key: str, choose: Callable[[Disks], Choice], builder: Builder
) -> Choice:
    """Unpack what ``choose`` selects of the disk ``image`` into the builder's root; return the choice."""
    copy_image(image, container)
    found: list[Choice] = []

    def write(sink: Sink) -> None:
        asked, asking = os.pipe()
        with os.fdopen(asked, "rb", buffering=0) as stdin, os.fdopen(asking, "wb", buffering=0) as reply:
            reply.write(json.dumps({"key": key}).encode() + b"\n")
            with ExitStack() as stack:
                stack.enter_context(step("looking for systems on the disk"))
                reading = _Conversation(choose, reply, sink, stack)
                done = container.run([_PROGRAM, _IMAGE], stdin=stdin, stdout=reading.take, check=False)
                if done.returncode or reading.choice is None:
                    raise _make_error(done.complaint)
            found.append(reading.choice)

    run_piped(write, lambda pipe: tree_stream.extract(builder, pipe))
    builder.run(("sh", "-ec", _DIG_HOLES, "dig", ROOT))
    return found[0]

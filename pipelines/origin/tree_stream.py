"""How an existing system's tree gets into a builder: as a tar stream, from a directory or a tarball."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from pipelines.artifact import archive
from pipelines.builder.container import Builder
from pipelines.errors import VirtrootError
from pipelines.host import process, user_file
from pipelines.host.feed import count_reads
from pipelines.log import progress, say, warn
from pipelines.origin import fstab
from pipelines.recipe.stage import ROOT
from pipelines.target import mounts
from pipelines.target.target import Local
from pipelines.text import one_line, split_fields, split_lines

#: How a tarball begins, by tar's option for its compression.
_MAGIC = {"--zstd": b"\x28\xb5\x2f\xfd", "--gzip": b"\x1f\x8b", "--xz": b"\xfd7zXZ\x00", "--bzip2": b"BZh"}

#: Where a tar archive says what it is, and what.
_USTAR = slice(257, 262), b"ustar"

#: How disk images begin, or at which byte they say what they are: qcow2, qed, vmdk, vhdx, vhd, vdi; raw ones by a
#: table of partitions or, without one, as ext, xfs, LUKS, LVM or btrfs.
_DISKS = (
    (0, b"QFI\xfb"), (0, b"QED\0"), (0, b"KDMV"), (0, b"# Disk DescriptorFile"), (0, b"vhdxfile"), (0, b"conectix"),
    (64, b"\x7f\x10\xda\xbe"), (510, b"\x55\xaa"), (1080, b"\x53\xef"), (0, b"XFSB"), (0, b"LUKS\xba\xbe"),
    (512, b"LABELONE"), (65600, b"_BHRfS_M"),
)  # fmt: skip

#: Bytes that tell what a file is.
_HEAD = 66 << 10

# What is in the tarball in a directory of its own is the root.
_STRIP = """
cd "$1"
for name in usr etc bin; do [ ! -d "$name" ] || exit 0; done
set -- * .[!.]*
for each do [ ! -e "./$each" ] || { [ -z "$only" ] || exit 0; only=$each; }; done
if [ -d "./$only" ] && [ ! -L "./$only" ] && [ -d "./$only/usr" ]; then
    mv -T -- "$only" ../inner; cd ..; rmdir "$OLDPWD"; mv -T inner "$OLDPWD"
fi
"""


_WANTED = (
    "name the directory that is the system's /, a tarball of it (plain, zstd, gzip, xz, bzip2) or its disk's image "
    "(qcow2, raw, vmdk, vdi, vhd, vhdx)"
)


@dataclass(frozen=True)
class Source:
    """What is brought in: ``kind`` is ``directory``, ``tarball`` or ``disk``, ``size`` about how many bytes are read.

    ``left_out`` are directories, relative to the source, that other file systems are mounted on and that stay behind.
    """

    path: Path
    kind: str
    size: int
    decompress: str = ""
    left_out: tuple[str, ...] = ()
    handle: int = -1

    @property
    def opened(self) -> str:
        """A path to what was found, whatever its own path leads to by now."""
        return user_file.get_path(self.handle) if self.handle >= 0 else str(self.path)


def find(text: str, *, outside: Path, include_mounts: bool = False) -> Source:
    """Return what ``text`` names; raises `VirtrootError` for what cannot be brought in.

    ``outside`` is the output directory, which no source may hold. File systems that are mounted in a directory come
    along where they are the system's own (see `fstab.is_of_the_system`), all that hold files with ``include_mounts``.
    """
    path = Path(text).expanduser()
    try:
        named, path = path.absolute(), path.resolve(strict=True)
        if named != path:
            say(f"{named} leads to {path}")
        # Looked at and read by one descriptor: who can write above it could put a link in its place meanwhile.
        handle = user_file.open_path(path)
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            return _directory(path, handle, outside, include_mounts=include_mounts)
        if not stat.S_ISREG(found.st_mode):
            raise VirtrootError(f"{path} is neither a directory nor a file", _WANTED)
        with Path(user_file.get_path(handle)).open("rb") as content:
            head = content.read(_HEAD)
    except (OSError, RuntimeError, ValueError) as error:
        raise VirtrootError(f"cannot read {text}: {error}", _WANTED) from error
    size = found.st_size
    for option, magic in _MAGIC.items():
        if head.startswith(magic):
            return Source(path, "tarball", size, option, handle=handle)
    where, magic = _USTAR
    if head[where] == magic:
        return Source(path, "tarball", size, handle=handle)
    if any(head[at:].startswith(magic) for at, magic in _DISKS):
        return Source(path, "disk", found.st_blocks * 512, handle=handle)
    raise VirtrootError(f"{path} is neither a tarball nor a disk image", _WANTED)


def _directory(path: Path, handle: int, outside: Path, *, include_mounts: bool) -> Source:
    if path == Path("/") or outside.is_relative_to(path):
        raise VirtrootError(
            f"{path} is the system that runs here, or holds {outside}",
            "copy it from a machine that is off, or bring in a tarball of it",
        )
    if os.geteuid() != 0:
        raise VirtrootError("a system's files belong to many users, so reading them needs root", "run this with sudo")
    mounted = [(point.removeprefix(f"{path}/"), kind) for point, kind in mounts.points(Local())]
    left_out = tuple(
        point
        for point, kind in mounted
        if not point.startswith("/")
        and (kind in fstab.PROVIDED or not (include_mounts or fstab.is_of_the_system(f"/{point}")))
    )
    source = Source(path, "directory", 0, left_out=left_out, handle=handle)
    without = [f"--exclude=./{each}" for each in left_out]
    argv = ["env", f"--chdir={source.opened}", "du", "--summarize", "--block-size=1", *without, "."]
    size = split_fields(process.run(argv, check=False).text)
    return replace(source, size=int(size[0]) if size else 0)


def unpack(source: Source, builder: Builder) -> None:
    """Unpack ``source``, a directory or a tarball, into the builder's root, saying how far it is."""
    with progress(f"reading {source.path.name or source.path}", source.size) as advance, _opened(source) as content:
        extract(builder, count_reads(content, advance), source.decompress)


def extract(builder: Builder, content: IO[bytes], decompress: str = "") -> None:
    """Unpack a tar stream into the builder's root; ``decompress`` is tar's option for it."""
    options = (*archive.KEEP, "--same-owner", "--preserve-permissions", "--delay-directory-restore")
    argv = ("tar", "--extract", "--file=-", "--directory", ROOT, *options, *filter(None, [decompress]))
    said = builder.run(argv, stdin=content).stderr.decode(errors="replace")
    lost = [line for line in split_lines(said) if "trusted." in line]
    if lost:
        # What an engine without root may not write; overlayfs, and so a container engine, keeps deletions there.
        warn(f"{len(lost)} attributes trusted.* are lost, since the engine runs without root: {one_line(lost[0])}")
    builder.run(("sh", "-ec", f"only=; {_STRIP}", "strip", ROOT))


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    if source.kind == "tarball":
        with Path(source.opened).open("rb") as content:
            yield content
        return
    without = [f"--exclude=./{each}" for each in source.left_out]
    options = (*archive.KEEP, "--sparse", "--format=posix", "--anchored", "--no-wildcards", *without)
    argv = ("tar", "--create", "--file=-", "--directory", source.opened, *options, ".")
    with process.open_output(argv) as content:
        yield content

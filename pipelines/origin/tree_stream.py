"""Copies an existing system's tree to a builder as a tar stream, from a directory or a tarball."""

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

#: The first bytes of a compressed tarball, by tar's option for the compression.
_MAGIC = {"--zstd": b"\x28\xb5\x2f\xfd", "--gzip": b"\x1f\x8b", "--xz": b"\xfd7zXZ\x00", "--bzip2": b"BZh"}

#: The position and value of a tar archive's magic number.
_TAR_MAGIC = slice(257, 262), b"ustar"

#: Positions and values of magic numbers of disk images: qcow2, qed, vmdk, vhdx, vhd, vdi; raw images with a partition
#: table or, without one, with ext, xfs, LUKS, LVM or btrfs.
_DISKS = (
    (0, b"QFI\xfb"), (0, b"QED\0"), (0, b"KDMV"), (0, b"# Disk DescriptorFile"), (0, b"vhdxfile"), (0, b"conectix"),
    (64, b"\x7f\x10\xda\xbe"), (510, b"\x55\xaa"), (1080, b"\x53\xef"), (0, b"XFSB"), (0, b"LUKS\xba\xbe"),
    (512, b"LABELONE"), (65600, b"_BHRfS_M"),
)  # fmt: skip

#: How many bytes of a file are read to determine its type.
_HEAD = 66 << 10

# If the tarball has a single directory with /usr in it, that directory is the root.
_STRIP = """
cd "$1"
for name in usr etc bin; do [ ! -d "$name" ] || exit 0; done
set -- * .[!.]*
for each do [ ! -e "./$each" ] || { [ -z "$only" ] || exit 0; only=$each; }; done
if [ -d "./$only" ] && [ ! -L "./$only" ] && [ -d "./$only/usr" ]; then
    mv -T -- "$only" ../inner; cd ..; rmdir "$OLDPWD"; mv -T inner "$OLDPWD"
fi
"""

_HINT = (
    "use the directory of the system's /, a tarball of it (plain, zstd, gzip, xz, bzip2) or a disk image "
    "(qcow2, raw, vmdk, vdi, vhd, vhdx)"
)


@dataclass(frozen=True)
class Source:
    """The source of an import; ``kind`` is ``directory``, ``tarball`` or ``disk``, ``size`` an estimate in bytes.

    ``left_out`` are mount points of other file systems, relative to the source, that are not imported.
    """

    path: Path
    kind: str
    size: int
    decompress: str = ""
    left_out: tuple[str, ...] = ()
    handle: int = -1

    @property
    def handle_path(self) -> str:
        """A path of the open file or directory, which does not change if ``path`` is replaced."""
        return user_file.get_path(self.handle) if self.handle >= 0 else str(self.path)


def get_source(text: str, *, outside: Path, include_mounts: bool = False) -> Source:
    """Return the source at the path ``text``. Raises VirtrootError for anything that cannot be imported.

    ``outside`` is the output directory, which must not be in the source. Of the file systems mounted in a directory,
    the parts of the system are imported (see `fstab.is_system_part`), and with ``include_mounts`` all with files.
    """
    path = Path(text).expanduser()
    try:
        named, path = path.absolute(), path.resolve(strict=True)
        if named != path:
            say(f"{named} is a link to {path}")
        # Check and read it by one descriptor: a user who can write to a parent could replace it by a link in between.
        handle = user_file.open_path(path)
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            return _make_directory_source(path, handle, outside, include_mounts=include_mounts)
        if not stat.S_ISREG(found.st_mode):
            raise VirtrootError(f"{path}: not a directory or file", _HINT)
        with Path(user_file.get_path(handle)).open("rb") as content:
            head = content.read(_HEAD)
    except (OSError, RuntimeError, ValueError) as error:
        raise VirtrootError(f"cannot read {text}: {error}", _HINT) from error
    size = found.st_size
    for option, magic in _MAGIC.items():
        if head.startswith(magic):
            return Source(path, "tarball", size, option, handle=handle)
    where, magic = _TAR_MAGIC
    if head[where] == magic:
        return Source(path, "tarball", size, handle=handle)
    if any(head[at:].startswith(magic) for at, magic in _DISKS):
        return Source(path, "disk", found.st_blocks * 512, handle=handle)
    raise VirtrootError(f"{path}: not a tarball or disk image", _HINT)


def _make_directory_source(path: Path, handle: int, outside: Path, *, include_mounts: bool) -> Source:
    if path == Path("/") or outside.is_relative_to(path):
        raise VirtrootError(
            f"{path} is the running system, or contains {outside}",
            "copy it while the machine is off, or import a tarball of it",
        )
    if os.geteuid() != 0:
        raise VirtrootError("importing a directory requires root, to read files of all users", "run it with sudo")
    mounted = [(each.point.removeprefix(f"{path}/"), each.kind) for each in mounts.points(Local())]
    left_out = tuple(
        point
        for point, kind in mounted
        if not point.startswith("/")
        and (kind in fstab.PROVIDED or not (include_mounts or fstab.is_system_part(f"/{point}")))
    )
    source = Source(path, "directory", 0, left_out=left_out, handle=handle)
    without = [f"--exclude=./{each}" for each in left_out]
    argv = ["env", f"--chdir={source.handle_path}", "du", "--summarize", "--block-size=1", *without, "."]
    size = split_fields(process.run(argv, check=False).text)
    return replace(source, size=int(size[0]) if size else 0)


def unpack(source: Source, builder: Builder) -> None:
    """Unpack ``source``, a directory or a tarball, into the builder's root, and show the progress."""
    with progress(f"reading {source.path.name or source.path}", source.size) as advance, _open_tar(source) as content:
        extract(builder, count_reads(content, advance), source.decompress)


def extract(builder: Builder, content: IO[bytes], decompress: str = "") -> None:
    """Unpack a tar stream into the builder's root; ``decompress`` is tar's option for its compression."""
    options = (*archive.KEEP, "--same-owner", "--preserve-permissions", "--delay-directory-restore")
    argv = ("tar", "--extract", "--file=-", "--directory", ROOT, *options, *filter(None, [decompress]))
    said = builder.run(argv, stdin=content).stderr.decode(errors="replace")
    lost = [line for line in split_lines(said) if "trusted." in line]
    if lost:
        # An engine without root cannot write these. overlayfs, and so a container engine, records deletions in them.
        warn(f"lost {len(lost)} trusted.* attributes, because the engine runs without root: {one_line(lost[0])}")
    builder.run(("sh", "-ec", f"only=; {_STRIP}", "strip", ROOT))


@contextmanager
def _open_tar(source: Source) -> Iterator[IO[bytes]]:
    if source.kind == "tarball":
        with Path(source.handle_path).open("rb") as content:
            yield content
        return
    without = [f"--exclude=./{each}" for each in source.left_out]
    options = (*archive.KEEP, "--sparse", "--format=posix", "--anchored", "--no-wildcards", *without)
    argv = ("tar", "--create", "--file=-", "--directory", source.handle_path, *options, ".")
    with process.open_output(argv) as content:
        yield content

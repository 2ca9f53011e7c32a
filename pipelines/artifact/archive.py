"""The rootfs tarball, of GNU tar and zstd; it keeps owners, modes, xattrs, capabilities, ACLs, links and devices."""

from __future__ import annotations

#: Options to pack or unpack a root without losing attributes.
KEEP = ("--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner")


def pack_argv(root: str, epoch: int, *, sparse: bool = False) -> tuple[str, ...]:
    """Return the command that writes the tarball of ``root`` to its standard output.

    Equal roots give equal bytes: entries are sorted, times after ``epoch`` (seconds since 1970) are set to it, and
    access times are left out. With ``sparse`` files keep their holes; these depend on how a file was written.
    """
    return (
        "tar", "--create", "--file=-", "--directory", root, *KEEP, "--one-file-system", "--sort=name", "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", f"--mtime=@{epoch}", "--clamp-mtime",
        "--use-compress-program=zstd -T0 -3", *(("--sparse",) if sparse else ()), ".",
    )  # fmt: skip


def unpack_argv(directory: str) -> tuple[str, ...]:
    """Return the command that unpacks a tarball from its standard input into the empty ``directory``."""
    options = (*KEEP, "--same-owner", "--preserve-permissions", "--zstd")
    return ("tar", "--extract", "--file=-", "--directory", directory, *options)


def keep_argv(root: str) -> tuple[str, ...]:
    """Return the command that writes ``root`` unchanged to its standard output, for the stage cache.

    It compresses lightly, because a build waits for it. Without access times the same root gives the same bytes.
    """
    return (
        "tar", "--create", "--file=-", "--directory", root, *KEEP, "--one-file-system", "--sort=name", "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--use-compress-program=zstd -T0 -1",
        ".",
    )  # fmt: skip


def expand_argv(tarball: str) -> tuple[str, ...]:
    """Return the command that decompresses ``tarball`` to its standard output."""
    return ("zstd", "--decompress", "--stdout", "--quiet", "--", tarball)

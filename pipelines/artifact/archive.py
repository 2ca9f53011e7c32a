"""The rootfs tarball: GNU tar and zstd, which keep owners, modes, xattrs, capabilities, ACLs, links and devices."""

from __future__ import annotations

#: What every tar of a root needs, in either direction.
KEEP = ("--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner")


def pack_argv(root: str, epoch: int, *, sparse: bool = False) -> tuple[str, ...]:
    """Return the command that writes the tarball of ``root`` to its standard output.

    Sorted, with times after ``epoch`` (seconds since 1970) clamped to it and no access times, so that equal roots
    give equal bytes. With ``sparse`` files keep their holes, which how they were written decides.
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
    """Return the command that writes ``root`` as it is to its standard output, to be restored in a later build.

    Compressed lightly: a build waits for it. Access times tell nothing, and the same root gives the same bytes.
    """
    return (
        "tar", "--create", "--file=-", "--directory", root, *KEEP, "--one-file-system", "--sort=name", "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--use-compress-program=zstd -T0 -1",
        ".",
    )  # fmt: skip


def expand_argv(tarball: str) -> tuple[str, ...]:
    """Return the command that writes ``tarball``, without its compression, to its standard output."""
    return ("zstd", "--decompress", "--stdout", "--quiet", "--", tarball)

"""The rootfs tarball: GNU tar and zstd, which keep owners, modes, xattrs, capabilities, ACLs, links and devices."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.artifact.manifest import Manifest
from pipelines.errors import VirtrootError

#: The tarball's name in an artifact's directory.
TARBALL = "rootfs.tar.zst"

#: What every tar of a root needs, in either direction.
KEEP = ("--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner")


def pack_argv(root: str, epoch: int) -> tuple[str, ...]:
    """Return the command that writes the tarball of ``root`` to its standard output.

    Sorted, with times after ``epoch`` (seconds since 1970) clamped to it and no access times, so that equal roots
    give equal bytes.
    """
    return (
        "tar", "--create", "--file=-", "--directory", root, *KEEP, "--one-file-system", "--sort=name", "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", f"--mtime=@{epoch}", "--clamp-mtime",
        "--use-compress-program=zstd -T0 -3", ".",
    )  # fmt: skip


def unpack_argv(directory: str) -> tuple[str, ...]:
    """Return the command that unpacks a tarball from its standard input into the empty ``directory``."""
    return (
        "tar",
        "--extract",
        "--file=-",
        "--directory",
        directory,
        *KEEP,
        "--same-owner",
        "--preserve-permissions",
        "--zstd",
    )


def check(artifact: Path, manifest: Manifest) -> Path:
    """Return the artifact's tarball after comparing its sha256 with the manifest's; raises `VirtrootError`."""
    tarball = artifact / TARBALL
    try:
        with tarball.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise VirtrootError(f"no tarball at {tarball}: {error.strerror}", "build the artifact again") from error
    if digest != manifest.rootfs.sha256:
        raise VirtrootError(
            f"{tarball} is not what was built: sha256 {digest[:16]}…, the manifest says {manifest.rootfs.sha256[:16]}…",
            "build the artifact again, or copy it anew",
        )
    return tarball

"""overlayfs inside a guest: whether the guest's root can hold the upper directory."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.target.target import Target
from pipelines.text import split_lines, trim

# overlayfs stores a whiteout as such a device, and marks an opaque directory with such an attribute.
_PROBE = """
import os, stat, sys, tempfile
with tempfile.TemporaryDirectory(prefix=".overlayfs@", dir=sys.argv[1]) as scratch:
    os.mknod(os.path.join(scratch, "whiteout"), stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(scratch, "trusted.overlay.opaque", b"y")
"""


def refuse_unfit(target: Target, directory: str) -> None:
    """Raise `VirtrootError` if a root in ``directory`` on the target cannot hold upper directories of overlayfs.

    An overlay of the host cannot: it interprets whiteouts and these attributes as its own, and refuses to create them.
    """
    kind = trim(target.run(["stat", "--file-system", "--format=%T", directory]).text)
    why = "it lies on an overlay of the host, which refuses whiteouts"
    if kind != "overlayfs":
        probed = target.run([target.python, "-I", "-", directory], stdin=_PROBE.encode(), check=False)
        if not probed.returncode:
            return
        why = (split_lines(probed.complaint) or ["the file system refuses whiteouts"])[-1]
    raise VirtrootError(
        f"a guest in {directory} ({kind}) cannot use overlayfs: {why}",
        "install it into a pool on ext4, xfs or btrfs, or without --overlayfs",
    )


def refuse_layer(method: str) -> None:
    """Raise `VirtrootError` if a root made by the clone method ``method`` is an overlay of the host."""
    if method == "overlay":
        raise VirtrootError(
            "--clone overlay: a guest whose root is an overlay of the host cannot mount overlayfs on it: "
            "the host's overlayfs interprets what the guest's writes as its own",
            "use either --clone overlay or --overlayfs",
        )

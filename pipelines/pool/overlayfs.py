"""overlayfs inside a guest: whether its root can be the upper directory."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.target.target import Target
from pipelines.text import split_lines, trim

# A whiteout is such a device, and an opaque directory has such an attribute.
_PROBE = """
import os, stat, sys, tempfile
with tempfile.TemporaryDirectory(prefix=".overlayfs@", dir=sys.argv[1]) as scratch:
    os.mknod(os.path.join(scratch, "whiteout"), stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(scratch, "trusted.overlay.opaque", b"y")
"""


def refuse_unfit(target: Target, directory: str) -> None:
    """Raise `VirtrootError` where a root in ``directory`` on the target cannot hold upper directories.

    An overlay of the host's own is such a place: it takes whiteouts and those attributes for its own, and refuses them.
    """
    kind = trim(target.run(["stat", "--file-system", "--format=%T", directory]).text)
    why = "what overlayfs writes is refused by the host's own overlay beneath it"
    if kind != "overlayfs":
        probed = target.run([target.python, "-I", "-", directory], stdin=_PROBE.encode(), check=False)
        if not probed.returncode:
            return
        why = (split_lines(probed.complaint) or ["it does not take what overlayfs writes"])[-1]
    raise VirtrootError(
        f"a guest in {directory} ({kind}) cannot have overlayfs: {why}",
        "install it into a pool on ext4, xfs or btrfs, or without --overlayfs",
    )


def refuse_layer(way: str) -> None:
    """Raise `VirtrootError` where a root made by ``way``, one of `roots.WAYS`, is an overlay of the host's own."""
    if way == "overlay":
        raise VirtrootError(
            "--clone overlay: a guest whose root is an overlay on the host cannot mount overlayfs on it itself: "
            "the host's takes what the guest's writes for its own",
            "leave one of the two out",
        )

"""Owners of a system from a user namespace: how they are recognised and moved back."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin import owners
from pipelines.settings import CHECKOUT
from tests.support.trees import write

ROOTS = dict.fromkeys(owners.ASKED, (0, 0, 0o755))


def test_shifted_owners_are_refused_and_their_offset_is_found() -> None:
    owners.refuse_shifted(ROOTS)
    owners.refuse_shifted({**ROOTS, ".": (1000, 1000, 0o700), "usr/bin/mount": (0, 6, 0o4755)})
    shifted = {path: (100000, 100000, mode) for path, (_, _, mode) in ROOTS.items()}
    with pytest.raises(VirtrootError, match="shifted by 100000") as failed:
        owners.refuse_shifted({**shifted, ".": (0, 0, 0o755)})
    assert "--shift-ids" in failed.value.hint
    assert owners.get_offset("auto", shifted) == 100000
    assert owners.get_offset("165536", shifted) == 165536


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (dict.fromkeys(owners.ASKED, (1000, 1000, 0o755)), "everything belongs to user 1000"),
        ({"usr/bin/su": (1000, 0, 0o4755)}, "usr/bin/su belongs to user 1000"),
        ({"usr": (100000, 100000, 0o755)}, "usr belongs to user 100000"),
    ],
)
def test_owners_that_are_lost_are_refused(changed: dict[str, tuple[int, int, int]], why: str) -> None:
    with pytest.raises(VirtrootError, match=why):
        owners.refuse_shifted({**ROOTS, **changed})


@pytest.mark.parametrize("asked", ["", "0", "x", "-1", "1000", "99999999999"])
def test_an_invalid_offset_is_refused(asked: str) -> None:
    with pytest.raises(VirtrootError, match="not a number of at least 65536"):
        owners.get_offset(asked, ROOTS)
    with pytest.raises(VirtrootError, match="are not shifted"):
        owners.get_offset("auto", ROOTS)


def _acl(user: int) -> bytes:
    entries = (
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 6, user),
        (0x04, 5, 0xFFFFFFFF),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def shift(root: Path, offset: int) -> subprocess.CompletedProcess[str]:
    argv = ["python3", str(CHECKOUT / "containerfiles/debian/shift-owners"), str(root), str(offset)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """A tree as root of a user namespace left it: setuid, an ACL, a capability of that namespace, links."""
    root = tmp_path / "system"
    root.mkdir()
    su = write(root, "usr/su", "program")
    write(root, "usr/mine")
    ping = write(root, "usr/ping")
    (root / "usr/ping2").hardlink_to(ping)
    write(root, "usr/away", "->/etc/shadow")
    for path in [root, *root.rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    os.chown(root / "usr/mine", 101000, 100050)
    su.chmod(0o6755)
    os.utime(su, ns=(1_000_000_001, 1_000_000_001))
    os.setxattr(root / "usr/mine", "system.posix_acl_access", _acl(104242))
    os.setxattr(ping, "security.capability", struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 100000))
    return root


def test_shifted_owners_move_back_with_acls_capabilities_and_setuid(shifted: Path) -> None:
    shadow = Path("/etc/shadow").stat()
    assert shift(shifted, 100000).returncode == 0
    ids = {path.name: path.lstat()[4:6] for path in [shifted, *shifted.rglob("*")]}
    assert ids == {"system": (0, 0), "usr": (0, 0), "su": (0, 0), "mine": (1000, 50), "ping": (0, 0), "ping2": (0, 0),
                   "away": (0, 0)}  # fmt: skip
    su = (shifted / "usr/su").stat()
    assert (su.st_mode & 0o7777, su.st_mtime_ns) == (0o6755, 1_000_000_001)
    assert os.getxattr(shifted / "usr/mine", "system.posix_acl_access") == _acl(4242)
    capability = os.getxattr(shifted / "usr/ping2", "security.capability")
    assert capability == struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    assert Path("/etc/shadow").stat()[4:6] == shadow[4:6]


def test_a_tree_with_other_owners_is_not_changed(shifted: Path) -> None:
    os.chown(shifted / "usr/mine", 5, 5)
    done = shift(shifted, 100000)
    assert done.returncode == 1
    assert "usr/mine' has the id 5" in done.stderr
    assert (shifted / "usr/su").stat().st_uid == 100000


def test_a_tree_that_cannot_be_listed_completely_is_not_changed(shifted: Path) -> None:
    """Part of the tree is deeper than a path can name. Then no owner is changed, instead of some of them."""
    here = os.open(shifted, os.O_RDONLY)
    for _ in range(50):
        os.mkdir("d" * 100, dir_fd=here)
        os.chown("d" * 100, 100000, 100000, dir_fd=here)
        here, above = os.open("d" * 100, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    done = shift(shifted, 100000)
    assert done.returncode == 1
    assert "File name too long" in done.stderr
    assert (shifted / "usr/su").stat().st_uid == 100000
    subprocess.run(["rm", "-rf", "--", str(shifted)], check=True)

"""What is seen on libvirt's machine: facts alone, also of roots that guests spoilt."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin import signs
from pipelines.target import programs
from pipelines.target.target import Local


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root.web"
    for name in ("etc", "usr", "boot"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    (root / "etc/fstab").write_text("root / virtiofs defaults 0 0\n")
    (root / "boot/vmlinuz").write_bytes(b"kernel")
    (root / "vmlinuz").symlink_to("boot/vmlinuz")
    boot = tmp_path / "virtroot.web"
    boot.mkdir()
    (boot / "kernel").write_bytes(b"kernel")
    (boot / "kernel").chmod(0o640)
    return root


def seen(root: Path, **asked: Any) -> dict[str, Any]:
    guest = {"root": str(root), "boot": str(root.parent / "virtroot.web"), "kernel": "vmlinuz", "initrd": ""}
    guest |= {"shares": asked.pop("shares", [])}
    given = {"files": [], "directories": [], "locks": [], "guests": {"web": guest}, **asked}
    return programs.collect_facts(Local(), given)


def test_a_guest_that_is_sound(root: Path) -> None:
    said = seen(root)
    assert said["openat2"] is True
    web = said["guests"]["web"]
    assert (web["directory"], web["mode"], web["layers"], web["usr"]) == (True, 0o755, False, True)
    assert web["fstab"] == "root / virtiofs defaults 0 0\n"
    assert web["kernel"] == {"refused": "", "same": True}
    assert web["files"] == {"kernel": 0o640, "initrd": None}


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("/etc/passwd", "leaves the root"),
        ("../outside", "leaves the root"),
        ("vmlinuz", "is a loop"),
        ("gone", "no such"),
    ],
)
def test_a_kernel_that_is_not_the_roots_is_not_read(root: Path, link: str, why: str) -> None:
    (root.parent / "outside").write_bytes(b"kernel")
    (root / "vmlinuz").unlink()
    (root / "vmlinuz").symlink_to(link)
    kernel = seen(root)["guests"]["web"]["kernel"]
    assert why in kernel["refused"]
    assert kernel["same"] is None


def test_a_kernel_that_is_a_pipe_keeps_nobody_waiting(root: Path) -> None:
    (root / "boot/vmlinuz").unlink()
    os.mkfifo(root / "boot/vmlinuz")
    assert "not a regular file" in seen(root)["guests"]["web"]["kernel"]["refused"]


def test_a_kernel_that_was_changed_or_never_copied(root: Path) -> None:
    (root / "boot/vmlinuz").write_bytes(b"kernel, and more")
    assert seen(root)["guests"]["web"]["kernel"] == {"refused": "", "same": False}
    (root.parent / "virtroot.web/kernel").unlink()
    assert seen(root)["guests"]["web"]["kernel"] == {"refused": "", "same": None}


def test_an_fstab_and_a_usr_that_lead_to_the_hosts(root: Path) -> None:
    (root / "etc/fstab").unlink()
    (root / "etc/fstab").symlink_to("/etc/passwd")
    (root / "usr").rmdir()
    (root / "usr").symlink_to("etc")
    web = seen(root)["guests"]["web"]
    assert (web["fstab"], web["usr"]) == (None, False)


def test_a_root_that_is_gone_or_a_link(root: Path) -> None:
    root.rename(root.parent / "away")
    assert seen(root)["guests"]["web"]["missing"] is True
    root.symlink_to("away")
    web = seen(root)["guests"]["web"]
    assert web["directory"] is False
    assert "fstab" not in web


def test_shares_are_where_they_were_or_somewhere_else(root: Path) -> None:
    there, link, gone = (root.parent / name for name in ("there", "link", "gone"))
    there.mkdir()
    link.symlink_to("there")
    found = seen(root, shares=[str(there), str(link), str(gone)])["guests"]["web"]["shares"]
    assert found == {str(there): str(there), str(link): str(there), str(gone): ""}


def test_directories_and_files_as_they_are(root: Path) -> None:
    pool = root.parent
    (pool / "file").write_bytes(b"")
    (pool / "closed/inside").mkdir(parents=True)
    (pool / "closed").chmod(0o700)
    paths = [str(pool), str(pool / "closed/inside"), str(pool / "gone")]
    said = seen(root, directories=paths, files=[str(pool / "file"), str(pool / "gone")])
    found, inside, gone = (said["directories"][path] for path in paths)
    assert ["root.web", True] in found["entries"]
    assert ["file", False] in found["entries"]
    assert found["kind"]
    assert found["size"] >= found["free"] > 0
    assert str(inside["closed_above"]) in {str(each) for each in (pool / "closed").parents} | {str(pool / "closed")}
    assert gone is None
    assert said["files"][str(pool / "gone")] is None
    assert said["files"][str(pool / "file")]["sha256"].startswith("e3b0c442")


def test_who_holds_a_lock_is_seen_without_taking_it(root: Path) -> None:
    locks = root.parent / "locks"
    locks.mkdir()
    for name in ("held", "free"):
        (locks / name).touch()
    with (locks / "held").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert seen(root, locks=[str(locks), str(root.parent / "gone")])["held"] == [str(locks / "held")]
    assert seen(root, locks=[str(locks)])["held"] == []


def test_nothing_is_changed_by_looking(root: Path) -> None:
    def state() -> str:
        paths = sorted(root.parent.rglob("*"))
        return json.dumps([[str(path), path.lstat().st_mode, path.lstat().st_ctime_ns] for path in paths])

    before = state()
    seen(root, directories=[str(root.parent)], locks=[str(root.parent)])
    assert state() == before


def test_a_machine_without_python_is_an_error_with_what_to_do() -> None:
    with pytest.raises(VirtrootError, match="cannot collect facts") as error:
        programs.collect_facts(Local(python="false"), {})
    assert "python3" in error.value.hint


def test_what_is_left_of_where_a_system_came_from_is_seen(root: Path) -> None:
    (root / "usr/sbin").mkdir()
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "etc/initramfs-tools/conf.d").mkdir(parents=True)
    (root / "etc/initramfs-tools/conf.d/driver-policy").write_text("MODULES=dep\n")
    # The guest's own link, and a pipe that nothing may wait for.
    (root / "etc/environment").symlink_to("/etc/environment")
    os.mkfifo(root / "etc/initramfs-tools/update-initramfs.conf")
    queries = {sign.name: sign.query for sign in signs.SIGNS if sign.remedy}
    guest = {"root": str(root), "boot": str(root.parent / "virtroot.web"), "kernel": "vmlinuz", "initrd": ""}
    asked = {"files": [], "directories": [], "locks": [], "guests": {"web": {**guest, "shares": [], "signs": queries}}}
    its = programs.collect_facts(Local(), asked)["guests"]["web"]
    assert its["signs"] == {
        "policy": [["usr/sbin/policy-rc.d", ["exit 101"]]],
        "modules-of-a-machine": [["etc/initramfs-tools/conf.d/driver-policy", ["MODULES=dep"]]],
    }

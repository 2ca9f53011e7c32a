"""Findings about a guest: its root, fstab, kernel copy, shares and virtiofsd."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest

from pipelines.errors import VirtrootError
from pipelines.health import guest_checks
from pipelines.libvirt import wrappers
from pipelines.pool import exposure, place
from pipelines.pool.shares import Share
from tests.support.definitions import parsed
from tests.support.guests import make_source
from tests.support.sound import (
    ACL_WRAPPER,
    BINARY,
    DEFINITION,
    DIRECTORY,
    POOL,
    make_facts,
    make_guest_facts,
    make_sound_guest,
)


@pytest.mark.parametrize(
    ("path", "release", "ok", "needed"),
    [
        ("", "6.12.1", False, False),
        (ACL_WRAPPER, "6.12.1", True, False),
        (ACL_WRAPPER, "", True, False),
        ("/opt/mine", "6.12.1", True, False),
        # A daemon before 1.14 insists on ACLs, which this kernel does not know.
        (ACL_WRAPPER, "5.10.0", False, True),
        (f"{wrappers.DIRECTORY}/virtiofsd-plain", "6.1.0", False, False),
        (wrappers.FORMER, "6.1.0", False, False),
    ],
)
def test_a_guest_must_name_the_wrapper_of_its_kernel(path: str, release: str, ok: bool, needed: bool) -> None:
    binary = f'<binary path="{path}"/>' if path else ""
    definition = parsed(DEFINITION.replace(BINARY, binary))
    found = guest_checks.judge_wrapper(make_sound_guest(), definition, make_guest_facts(release=release), handles=False)
    assert (found.ok, found.needed, found.fix is None) == (ok, needed, ok)
    assert (
        not guest_checks.judge_wrapper(
            make_sound_guest(), definition, make_guest_facts(release="6.12"), handles=True
        ).ok
        or path == "/opt/mine"
    )


@pytest.mark.parametrize(
    ("facts", "needed", "mended", "words"),
    [
        ({"directory": False, "missing": True}, True, False, "is missing"),
        ({"directory": False}, True, False, "is not a directory"),
        ({"uid": 1000}, True, False, "user 1000"),
        ({"mode": 0o777}, True, True, "0777"),
        ({"mode": 0o700}, True, True, "0700"),
    ],
)
def test_a_root_must_be_a_directory_of_user_root_with_mode_0755(
    facts: dict[str, Any], needed: bool, mended: bool, words: str
) -> None:
    (found,) = guest_checks.judge_root(make_sound_guest(), make_guest_facts(**facts))
    assert (found.ok, found.needed, bool(found.fix)) == (False, needed, mended)
    assert words in found.says


def test_remains_of_the_source_system_are_named_with_an_instruction() -> None:
    assert guest_checks.judge_signs(make_sound_guest(), make_guest_facts()) == []
    shown = {
        "policy": [["usr/sbin/policy-rc.d", ["exit 101"]]],
        "no-update": [["etc/x.conf", []]],
        "cloud-init": [["a", []]],
    }
    found = guest_checks.judge_signs(make_sound_guest(), make_guest_facts(signs=shown))
    assert [(each.name, each.ok, each.needed) for each in found] == [
        ("cloud-init", False, False), ("policy", False, False), ("no-update", False, False),
    ]  # fmt: skip
    assert [each.says for each in found] == [
        "left of a cloud: a", "left of a build environment: usr/sbin/policy-rc.d",
        "the next kernel will not boot: etc/x.conf",
    ]  # fmt: skip
    assert all("in the guest" in each.do for each in found)


def test_unmounted_layers_are_a_fault_with_a_fix() -> None:
    (found,) = guest_checks.judge_root(
        make_sound_guest(source=replace(make_source(), lower="1", golden=f"{POOL}/golden.a")),
        make_guest_facts(mode=0o700),
    )
    assert (found.ok, found.needed) == (False, False)
    assert found.fix


@pytest.mark.parametrize(
    ("fstab", "needed", "words"),
    [
        (None, True, "missing or not readable"),
        ("", True, "mounts nothing at /"),
        ("# root / virtiofs defaults 0 0\n", True, "mounts nothing at /"),
        ("/dev/sda1 / ext4 defaults 0 1\n", True, "/dev/sda1 / ext4"),
        ("root / virtiofs defaults\nroot / virtiofs ro\n", True, "root / virtiofs; root / virtiofs"),
        ("root / virtiofs defaults\nusr /usr virtiofs defaults\n", True, "mounts usr, a device"),
        ("root / virtiofs defaults\n", False, "share data"),
    ],
)
def test_an_fstab_that_does_not_boot_is_a_fault(fstab: str | None, needed: bool, words: str) -> None:
    found = guest_checks.judge_fstab(make_sound_guest(shares=(Share("data", "/srv"),)), make_guest_facts(fstab=fstab))
    assert (found.ok, found.needed) == (False, needed)
    assert words in found.says


@pytest.mark.parametrize(
    "text", ["root / virtiofs defaults 0 0\nold /mnt virtiofs nofail\n", "root\t/\tvirtiofs\n\nbad\n"]
)
def test_an_fstab_that_boots_is_not_a_fault(text: str) -> None:
    assert guest_checks.judge_fstab(make_sound_guest(), make_guest_facts(fstab=text)).ok


def test_a_guest_whose_usr_is_a_device_must_mount_it() -> None:
    assert not guest_checks.judge_fstab(make_sound_guest(cache="mixed"), make_guest_facts()).needed
    assert guest_checks.judge_fstab(
        make_sound_guest(cache="mixed"), make_guest_facts(fstab="root / virtiofs x\nusr /usr virtiofs x\n")
    ).ok
    assert guest_checks.judge_usr(make_sound_guest(), make_guest_facts(usr=False)) is None
    replaced = guest_checks.judge_usr(make_sound_guest(cache="mixed"), make_guest_facts(usr=False))
    assert replaced
    assert replaced.needed


@pytest.mark.parametrize(
    ("kernel", "files", "running", "needed", "mended"),
    [
        ({"refused": "vmlinuz: is a loop of links", "same": None}, 0o644, False, True, False),
        ({"refused": "", "same": False}, 0o644, False, False, True),
        ({"refused": "", "same": False}, 0o644, True, False, False),
        ({"refused": "", "same": None}, None, False, False, True),
    ],
)
def test_a_kernel_copy_that_is_refused_missing_or_old_is_a_fault(
    kernel: dict[str, Any], files: int | None, running: bool, needed: bool, mended: bool
) -> None:
    facts = make_guest_facts(kernel=kernel, files={"kernel": files, "initrd": None})
    (found,) = guest_checks.judge_kernel(make_sound_guest(), facts, running=running)
    assert (found.ok, found.needed, bool(found.fix)) == (False, needed, mended)


@pytest.mark.parametrize(
    ("facts", "above"),
    [({"boot": 0o700}, {}), ({"files": {"kernel": 0o400, "initrd": None}}, {}), ({}, {"mode": 0o700})],
)
def test_a_kernel_that_qemus_user_cannot_read_is_a_fault(facts: dict[str, Any], above: dict[str, Any]) -> None:
    there = {place.BOOT: {**DIRECTORY, "mode": 0o711, **above}}
    found = guest_checks.judge_boot_directory(
        make_sound_guest(), make_guest_facts(**facts), make_facts(directories=there)
    )
    assert found
    assert found.fix
    out_of_reach = {place.BOOT: {**DIRECTORY, "mode": 0o711, "closed_above": "/var/lib"}}
    # If libvirt does not change the owner of the file, QEMU's user needs a file that everybody can read.
    shared = make_facts(directories={place.BOOT: {**DIRECTORY, "mode": 0o711}}, boot_file_mode=0o644)
    assert not cast(Any, guest_checks.judge_boot_directory(make_sound_guest(), make_guest_facts(), shared)).ok
    assert cast(
        Any,
        guest_checks.judge_boot_directory(
            make_sound_guest(), make_guest_facts(files={"kernel": 0o644, "initrd": None}), shared
        ),
    ).ok
    closed = guest_checks.judge_boot_directory(
        make_sound_guest(), make_guest_facts(), make_facts(directories=out_of_reach)
    )
    assert closed
    assert (closed.do, closed.fix) == ("chmod o+x /var/lib", None)


def test_shares_that_are_missing_or_lead_elsewhere_are_a_fault() -> None:
    shared = make_sound_guest(shares=(Share("data", "/srv/data"),))
    for real, words in (("", "is missing"), ("/etc", "leads to /etc now")):
        found = guest_checks.judge_shares(shared, make_guest_facts(shares={"/srv/data": real}))
        assert found
        assert words in found.says
        assert "./inv unshare web data" in found.do
    there = guest_checks.judge_shares(shared, make_guest_facts(shares={"/srv/data": "/srv/data"}))
    assert there
    assert there.ok


def test_shares_that_other_users_can_enter_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    lies = exposure.Exposure(reached=True, nosuid_nodev=False, writers=())
    monkeypatch.setattr(exposure, "inspect", lambda _, directories: [lies for _ in directories])
    found = guest_checks.judge_exposure(
        make_sound_guest(shares=(Share("data", "/srv/data"), Share("r", "/srv/r", readonly=True)))
    )
    assert found
    assert (found.ok, found.needed) == (False, False)
    assert "enter /srv/data, and use setuid programs" in found.says
    assert guest_checks.judge_exposure(make_sound_guest(shares=(Share("r", "/srv/r", readonly=True),))) is None
    lies = replace(lies, nosuid_nodev=True)
    assert guest_checks.judge_exposure(make_sound_guest(shares=(Share("data", "/srv/data"),))) is None


@pytest.mark.parametrize(
    ("arguments", "ok"),
    [
        (["--fd=29", "-o", f"source={POOL}/root.web,cache=always,xattr"], True),
        (["--fd=29", "--shared-dir", f"{POOL}/root.web"], True),
        ([f"--shared-dir={POOL}/root.web"], True),
        (["-o", f"source={POOL}/root.web2,xattr"], False),
        (["-o", f"source={POOL}/root.web/usr"], False),
    ],
)
def test_a_running_guest_needs_a_virtiofsd_for_each_directory(arguments: list[str], ok: bool) -> None:
    facts = make_facts(virtiofsds=[{"arguments": arguments}])
    found = guest_checks.judge_virtiofsd(make_sound_guest(), parsed(DEFINITION), facts)
    assert found.ok is ok
    assert ok or "the guest hangs" in found.says


def test_a_fix_does_not_copy_the_kernel_of_a_running_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that was started meanwhile keeps the kernel that it booted."""
    running = make_sound_guest()
    cast(Any, running.target).run.return_value.text = "running"
    monkeypatch.setattr("pipelines.target.lock.on", lambda *_: nullcontext())
    monkeypatch.setattr("pipelines.guest.publication.finish_interrupted", lambda *_: None)
    monkeypatch.setattr("pipelines.guest.guest.get", lambda *_: running)
    facts = make_guest_facts(kernel={"refused": "", "same": False})
    (found,) = guest_checks.judge_kernel(running, facts, running=False)
    assert found.fix
    with pytest.raises(VirtrootError, match="the guest web is running"):
        found.fix.do()

"""Findings about libvirt's machine: QEMU, AppArmor, the hook, the wrappers and programs."""

from __future__ import annotations

import hashlib
from typing import Any, cast
from unittest.mock import create_autospec

import pytest

from pipelines.health import confinement, libvirt
from pipelines.health.finding import Finding
from pipelines.libvirt import host_files
from pipelines.target.target import Target
from tests.support.sound import ACL_WRAPPER, DIRECTORY, SEEN, make_facts

#: Debian's, and what an older one had.
PROFILE = """
profile libvirtd /usr/sbin/libvirtd flags=(attach_disconnected) {
  /usr/bin/* PUx,
  /usr/{lib,lib64,lib/qemu,libexec}/virtiofsd PUx,
  /etc/libvirt/hooks/** rmix,
  @{libexec}/anything PUx,
}
"""

CAPABLE = """<domainCapabilities><memoryBacking supported='yes'><enum name='sourceType'><value>{}</value></enum>
</memoryBacking><devices><filesystem supported='yes'><enum name='driverType'><value>path</value><value>{}</value></enum>
</filesystem></devices></domainCapabilities>"""


@pytest.mark.parametrize(
    ("said", "ok", "words"),
    [
        (CAPABLE.format("memfd", "virtiofs"), True, "both"),
        (CAPABLE.format("file", "virtiofs"), False, "no memfd"),
        (CAPABLE.format("file", "mtp"), False, "no memfd and no virtiofs"),
        ("<domainCapabilities/>", True, "both"),
        ("", False, "does not report"),
    ],
)
def test_qemu_needs_memfd_and_virtiofs(said: str, ok: bool, words: str) -> None:
    found = libvirt.judge_devices(said)
    assert found.ok is ok
    assert words in found.says


def test_apparmor_allows_what_its_profile_allows() -> None:
    assert confinement.is_run_allowed([PROFILE], host_files.WRAPPER)
    assert confinement.is_run_allowed([PROFILE], "/usr/lib/qemu/virtiofsd")
    assert not confinement.is_run_allowed([PROFILE], "/usr/lib/virtiofsd+sys_admin")
    assert not confinement.is_run_allowed([PROFILE], "/usr/bin/below/it")
    assert not confinement.is_run_allowed(["  /etc/libvirt/hooks/** r,"], host_files.WRAPPER)
    assert not confinement.is_run_allowed(
        ["  # /etc/libvirt/hooks/** rmix,", "  /etc/libvirt/[ rmix,"], host_files.WRAPPER
    )


def test_a_wrapper_that_apparmor_denies_is_a_fault() -> None:
    def found(profiles: dict[str, str], *, on: bool = True) -> Finding:
        return libvirt.judge_security(make_facts(security={"apparmor": on, "selinux": "", "profiles": profiles}))

    closed = found({"/etc/apparmor.d/usr.sbin.libvirtd": "  /usr/bin/* PUx,"})
    assert not closed.ok
    assert f"add to /etc/apparmor.d/local/usr.sbin.libvirtd: {host_files.WRAPPER} rmix," in closed.do
    assert found({"/etc/apparmor.d/usr.sbin.libvirtd": PROFILE}).ok
    assert found({}).ok
    assert found({"/etc/apparmor.d/usr.sbin.libvirtd": ""}, on=False).ok
    assert (
        "enforces"
        in libvirt.judge_security(make_facts(security={"apparmor": False, "selinux": "1", "profiles": {}})).says
    )


def test_a_hook_that_is_missing_old_or_not_executable_is_a_fault() -> None:
    right = {"sha256": hashlib.sha256(host_files.hook()).hexdigest(), "mode": 0o755}
    target = create_autospec(Target)

    def found(file: dict[str, Any] | None) -> Finding:
        return libvirt.judge_hook(target, make_facts(files={host_files.HOOK: file}))

    assert found(right).ok
    for file in (None, {**right, "sha256": "0"}, {**right, "mode": 0o644}):
        wrong = found(file)
        assert not wrong.ok
        assert wrong.fix
    target.run.assert_not_called()


def test_a_missing_wrapper_is_a_fault_if_a_guest_uses_it() -> None:
    target = create_autospec(Target)
    right = {"sha256": hashlib.sha256(host_files.wrapper()).hexdigest(), "mode": 0o755}
    facts = make_facts(files={host_files.WRAPPER: None, ACL_WRAPPER: right})
    assert libvirt.judge_wrapper(target, facts, {}).ok
    assert libvirt.judge_wrapper(target, facts, {"": ["old"], ACL_WRAPPER: ["web"]}).ok
    wrong = libvirt.judge_wrapper(target, facts, {host_files.WRAPPER: ["web", "db"], ACL_WRAPPER: ["new"]})
    assert not wrong.ok
    assert f"{host_files.WRAPPER} is missing, used by web, db" in wrong.says
    assert "new" not in wrong.says
    assert wrong.fix


def test_a_hook_that_is_newer_than_libvirts_daemon_is_a_fault() -> None:
    def found(changed: float, since: float, *, embedded: bool = False) -> Finding:
        daemons = [{"name": "virtqemud", "since": since}]
        directories = {libvirt.HOOKS: {**DIRECTORY, "changed": changed}}
        return libvirt.judge_hook_loaded(make_facts(daemons=daemons, directories=directories), embedded=embedded)

    assert found(1, since=2).ok
    late = found(2, since=1)
    assert (late.ok, late.needed) == (False, False)
    assert "systemctl restart virtqemud" in late.do
    assert found(2, since=1, embedded=True).ok
    assert libvirt.judge_hook_loaded(SEEN, embedded=False).ok


def test_missing_programs_are_named() -> None:
    there = cast("dict[str, str]", SEEN["programs"])
    found = libvirt.judge_programs(make_facts(programs={**there, "flock": "", "zstd": ""}))
    assert (found.says, found.do) == ("missing: zstd, flock", "install there: zstd util-linux")
    assert not libvirt.judge_sandbox(make_facts(programs={})).needed
    assert not libvirt.judge_openat2(make_facts(openat2=False)).ok

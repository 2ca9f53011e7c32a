"""What is a fault and what is not, judged on made-up facts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast
from unittest.mock import create_autospec

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.health import confinement, daemon, finding, guest_checks, leftovers, libvirt, machine, storage
from pipelines.health import definition as definitions
from pipelines.health.daemon import Trial
from pipelines.health.finding import Finding
from pipelines.libvirt import host_files, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import NO_HANDLES, Wrapper
from pipelines.pool import clone_methods, exposure, place
from pipelines.pool.shares import Share
from pipelines.settings import Settings
from pipelines.target.target import Target
from tests.support.definitions import parsed
from tests.support.guests import make_guest, make_source
from tests.support.sound import BINARY, DEFINITION, DIRECTORY, POOL, SEEN, WEB

RUST = """Launch a virtiofsd backend.

      --shared-dir <SHARED_DIR>
      --sandbox <SANDBOX>
      --readonly
      --inode-file-handles=<INODE_FILE_HANDLES>
      --cache <CACHE>
          The caching policy the file system should use (auto, always, never, metadata)

          [default: auto]
      --modcaps <MODCAPS>
  -o <COMPAT_OPTIONS>
"""

C = """usage: virtiofsd [options]
    --socket-path=PATH         path for the vhost-user socket
    -o cache=<mode>            cache mode. could be one of "auto, always, none"
                               default: auto
    -o modcaps=CAPLIST         Modify the list of capabilities
    -o sandbox=namespace|chroot
"""

ACL = Wrapper(acl=True).path

#: What 1.14 says where it cannot have CAP_DAC_READ_SEARCH.
CAPABILITIES = "can't apply the child capabilities: failed to sync capabilities with the kernel"

#: Debian's, and what an older one had.
PROFILE = """
profile libvirtd /usr/sbin/libvirtd flags=(attach_disconnected) {
  /usr/bin/* PUx,
  /usr/{lib,lib64,lib/qemu,libexec}/virtiofsd PUx,
  /etc/libvirt/hooks/** rmix,
  @{libexec}/anything PUx,
}
"""


def guest(**changed: Any) -> Guest:
    hypervisor = Hypervisor(create_autospec(Target))
    return make_guest(hypervisor, artifact="a/1", **{"uuid": WEB, "root": f"{POOL}/root.web", **changed})


def its(**changed: Any) -> dict[str, Any]:
    return {**cast("dict[str, Any]", SEEN["guests"])["web"], **changed}


def seen(**changed: Any) -> dict[str, Any]:
    return {**SEEN, **changed}


# virtiofsd


def test_the_families_of_virtiofsd_and_what_each_can() -> None:
    rust = daemon.parse("/usr/libexec/virtiofsd", "virtiofsd 1.13.2\n", RUST)
    assert (rust.family, rust.version) == (daemon.RUST, "1.13.2")
    assert rust.abilities == ("readonly", "modcaps", "sandbox", "inode-file-handles")
    assert rust.caches == ("auto", "always", "metadata", "never")
    old = daemon.parse("/usr/lib/qemu/virtiofsd", "virtiofsd version 7.2.9 (Debian 1:7.2)\nusing FUSE 7.31", C)
    assert (old.family, old.version) == (daemon.C, "7.2.9")
    assert old.abilities == ("modcaps", "sandbox")
    assert old.caches == ("auto", "always", "none")


def test_a_virtiofsd_that_is_missing_or_cannot_keep_capabilities() -> None:
    (missing,) = libvirt.judge_virtiofsd(None, {}, {})
    assert (missing.ok, missing.needed) == (False, True)
    serves = {ACL: Trial(True, "")}
    (bare,) = libvirt.judge_virtiofsd(daemon.parse("/v", "virtiofsd 1.2.0", "--shared-dir"), serves, {})
    assert (bare.ok, bare.needed) == (False, False)
    (right,) = libvirt.judge_virtiofsd(daemon.parse("/v", "virtiofsd 1.13.2", RUST), serves, {})
    assert right.ok


def test_a_virtiofsd_that_does_not_start_is_not_in_order() -> None:
    found = daemon.parse("/v", "virtiofsd 1.14.0", RUST)
    refused = Trial(False, f"[2026-11-30T08:58:32Z WARN  virtiofsd::limits] x\n[z ERROR virtiofsd] {CAPABILITIES}\n")
    (alone,) = libvirt.judge_virtiofsd(found, {ACL: Trial(True, ""), "": refused}, {ACL: ["new"], "": ["web", "db"]})
    assert (alone.ok, alone.needed) == (False, True)
    assert alone.says == f"/v 1.14.0 does not start without virtroot's wrapper: {CAPABILITIES}"
    assert "run doctor with --fix: web, db will use the wrapper" in alone.do
    (by_wrapper,) = libvirt.judge_virtiofsd(found, {ACL: refused}, {})
    assert (by_wrapper.ok, by_wrapper.needed) == (False, True)
    assert f'./inv help "{CAPABILITIES}"' in by_wrapper.do
    (silent,) = libvirt.judge_virtiofsd(found, {ACL: Trial(False, "")}, {})
    assert "it prints nothing" in silent.says
    (handles,) = libvirt.judge_virtiofsd(found, {ACL: Trial(True, f"{NO_HANDLES}, so it uses none\n")}, {})
    assert (handles.ok, handles.needed) == (False, False)
    assert "inode_file_handles" in handles.do


@pytest.mark.parametrize(
    ("connect", "answers", "needed"),
    [
        ("auto", True, False),
        ("qemu:///system", True, False),
        ("auto", False, True),
        ("qemu:///system", False, True),
        ("embedded", True, True),
    ],
)
def test_an_engine_is_needed_where_guests_run_in_one(
    monkeypatch: pytest.MonkeyPatch, connect: str, answers: bool, needed: bool
) -> None:
    def refuse() -> None:
        raise VirtrootError("no Docker engine answers", "run ./inv setup")

    monkeypatch.setattr("pipelines.engine.engine.connect", refuse)
    monkeypatch.setattr("pipelines.libvirt.connect.is_host_answering", lambda: answers)
    found = machine._judge_engine(Settings(connect=connect))
    assert (found.ok, found.needed) == (False, needed)
    assert ("only builds and imports need one" in found.says) is not needed


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ([], "Unable to find a satisfying virtiofsd"),
        ([{"path": "/a.json", "binary": "/gone", "runs": False}], "/a.json describes /gone, which cannot be run"),
    ],
)
def test_libvirt_finds_virtiofsd_by_its_description(described: list[Any], says: str) -> None:
    found = libvirt.judge_description(seen(descriptions=described))
    assert says in found.says
    assert "50-virtiofsd.json" in found.do
    assert libvirt.judge_description(SEEN).ok


# libvirt's machine


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
def test_what_libvirts_qemu_can(said: str, ok: bool, words: str) -> None:
    found = libvirt.judge_devices(said)
    assert found.ok is ok
    assert words in found.says


def test_apparmor_lets_run_what_its_profile_says() -> None:
    assert confinement.is_run_allowed([PROFILE], host_files.WRAPPER)
    assert confinement.is_run_allowed([PROFILE], "/usr/lib/qemu/virtiofsd")
    assert not confinement.is_run_allowed([PROFILE], "/usr/lib/virtiofsd+sys_admin")
    assert not confinement.is_run_allowed([PROFILE], "/usr/bin/below/it")
    assert not confinement.is_run_allowed(["  /etc/libvirt/hooks/** r,"], host_files.WRAPPER)
    assert not confinement.is_run_allowed(
        ["  # /etc/libvirt/hooks/** rmix,", "  /etc/libvirt/[ rmix,"], host_files.WRAPPER
    )


def test_a_wrapper_that_apparmor_does_not_let_run() -> None:
    def found(profiles: dict[str, str], *, on: bool = True) -> Finding:
        return libvirt.judge_security(seen(security={"apparmor": on, "selinux": "", "profiles": profiles}))

    closed = found({"/etc/apparmor.d/usr.sbin.libvirtd": "  /usr/bin/* PUx,"})
    assert not closed.ok
    assert f"add to /etc/apparmor.d/local/usr.sbin.libvirtd: {host_files.WRAPPER} rmix," in closed.do
    assert found({"/etc/apparmor.d/usr.sbin.libvirtd": PROFILE}).ok
    assert found({}).ok
    assert found({"/etc/apparmor.d/usr.sbin.libvirtd": ""}, on=False).ok
    assert "enforces" in libvirt.judge_security(seen(security={"apparmor": False, "selinux": "1", "profiles": {}})).says


def test_a_hook_that_is_missing_old_or_not_run() -> None:
    right = {"sha256": hashlib.sha256(host_files.hook()).hexdigest(), "mode": 0o755}
    target = create_autospec(Target)

    def found(file: dict[str, Any] | None) -> Finding:
        return libvirt.judge_hook(target, seen(files={host_files.HOOK: file}))

    assert found(right).ok
    for file in (None, {**right, "sha256": "0"}, {**right, "mode": 0o644}):
        wrong = found(file)
        assert not wrong.ok
        assert wrong.fix
    target.run.assert_not_called()


def test_a_wrapper_matters_where_a_guest_names_it() -> None:
    target = create_autospec(Target)
    right = {"sha256": hashlib.sha256(host_files.wrapper()).hexdigest(), "mode": 0o755}
    facts = seen(files={host_files.WRAPPER: None, ACL: right})
    assert libvirt.judge_wrapper(target, facts, {}).ok
    assert libvirt.judge_wrapper(target, facts, {"": ["old"], ACL: ["web"]}).ok
    wrong = libvirt.judge_wrapper(target, facts, {host_files.WRAPPER: ["web", "db"], ACL: ["new"]})
    assert not wrong.ok
    assert f"{host_files.WRAPPER} is missing, used by web, db" in wrong.says
    assert "new" not in wrong.says
    assert wrong.fix


@pytest.mark.parametrize(
    ("path", "release", "ok", "needed"),
    [
        ("", "6.12.1", False, False),
        (ACL, "6.12.1", True, False),
        (ACL, "", True, False),
        ("/opt/mine", "6.12.1", True, False),
        # A daemon before 1.14 insists on ACLs, which this kernel does not know.
        (ACL, "5.10.0", False, True),
        (f"{wrappers.DIRECTORY}/virtiofsd-plain", "6.1.0", False, False),
        (wrappers.FORMER, "6.1.0", False, False),
    ],
)
def test_a_guest_names_the_wrapper_of_its_kernel(path: str, release: str, ok: bool, needed: bool) -> None:
    binary = f'<binary path="{path}"/>' if path else ""
    definition = parsed(DEFINITION.replace(BINARY, binary))
    found = guest_checks.judge_wrapper(guest(), definition, its(release=release), handles=False)
    assert (found.ok, found.needed, found.fix is None) == (ok, needed, ok)
    assert (
        not guest_checks.judge_wrapper(guest(), definition, its(release="6.12"), handles=True).ok or path == "/opt/mine"
    )


def test_a_hook_that_libvirts_daemon_may_not_know_of() -> None:
    def found(changed: float, since: float, *, embedded: bool = False) -> Finding:
        daemons = [{"name": "virtqemud", "since": since}]
        directories = {libvirt.HOOKS: {**DIRECTORY, "changed": changed}}
        return libvirt.judge_hook_loaded(seen(daemons=daemons, directories=directories), embedded=embedded)

    assert found(1, since=2).ok
    late = found(2, since=1)
    assert (late.ok, late.needed) == (False, False)
    assert "systemctl restart virtqemud" in late.do
    assert found(2, since=1, embedded=True).ok
    assert libvirt.judge_hook_loaded(SEEN, embedded=False).ok


def test_how_many_files_virtiofsd_may_have_open() -> None:
    def found(*, embedded: bool = False, **facts: Any) -> Finding:
        return libvirt.judge_open_files(seen(**{"daemons": [], "virtiofsds": [], **facts}), embedded=embedded)

    serving = {"pid": 7, "files": 1000000, "open": 900000}
    assert found(virtiofsds=[{**serving, "open": 10}]).ok
    assert "process 7" in found(virtiofsds=[serving]).says
    assert found(virtiofsds=[serving]).needed
    bounded = {"name": "libvirtd", "most": 8192, "raises": False}
    assert "8192" in found(daemons=[bounded]).says
    assert "LimitNOFILE" in found(daemons=[bounded]).do
    assert "default-ulimits" in found(daemons=[bounded], embedded=True).do
    assert found(daemons=[{**bounded, "raises": True}]).ok
    assert found(virtiofsds=[{**serving, "files": None, "open": None}]).ok


def test_programs_that_are_missing() -> None:
    there = cast("dict[str, str]", SEEN["programs"])
    found = libvirt.judge_programs(seen(programs={**there, "flock": "", "zstd": ""}))
    assert (found.says, found.do) == ("missing: zstd, flock", "install there: zstd util-linux")
    assert not libvirt.judge_sandbox(seen(programs={})).needed
    assert not libvirt.judge_openat2(seen(openat2=False)).ok


# The pool


def nothing() -> None:
    raise AssertionError("looking does nothing")


@pytest.mark.parametrize(
    ("facts", "ok", "needed", "mended"),
    [
        ({}, True, False, False),
        ({"mode": 0o755, "entries": [[".virtroot", False]]}, False, True, True),
        ({"mode": 0o755}, False, False, False),
        ({"mode": 0o711, "uid": 1000, "entries": [[".virtroot", False]]}, False, False, False),
    ],
)
def test_only_a_pool_that_virtroot_made_is_closed(facts: dict[str, Any], ok: bool, needed: bool, mended: bool) -> None:
    found = storage.judge_mode(POOL, {**DIRECTORY, **facts}, nothing)
    assert (found.ok, found.needed, bool(found.fix)) == (ok, needed, mended)


@pytest.mark.parametrize(
    ("kind", "ok", "needed", "words"),
    [
        ("ext4", True, False, "overlay, copy"),
        ("xfs", True, False, "reflink, overlay, copy"),
        ("btrfs", True, False, "snapshot, reflink, copy"),
        ("tmpfs", False, False, "loses its content when the machine is off"),
        ("vfat", False, True, "owners"),
        ("nfs4", False, False, "file capabilities"),
    ],
)
def test_file_systems_are_told_by_their_type(kind: str, ok: bool, needed: bool, words: str) -> None:
    found = storage.judge_type(POOL, {**DIRECTORY, "kind": kind}, btrfs=True)
    assert (found.ok, found.needed) == (ok, needed)
    assert words in found.says
    assert clone_methods.guess_methods("btrfs", btrfs=False) == ["reflink", "copy"]


@pytest.mark.parametrize(
    ("options", "ok", "needed"),
    [(["rw", "nosuid", "nodev"], True, False), (["rw", "noexec"], False, False), (["ro"], False, True)],
)
def test_mount_options_that_reach_no_guest_are_no_fault(options: list[str], ok: bool, needed: bool) -> None:
    found = storage.judge_options(POOL, {**DIRECTORY, "options": options})
    assert (found.ok, found.needed) == (ok, needed)


@pytest.mark.parametrize(
    ("free", "total", "ok"),
    [(2 << 30, 16 << 30, True), (1 << 29, 2 << 30, False), (3 << 30, 100 << 30, False), (0, 0, True)],
)
def test_a_gibibyte_and_a_twentieth_are_to_be_free(free: int, total: int, ok: bool) -> None:
    assert finding.is_scarce(free, total) is not ok
    assert storage.judge_space(POOL, {**DIRECTORY, "free": free, "size": total}).ok is ok


def test_inodes_that_run_out_and_file_systems_that_have_none_to_count() -> None:
    assert not storage.judge_space(POOL, {**DIRECTORY, "free_inodes": 5000}).ok
    assert storage.judge_space(POOL, {**DIRECTORY, "free_inodes": 0, "inodes": 0}).ok


@pytest.mark.parametrize(
    ("info", "ok"), [("State: running\nAutostart: yes", True), ("State: inactive", False), ("", False)]
)
def test_a_pool_is_active_and_starts_with_libvirt(info: str, ok: bool) -> None:
    assert storage.judge_state(info, POOL, nothing).ok is ok


# What is nobody's


def hypervisor(naming: Callable[[str], list[Any]] = lambda _: []) -> Hypervisor:
    made = create_autospec(Hypervisor, instance=True)
    made.find_domains_using.side_effect = naming
    return cast(Hypervisor, made)


def with_entries(pool: list[str], boot: list[str], held: list[str] | None = None) -> dict[str, Any]:
    directories = {
        POOL: {**DIRECTORY, "entries": [[name, True] for name in pool]},
        place.BOOT: {**DIRECTORY, "entries": [[name, True] for name in boot]},
    }
    return seen(directories=directories, held=held or [])


def test_what_killed_tasks_left_and_what_one_at_work_has() -> None:
    pool = ["root.web", ".root.web@1", ".root.busy@2", ".golden.a.0123456789abcdef@3", ".virtroot", ".other@4"]
    found = leftovers.judge_leftovers(
        hypervisor(), POOL, with_entries(pool, [".virtroot.gone@5"], [place.lock("busy")])
    )
    assert found.says == (
        f"left {POOL}/.root.web@1, {place.BOOT}/.virtroot.gone@5, {POOL}/.golden.a.0123456789abcdef@3"
    )
    assert found.fix
    at_work = [place.BOOT, place.base_tree_lock("a.0123456789abcdef"), f"{POOL}/.root.web@journal"]
    quiet = with_entries([".root.web@journal", pool[3]], [".virtroot.gone@5"], at_work)
    assert leftovers.judge_leftovers(hypervisor(), POOL, quiet).ok


def test_a_boot_directory_is_nobodys_when_neither_domain_nor_root_is_there() -> None:
    facts = with_entries(["root.web", "root.kept", "snapshots.old"], [f"virtroot.{name}" for name in NAMES])
    named = hypervisor(lambda path: ["somebody"] if path == place.boot("named") else [])
    found = leftovers.judge_boot_directories(named, POOL, facts, [guest()])
    assert found.says == f"{place.boot('ghost')} without a domain"
    assert found.fix
    assert leftovers.judge_boot_directories(named, POOL, with_entries([], ["virtroot.web", "other"]), [guest()]).ok


NAMES = ("web", "kept", "old", "named", "ghost")


def test_a_root_without_a_domain_is_said_and_left_alone() -> None:
    facts = with_entries(["root.web", "snapshots.web", "former.gone", "root.named", "share.data"], [])
    named = hypervisor(lambda path: ["somebody"] if path.endswith("root.named") else [])
    found = leftovers.judge_roots(named, POOL, facts, [guest()])
    assert found.says == f"{POOL}/former.gone without a domain"
    assert found.fix is None


def test_a_mount_that_is_no_guests() -> None:
    mounts = [[f"{POOL}/root.web", "overlay"], [f"{POOL}/root.gone", "overlay"], [f"{POOL}/.root.x@1", "overlay"]]
    facts = {**with_entries([], []), "mounts": [*mounts, ["/", "overlay"]]}
    assert (
        leftovers.judge_mounts(POOL, facts, [guest(source=replace(make_source(), lower="1"))]).says
        == f"{POOL}/root.gone without a guest"
    )
    assert leftovers.judge_mounts(
        POOL, {**facts, "mounts": mounts[:1]}, [guest(source=replace(make_source(), lower="1"))]
    ).ok


# A guest


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('<access mode="shared"/>', "", "memory"),
        ('<source type="memfd"/>', "", "memory"),
        ('<target dir="root"/>', '<target dir="other"/>', "root's device"),
        ('type="virtiofs"', 'type="path"', "root's device"),
        (f'dir="{POOL}/root.web"', 'dir="/srv"', "root's device"),
        ("</filesystem>", '<binary><lock posix="on"/></binary></filesystem>', "lock"),
        (f"<kernel>{place.boot('web')}/kernel", f"<kernel>{POOL}/root.web/vmlinuz", "boot paths"),
        ("</kernel><cmdline>", "</kernel><initrd>/x</initrd><cmdline>", "boot paths"),
        ("root=root ", "root=/dev/root ", "cmdline"),
    ],
)
def test_definitions_that_do_not_boot(old: str, new: str, name: str) -> None:
    assert DEFINITION.count(old) >= 1
    (found,) = definitions.judge(guest(), parsed(DEFINITION.replace(old, new)))
    assert (found.ok, found.name) == (False, name)
    assert found.do.startswith("virsh edit web: ")
    (right,) = definitions.judge(guest(), parsed(DEFINITION))
    assert right.ok


def test_memory_shared_cell_by_cell_is_shared() -> None:
    cells = DEFINITION.replace(
        '<memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>',
        '<cpu><numa><cell memAccess="shared"/></numa></cpu>',
    )
    (found,) = definitions.judge(guest(), parsed(cells))
    assert found.ok


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
def test_a_root_is_a_directory_of_roots_with_mode_0755(
    facts: dict[str, Any], needed: bool, mended: bool, words: str
) -> None:
    (found,) = guest_checks.judge_root(guest(), its(**facts))
    assert (found.ok, found.needed, bool(found.fix)) == (False, needed, mended)
    assert words in found.says


def test_what_is_left_of_where_a_system_came_from_is_named_with_what_to_do() -> None:
    assert guest_checks.judge_signs(guest(), its()) == []
    shown = {
        "policy": [["usr/sbin/policy-rc.d", ["exit 101"]]],
        "no-update": [["etc/x.conf", []]],
        "cloud-init": [["a", []]],
    }
    found = guest_checks.judge_signs(guest(), its(signs=shown))
    assert [(each.name, each.ok, each.needed) for each in found] == [
        ("cloud-init", False, False), ("policy", False, False), ("no-update", False, False),
    ]  # fmt: skip
    assert [each.says for each in found] == [
        "left of a cloud: a", "left of a build environment: usr/sbin/policy-rc.d",
        "the next kernel will not boot: etc/x.conf",
    ]  # fmt: skip
    assert all("in the guest" in each.do for each in found)


def test_layers_that_are_not_mounted_are_no_root_yet() -> None:
    (found,) = guest_checks.judge_root(
        guest(source=replace(make_source(), lower="1", golden=f"{POOL}/golden.a")), its(mode=0o700)
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
def test_an_fstab_that_no_virtiofs_root_boots_with(fstab: str | None, needed: bool, words: str) -> None:
    found = guest_checks.judge_fstab(guest(shares=(Share("data", "/srv"),)), its(fstab=fstab))
    assert (found.ok, found.needed) == (False, needed)
    assert words in found.says


@pytest.mark.parametrize(
    "text", ["root / virtiofs defaults 0 0\nold /mnt virtiofs nofail\n", "root\t/\tvirtiofs\n\nbad\n"]
)
def test_an_fstab_that_boots(text: str) -> None:
    assert guest_checks.judge_fstab(guest(), its(fstab=text)).ok


def test_a_guest_whose_usr_is_a_device_mounts_it() -> None:
    assert not guest_checks.judge_fstab(guest(cache="mixed"), its()).needed
    assert guest_checks.judge_fstab(guest(cache="mixed"), its(fstab="root / virtiofs x\nusr /usr virtiofs x\n")).ok
    assert guest_checks.judge_usr(guest(), its(usr=False)) is None
    replaced = guest_checks.judge_usr(guest(cache="mixed"), its(usr=False))
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
def test_a_kernel_that_cannot_be_handed_over_or_was_not(
    kernel: dict[str, Any], files: int | None, running: bool, needed: bool, mended: bool
) -> None:
    facts = its(kernel=kernel, files={"kernel": files, "initrd": None})
    (found,) = guest_checks.judge_kernel(guest(), facts, running=running)
    assert (found.ok, found.needed, bool(found.fix)) == (False, needed, mended)


@pytest.mark.parametrize(
    ("facts", "above"),
    [({"boot": 0o700}, {}), ({"files": {"kernel": 0o400, "initrd": None}}, {}), ({}, {"mode": 0o700})],
)
def test_a_kernel_that_qemus_user_cannot_read(facts: dict[str, Any], above: dict[str, Any]) -> None:
    there = {place.BOOT: {**DIRECTORY, "mode": 0o711, **above}}
    found = guest_checks.judge_boot_directory(guest(), its(**facts), seen(directories=there))
    assert found
    assert found.fix
    out_of_reach = {place.BOOT: {**DIRECTORY, "mode": 0o711, "closed_above": "/var/lib"}}
    # Where libvirt was told not to give it to QEMU's user, that reads what everybody can.
    shared = seen(directories={place.BOOT: {**DIRECTORY, "mode": 0o711}}, boot_file_mode=0o644)
    assert not cast(Any, guest_checks.judge_boot_directory(guest(), its(), shared)).ok
    assert cast(
        Any, guest_checks.judge_boot_directory(guest(), its(files={"kernel": 0o644, "initrd": None}), shared)
    ).ok
    closed = guest_checks.judge_boot_directory(guest(), its(), seen(directories=out_of_reach))
    assert closed
    assert (closed.do, closed.fix) == ("chmod o+x /var/lib", None)


def test_shares_that_are_gone_or_lead_elsewhere() -> None:
    shared = guest(shares=(Share("data", "/srv/data"),))
    for real, words in (("", "is missing"), ("/etc", "leads to /etc now")):
        found = guest_checks.judge_shares(shared, its(shares={"/srv/data": real}))
        assert found
        assert words in found.says
        assert "./inv unshare web data" in found.do
    there = guest_checks.judge_shares(shared, its(shares={"/srv/data": "/srv/data"}))
    assert there
    assert there.ok


def test_shares_that_other_users_of_the_host_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    lies = exposure.Exposure(reached=True, nosuid_nodev=False, writers=())
    monkeypatch.setattr(exposure, "inspect", lambda _, directories: [lies for _ in directories])
    found = guest_checks.judge_exposure(guest(shares=(Share("data", "/srv/data"), Share("r", "/srv/r", readonly=True))))
    assert found
    assert (found.ok, found.needed) == (False, False)
    assert "enter /srv/data, and use setuid programs" in found.says
    assert guest_checks.judge_exposure(guest(shares=(Share("r", "/srv/r", readonly=True),))) is None
    lies = replace(lies, nosuid_nodev=True)
    assert guest_checks.judge_exposure(guest(shares=(Share("data", "/srv/data"),))) is None


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
def test_a_running_guest_has_a_virtiofsd_for_each_directory(arguments: list[str], ok: bool) -> None:
    facts = seen(virtiofsds=[{"arguments": arguments}])
    found = guest_checks.judge_virtiofsd(guest(), parsed(DEFINITION), facts)
    assert found.ok is ok
    assert ok or "the guest hangs" in found.says


def test_a_fix_looks_again_before_it_copies_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that was started meanwhile keeps what it booted."""
    running = guest()
    cast(Any, running.target).run.return_value.text = "running"
    monkeypatch.setattr("pipelines.target.lock.on", lambda *_: nullcontext())
    monkeypatch.setattr("pipelines.guest.publication.finish_interrupted", lambda *_: None)
    monkeypatch.setattr("pipelines.guest.guest.get", lambda *_: running)
    facts = its(kernel={"refused": "", "same": False})
    (found,) = guest_checks.judge_kernel(running, facts, running=False)
    assert found.fix
    with pytest.raises(VirtrootError, match="the guest web is running"):
        found.fix.do()

"""The doctor on machines that are really broken: what it finds, and what `--fix` repairs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import doctor
from pipelines.artifact import archive
from pipelines.artifact.manifest import Boot, Rootfs
from pipelines.context import CommandContext
from pipelines.guest.guest import get
from pipelines.host import process
from pipelines.libvirt import connect, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool import place
from pipelines.target import lock
from pipelines.target.target import Target
from tests.conftest import Virtroot
from tests.support.artifacts import made
from tests.support.faults import CASES, POOL, POOLS, WEB, WEB_BOOT, collect_findings, group_cases
from tests.support.pools import pool_on

TINY = """
cd "$1"; umask 022
mkdir -p boot etc root srv usr/bin var/lib
printf 'root / virtiofs defaults 0 0\n' > etc/fstab
# The header of a kernel that names its release, see Documentation/arch/x86/boot.rst of Linux.
{ head -c 514 /dev/zero; printf HdrS; head -c 8 /dev/zero; printf '\\000\\002'
  head -c 496 /dev/zero; printf '6.12.48-amd64 (x) #1'; } > boot/vmlinuz-1
ln -s boot/vmlinuz-1 vmlinuz
echo initramfs > initrd.img
"""


@pytest.fixture(scope="module")
def machine(inv: Virtroot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Virtroot]:
    """A hypervisor with one guest that has everything, and one whose root is a layer."""
    with pool_on("ext4", inv, tmp_path_factory.mktemp("ext4")) as own:
        artifact = ("--artifact", str(tiny(tmp_path_factory.mktemp("tiny"))), "--ssh-key", "none")
        share = ("--share", "data:data:/srv/data:create")
        own("install", "web", *artifact, "--clone", "copy", "--cache", "mixed", "--overlayfs", *share)
        own("install", "layered", *artifact, "--clone", "overlay")
        yield own


@pytest.fixture(scope="module")
def hypervisor(machine: Virtroot) -> Hypervisor:
    return connect.connect(machine.settings)


@pytest.fixture(scope="module")
def target(hypervisor: Hypervisor) -> Target:
    return hypervisor.target


@pytest.fixture(scope="module")
def usual(machine: Virtroot) -> frozenset[tuple[str, str]]:
    """What is found before anything is broken: where no registry answers, and the engine lets open few files."""
    found = faults(machine("doctor", "--json").stdout)
    assert {name for _, name in found} <= {"image registry", "KVM", "libvirt", "mmdebstrap", "open files"}
    return frozenset(found)


def tiny(directory: Path) -> Path:
    """Make an artifact with as much of a root as is looked at."""
    root = directory / "root"
    root.mkdir()
    process.run(["sh", "-ec", TINY, "tiny", str(root)])
    tarball = process.run(archive.pack_argv(str(root), 0)).stdout
    boot = Boot(kernel="vmlinuz", initrd="initrd.img", cmdline="root=root rootfstype=virtiofs rw console=ttyS0")
    artifact = made(directory, "tiny", "20261101T000000Z-1", boot=boot)
    artifact.tarball.write_bytes(tarball)
    digest = process.run(["sha256sum", str(artifact.tarball)]).text.split()[0]
    rootfs = Rootfs(sha256=digest, size=len(tarball), unpacked_size=1, entries=1)
    artifact.describe(artifact.manifest.model_copy(update={"rootfs": rootfs}))
    return artifact.directory


def faults(printed: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return the faults by what they are of and their name; each says what to do."""
    found = {(each["of"], each["name"]): each for each in json.loads(printed) if not each["ok"]}
    assert all(each["do"] for each in found.values()), found
    return found


def state(target: Target) -> str:
    """Return everything that a look could change."""
    where = (POOL, place.BOOT, "/etc/libvirt", "/run/virtroot", "/usr/libexec", "/proc/self/mountinfo")
    script = 'find "$@" -printf "%p %y %m %u %s %C@ %l\\n" 2>&1; cat /proc/self/mountinfo; virsh pool-info filesystems'
    return target.run(["sh", "-c", script, "state", *where[:-1]]).text


@pytest.mark.parametrize("names", group_cases(), ids=", ".join)
def test_faults_are_found_and_repaired_as_reported(
    machine: Virtroot,
    target: Target,
    usual: frozenset[tuple[str, str]],
    names: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It runs in this process. The tests below run the task."""
    cases, settings = [CASES[name] for name in names], machine.settings
    try:
        for broken in cases:
            target.run(["sh", "-ec", broken.broken])
        before = state(target)
        findings = doctor.examine(CommandContext(settings), "")
        assert state(target) == before
        found = faults(json.dumps(doctor.as_data(findings)))
        assert frozenset(found) - usual == collect_findings(names)
        assert doctor.compute_status(findings) == int(any(broken.needed for broken in cases))
        for broken in cases:
            assert any(broken.says in found[each]["says"] for each in broken.found), found
            fixed = [each for each in broken.found if found[each]["fix"]]
            assert fixed == ([] if broken.repair else list(broken.found))
        capsys.readouterr()
        doctor.apply_fixes(findings)
        said = " ".join(capsys.readouterr().err.split())
        left = collect_findings(name for name in names if CASES[name].repair)
        for each in collect_findings(names) - left:
            assert f"{each[0]}: {found[each]['fix']}" in said
        if left == collect_findings(names):
            assert (said, state(target)) == ("", before)
        repaired = faults(json.dumps(doctor.as_data(doctor.examine(CommandContext(settings), ""))))
        assert frozenset(repaired) - usual == left
    finally:
        for broken in cases:
            if broken.repair:
                target.run(["sh", "-ec", broken.repair])


@pytest.mark.parametrize("name", ["a root that sshd refuses", "an fstab of disks", "a share that is gone"])
def test_faults_of_one_guest_are_found(machine: Virtroot, target: Target, name: str) -> None:
    broken = CASES[name]
    target.run(["sh", "-ec", broken.broken])
    findings = doctor.examine(CommandContext(machine.settings), "web")
    doctor.apply_fixes(findings)
    target.run(["sh", "-ec", broken.repair or "true"])
    assert set(faults(json.dumps(doctor.as_data(findings)))) == broken.found
    assert doctor.compute_status(findings) == int(broken.needed)
    assert faults(json.dumps(doctor.as_data(doctor.examine(CommandContext(machine.settings), "web")))) == {}


def test_fix_repairs_faults_and_reports_those_that_remain(machine: Virtroot, target: Target) -> None:
    target.run(["sh", "-ec", f"chmod 700 {WEB}; rm {WEB_BOOT}/kernel"])
    assert set(faults(machine("doctor", "web", "--json", status=1).stdout)) == {("web", "root"), ("web", "kernel")}
    repaired = machine("doctor", "--name", "web", "--fix", "--json")
    assert faults(repaired.stdout) == {}
    assert repaired.stderr.splitlines() == [
        f"web: chmod 0755 {WEB}",
        f"web: copy the kernel of web to {WEB_BOOT} again",
    ]
    target.run(["sh", "-ec", f"chmod 700 {WEB}; ln -sfn /etc/passwd {WEB}/vmlinuz"])
    try:
        left = machine("doctor", "web", "--fix", "--json", status=1)
    finally:
        target.run(["ln", "-sfn", "boot/vmlinuz-1", f"{WEB}/vmlinuz"])
    assert set(faults(left.stdout)) == {("web", "kernel")}


def redefined(hypervisor: Hypervisor, name: str, old: str, new: str) -> str:
    """Change the text of a guest's definition, as virsh edit does, and return what it was."""
    guest = get(hypervisor, name)
    before = hypervisor.virsh("dumpxml", "--inactive", guest.uuid).text
    assert old in before
    hypervisor.virsh("define", "/dev/stdin", stdin=before.replace(old, new).encode())
    return before


@pytest.mark.parametrize(
    ("old", "new", "finding", "do"),
    [
        (f"<source dir='{WEB}'/>", "<source dir='/srv'/>", "root's device", f"<source dir='{WEB}'/>"),
        (f"{WEB_BOOT}/kernel<", f"{WEB}/vmlinuz<", "boot paths", f"<kernel>{WEB_BOOT}/kernel</kernel>"),
        ("rootfstype=virtiofs", "rootfstype=ext4", "cmdline", "add rootfstype=virtiofs to <cmdline>"),
        ("type='memfd'", "type='anonymous'", "memory", "<source type='memfd'/>"),
    ],
)
def test_an_edited_definition_is_reported_and_not_changed(
    machine: Virtroot, hypervisor: Hypervisor, old: str, new: str, finding: str, do: str
) -> None:
    before = redefined(hypervisor, "web", old, new)
    try:
        edited = hypervisor.virsh("dumpxml", "--inactive", "web").text
        # What --fix leaves alone is what a look finds, too.
        found = faults(machine("doctor", "web", "--fix", "--json", status=int(finding != "memory")).stdout)
        assert hypervisor.virsh("dumpxml", "--inactive", "web").text == edited
    finally:
        hypervisor.virsh("define", "/dev/stdin", stdin=before.encode())
    assert set(found) == {("web", finding)}
    assert do in found["web", finding]["do"]


@pytest.mark.parametrize(
    ("path", "then"),
    [
        ("", "virtiofsd-acl"),
        (wrappers.FORMER, "virtiofsd-acl-overlayfs"),
    ],
)
def test_a_guest_of_an_earlier_version_gets_the_wrapper_of_its_kernel(
    machine: Virtroot, hypervisor: Hypervisor, path: str, then: str
) -> None:
    guest = get(hypervisor, "web")
    before = hypervisor.virsh("dumpxml", "--inactive", guest.uuid).text
    own = f" path='{Wrapper(acl=True, overlayfs=True).path}'"
    assert own in before
    shared = f" path='{Wrapper(acl=True).path}'"
    older = before.replace(own, f" path='{path}'" if path else "").replace(shared, "")
    hypervisor.virsh("define", "/dev/stdin", stdin=older.encode())
    try:
        assert get(hypervisor, "web").overlayfs is bool(path)
        found = faults(machine("doctor", "web", "--json").stdout)
        assert set(found) == {("web", "wrapper of virtiofsd")}
        assert faults(machine("doctor", "web", "--fix", "--json").stdout) == {}
        named = {each.rpartition("/")[2] for each in get(hypervisor, "web").binaries}
        assert named == {then, "virtiofsd-acl"}
        # A share and its end are changes of the definition, too.
        hypervisor.virsh("define", "/dev/stdin", stdin=older.encode())
        machine("share", "web", "more:more:/srv/more")
        assert {each.rpartition("/")[2] for each in get(hypervisor, "web").binaries} == named
        machine("unshare", "web", "more")
    finally:
        hypervisor.virsh("define", "/dev/stdin", stdin=before.encode())


def test_files_of_a_running_task_are_not_leftovers(
    machine: Virtroot, target: Target, usual: frozenset[tuple[str, str]]
) -> None:
    partial = f"{POOL}/.root.busy@1234"
    target.run(["mkdir", partial, place.boot("busy")])
    with lock.on(target, place.lock("busy"), "the guest busy"):
        assert frozenset(faults(machine("doctor", "--fix", "--json").stdout)) == usual
        target.run(["test", "-d", partial])
    assert frozenset(faults(machine("doctor", "--json", "--fix").stdout)) == usual
    assert target.run(["test", "-e", partial], check=False).returncode == 1


def test_a_pool_of_others_is_not_closed(machine: Virtroot, target: Target) -> None:
    target.run(["sh", "-ec", 'mv "$1/.virtroot" /tmp; chmod 755 "$1"', "foreign", POOL])
    try:
        found = faults(machine("doctor", "--fix", "--json").stdout)
        assert found[POOLS, "closed"]["do"].endswith("; unless other guests of yours boot from inside it")
        assert target.run(["stat", "--format=%a", POOL]).text == "755"
    finally:
        target.run(["sh", "-ec", 'mv /tmp/.virtroot "$1/"; chmod 700 "$1"', "foreign", POOL])


def test_faults_and_instructions_are_printed_in_every_locale(machine: Virtroot, target: Target) -> None:
    fstab = f"{WEB}/etc/fstab"
    target.run(["sh", "-ec", 'cp -a "$1" "$1.old"; printf "\\033[2J/dev/x / ext4\\n" > "$1"', "hostile", fstab])
    try:
        said = machine("doctor", status=1, LC_ALL="de_DE.UTF-8", LANGUAGE="de").stdout
    finally:
        target.run(["mv", f"{fstab}.old", fstab])
    lines = said.splitlines()
    assert {"this machine", "libvirt's machine", "the pool", "layered", "web"} <= set(lines)
    (number,) = [number for number, line in enumerate(lines) if line.startswith("  NO ")]
    assert lines[number].split(maxsplit=2)[1:] == [
        "fstab",
        "it mounts /dev/x / ext4 at /: the boot waits for a disk, or / stays read-only",
    ]
    assert lines[number + 1].strip() == "do: one line in it: root / virtiofs defaults 0 0"


def test_an_unknown_guest_is_an_error(machine: Virtroot) -> None:
    said = machine("doctor", "ghost", status=2).stderr
    assert "error: no guest ghost" in said
    assert "Traceback" not in said


def test_a_changed_base_tree_is_reported_with_the_guests_that_use_it(
    machine: Virtroot, target: Target, usual: frozenset[tuple[str, str]]
) -> None:
    """This is the last test, since the base tree cannot be repaired."""
    (tree,) = target.run(["sh", "-c", 'ls -d "$1"/golden.*/root', "ls", POOL]).text.split()
    target.run(["touch", f"{tree}/etc/more"])
    found = faults(machine("doctor", "--fix", "--json", status=1).stdout)
    assert frozenset(found) - usual == {(POOLS, "golden trees"), ("layered", "golden tree")}
    assert "is used by layered" in found[POOLS, "golden trees"]["says"]
    machine("remove", "layered", "--yes")
    # No guest needs the tree any more. The next install unpacks it again.
    assert frozenset(faults(machine("doctor", "--json").stdout)) - usual == {(POOLS, "golden trees")}

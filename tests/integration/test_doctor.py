"""Machines that are really broken, one thing at a time: the doctor finds that and nothing else, and says what to do.

What --fix says that it does is done, and what it does not say is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import doctor
from pipelines.artifact import archive
from pipelines.artifact.manifest import Boot, Rootfs
from pipelines.context import CommandContext
from pipelines.guest.guest import get
from pipelines.host import process
from pipelines.libvirt import connect, host_files, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool import place
from pipelines.target import lock
from pipelines.target.target import Target
from tests.conftest import Virtroot
from tests.support.artifacts import made
from tests.support.pools import pool_on

POOL = "/var/lib/libvirt/filesystems"
WEB, LAYERED = f"{POOL}/root.web", f"{POOL}/root.layered"
WEB_BOOT = place.boot("web")
JSON = "/usr/share/qemu/vhost-user/50-virtiofsd.json"
VIRTIOFSD = "/usr/libexec/virtiofsd"

#: Says what it is, and does not start: what 1.14 says without a capability that it wants.
REFUSES = """#!/bin/sh
case $1 in --help | --version | --print-capabilities) exec /tmp/virtiofsd "$@" ;; esac
echo "[z ERROR virtiofsd] can't apply the child capabilities: failed to sync capabilities with the kernel" >&2
exit 1
"""

MACHINE, POOLS = "libvirt's machine", "the pool"

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


@dataclass(frozen=True)
class Case:
    """What is broken in the hypervisor's container, and the findings that say so.

    ``mend`` puts back what ``--fix`` leaves alone; where it is empty, ``--fix`` is what mends.
    """

    broken: str
    found: frozenset[tuple[str, str]]
    says: str
    mend: str = ""
    needed: bool = True


def case(broken: str, *found: tuple[str, str], says: str, mend: str = "", needed: bool = True) -> Case:
    return Case(broken, frozenset(found), says, mend, needed)


#: How much is broken at once: each look costs seconds.
_AT_ONCE = 4

CASES = {
    "no hook": case(f"rm {host_files.HOOK}", (MACHINE, "hook"), says="is missing"),
    "a hook that is not run": case(f"chmod 644 {host_files.HOOK}", (MACHINE, "hook"), says="is not executable"),
    "another version's hook": case(f"echo : >> {host_files.HOOK}", (MACHINE, "hook"), says="is not this version's"),
    "a wrapper that is not run": case(f"chmod 644 {host_files.WRAPPER}", (MACHINE, "wrapper"), says="used by web"),
    "a virtiofsd that does not start": case(
        f"mv {VIRTIOFSD} /tmp/; cat > {VIRTIOFSD} <<'END'\n{REFUSES}END\nchmod 755 {VIRTIOFSD}",
        (MACHINE, "virtiofsd"),
        says="can't apply the child capabilities",
        mend=f"mv /tmp/virtiofsd {VIRTIOFSD}",
    ),
    "nothing describes virtiofsd": case(
        f"mv {JSON} /tmp/", (MACHINE, "vhost-user"), says="Unable to find a satisfying", mend=f"mv /tmp/*.json {JSON}"
    ),
    "no virtiofsd": case(
        f"mv {VIRTIOFSD} /tmp/",
        (MACHINE, "virtiofsd"),
        (MACHINE, "vhost-user"),
        says="missing: guests cannot have their roots",
        mend=f"mv /tmp/virtiofsd {VIRTIOFSD}",
    ),
    "no zstd": case(
        "mv /usr/bin/zstd /tmp/", (MACHINE, "programs"), says="missing: zstd", mend="mv /tmp/zstd /usr/bin/"
    ),
    "no bubblewrap": case(
        "mv /usr/bin/bwrap /tmp/", (MACHINE, "bubblewrap"), says="missing", mend="mv /tmp/bwrap /usr/bin/", needed=False
    ),
    # The share in it is closed by itself: an open one would be a fault of its own.
    "an open pool": case(
        f"chmod 700 {POOL}/share.data; chmod 755 {POOL}", (POOLS, "closed"), says="as root if it is setuid"
    ),
    "a pool that is not started": case(
        "virsh pool-destroy filesystems", (POOLS, "pool"), says="is not active", needed=False
    ),
    "a pool that does not start with libvirt": case(
        "virsh pool-autostart --disable filesystems", (POOLS, "pool"), says="is not started with libvirt", needed=False
    ),
    "a pool that no program runs in": case(
        "mount -o remount,bind,noexec /var/lib/libvirt",
        (POOLS, "mount options"),
        says="noexec: guests run",
        mend="mount -o remount,bind,exec /var/lib/libvirt",
        needed=False,
    ),
    "a pool that is almost full": case(
        f"fallocate --length 3300M {POOL}/fill",
        (POOLS, "room"),
        ("web", "room"),
        ("layered", "room"),
        says="MiB of",
        mend=f"rm {POOL}/fill",
        needed=False,
    ),
    "what killed tasks left": case(
        f"mkdir -p {POOL}/.root.ghost@1234/usr {POOL}/.root.web@5678 {place.BOOT}/.virtroot.other@9abc; "
        f"touch {POOL}/.root.ghost@1234/usr/file",
        (POOLS, "killed tasks"),
        says=".root.ghost@1234",
        needed=False,
    ),
    "a boot directory without a domain": case(
        f"mkdir {place.boot('ghost')}; echo kernel > {place.boot('ghost')}/kernel",
        (POOLS, "boot directories"),
        says=place.boot("ghost"),
        needed=False,
    ),
    "a root without a domain": case(
        f"mkdir {POOL}/root.lost {place.boot('lost')}",
        (POOLS, "roots"),
        says=f"{POOL}/root.lost without a domain",
        mend=f"rmdir {POOL}/root.lost {place.boot('lost')}",
        needed=False,
    ),
    "a root that sshd refuses": case(f"chmod 775 {WEB}", ("web", "root"), says="has mode 0775"),
    "a root that is somebody's": case(
        f"chown 1000 {WEB}", ("web", "root"), says="belongs to user 1000", mend=f"chown 0 {WEB}"
    ),
    "an fstab of disks": case(
        f"echo /dev/sda1 / ext4 defaults 0 1 > {WEB}/etc/fstab.new; cat {WEB}/etc/fstab >> {WEB}/etc/fstab.new; "
        f"cd {WEB}/etc; mv fstab old; mv fstab.new fstab",
        ("web", "fstab"),
        says="/dev/sda1 / ext4",
        mend=f"cd {WEB}/etc; mv old fstab",
    ),
    "an fstab that is a link to the host's": case(
        f"cd {WEB}/etc; mv fstab old; ln -s /etc/fstab fstab",
        ("web", "fstab"),
        says="missing or not readable",
        mend=f"cd {WEB}/etc; mv old fstab",
    ),
    "a kernel that is the host's": case(
        f"ln -sfn /etc/passwd {WEB}/vmlinuz",
        ("web", "kernel"),
        says="leaves the root through a link",
        mend=f"ln -sfn boot/vmlinuz-1 {WEB}/vmlinuz",
    ),
    "a kernel that is newer": case(f"echo new > {WEB}/initrd.img", ("web", "kernel"), says="initrd", needed=False),
    "a kernel that QEMU cannot read": case(
        f"chmod 600 {WEB_BOOT}/kernel; chmod 700 {WEB_BOOT}; chmod 700 {place.BOOT}",
        ("web", "boot directory"),
        ("layered", "boot directory"),
        says="QEMU's user cannot read the kernel",
    ),
    "a /usr that leads out": case(
        f"cd {WEB}; mv usr away; ln -s /etc usr",
        ("web", "usr"),
        says="would be served as one",
        mend=f"cd {WEB}; rm usr; mv away usr",
    ),
    "a share that is gone": case(
        f"mv {POOL}/share.data {POOL}/away",
        ("web", "shares"),
        says="is missing",
        mend=f"mv {POOL}/away {POOL}/share.data",
    ),
    "a share that leads out": case(
        f"cd {POOL}; mv share.data away; ln -s /etc share.data",
        ("web", "shares"),
        says="leads to /etc now",
        mend=f"cd {POOL}; rm share.data; mv away share.data",
    ),
    "layers that are not mounted": case(f"umount {LAYERED}", ("layered", "root"), says="are not mounted", needed=False),
    "a mount without a guest": case(
        f"mkdir -p {POOL}/root.gone /tmp/l; mount -t overlay -o lowerdir=/tmp/l:/usr gone {POOL}/root.gone",
        (POOLS, "overlay mounts"),
        (POOLS, "roots"),
        says="without a guest",
        mend=f"umount {POOL}/root.gone; rmdir {POOL}/root.gone",
        needed=False,
    ),
    "a root that is gone": case(
        f"mv {WEB} {POOL}/away.web", ("web", "root"), says="is missing", mend=f"mv {POOL}/away.web {WEB}"
    ),
}


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


def grouped() -> list[tuple[str, ...]]:
    """Return the names of all cases in groups of which no two are found by the same look at the same thing."""
    groups: list[list[str]] = []
    for name, each in CASES.items():
        fitting = (group for group in groups if len(group) < _AT_ONCE and not _found(group) & each.found)
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(name)
    return [tuple(group) for group in groups]


def _found(names: Iterable[str]) -> frozenset[tuple[str, str]]:
    return frozenset[tuple[str, str]]().union(*(CASES[name].found for name in names))


@pytest.mark.parametrize("names", grouped(), ids=", ".join)
def test_what_is_broken_is_found_and_mended_as_said(
    machine: Virtroot,
    target: Target,
    usual: frozenset[tuple[str, str]],
    names: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the task does it, in this process: the tests below run the task."""
    cases, settings = [CASES[name] for name in names], machine.settings
    try:
        for broken in cases:
            target.run(["sh", "-ec", broken.broken])
        before = state(target)
        findings = doctor.examine(CommandContext(settings), "")
        assert state(target) == before
        found = faults(json.dumps(doctor.as_data(findings)))
        assert frozenset(found) - usual == _found(names)
        assert doctor.compute_status(findings) == int(any(broken.needed for broken in cases))
        for broken in cases:
            assert any(broken.says in found[each]["says"] for each in broken.found), found
            fixed = [each for each in broken.found if found[each]["fix"]]
            assert fixed == ([] if broken.mend else list(broken.found))
        capsys.readouterr()
        doctor.apply_fixes(findings)
        said = " ".join(capsys.readouterr().err.split())
        left = _found(name for name in names if CASES[name].mend)
        for each in _found(names) - left:
            assert f"{each[0]}: {found[each]['fix']}" in said
        if left == _found(names):
            assert (said, state(target)) == ("", before)
        mended = faults(json.dumps(doctor.as_data(doctor.examine(CommandContext(settings), ""))))
        assert frozenset(mended) - usual == left
    finally:
        for broken in cases:
            if broken.mend:
                target.run(["sh", "-ec", broken.mend])


@pytest.mark.parametrize("name", ["a root that sshd refuses", "an fstab of disks", "a share that is gone"])
def test_of_one_guest_the_same_is_found(machine: Virtroot, target: Target, name: str) -> None:
    broken = CASES[name]
    target.run(["sh", "-ec", broken.broken])
    findings = doctor.examine(CommandContext(machine.settings), "web")
    doctor.apply_fixes(findings)
    target.run(["sh", "-ec", broken.mend or "true"])
    assert set(faults(json.dumps(doctor.as_data(findings)))) == broken.found
    assert doctor.compute_status(findings) == int(broken.needed)
    assert faults(json.dumps(doctor.as_data(doctor.examine(CommandContext(machine.settings), "web")))) == {}


def test_the_task_mends_looks_again_and_ends_with_what_it_sees_then(machine: Virtroot, target: Target) -> None:
    target.run(["sh", "-ec", f"chmod 700 {WEB}; rm {WEB_BOOT}/kernel"])
    assert set(faults(machine("doctor", "web", "--json", status=1).stdout)) == {("web", "root"), ("web", "kernel")}
    mended = machine("doctor", "--name", "web", "--fix", "--json")
    assert faults(mended.stdout) == {}
    assert mended.stderr.splitlines() == [
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
def test_a_definition_that_somebody_edited(
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


def test_what_a_task_has_under_way_is_none_of_the_doctors(
    machine: Virtroot, target: Target, usual: frozenset[tuple[str, str]]
) -> None:
    partial = f"{POOL}/.root.busy@1234"
    target.run(["mkdir", partial, place.boot("busy")])
    with lock.on(target, place.lock("busy"), "the guest busy"):
        assert frozenset(faults(machine("doctor", "--fix", "--json").stdout)) == usual
        target.run(["test", "-d", partial])
    assert frozenset(faults(machine("doctor", "--json", "--fix").stdout)) == usual
    assert target.run(["test", "-e", partial], check=False).returncode == 1


def test_a_pool_of_somebody_elses_stays_open(machine: Virtroot, target: Target) -> None:
    target.run(["sh", "-ec", 'mv "$1/.virtroot" /tmp; chmod 755 "$1"', "foreign", POOL])
    try:
        found = faults(machine("doctor", "--fix", "--json").stdout)
        assert found[POOLS, "closed"]["do"].endswith("; unless other guests of yours boot from inside it")
        assert target.run(["stat", "--format=%a", POOL]).text == "755"
    finally:
        target.run(["sh", "-ec", 'mv /tmp/.virtroot "$1/"; chmod 700 "$1"', "foreign", POOL])


def test_people_read_what_is_wrong_and_what_to_do_whatever_their_language(machine: Virtroot, target: Target) -> None:
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


def test_who_is_no_guest_is_an_error(machine: Virtroot) -> None:
    said = machine("doctor", "ghost", status=2).stderr
    assert "error: no guest ghost" in said
    assert "Traceback" not in said


def test_a_golden_tree_that_was_changed_is_said_of_who_lies_on_it(
    machine: Virtroot, target: Target, usual: frozenset[tuple[str, str]]
) -> None:
    """The last one: nothing makes the tree what it was."""
    (tree,) = target.run(["sh", "-c", 'ls -d "$1"/golden.*/root', "ls", POOL]).text.split()
    target.run(["touch", f"{tree}/etc/more"])
    found = faults(machine("doctor", "--fix", "--json", status=1).stdout)
    assert frozenset(found) - usual == {(POOLS, "golden trees"), ("layered", "golden tree")}
    assert "is used by layered" in found[POOLS, "golden trees"]["says"]
    machine("remove", "layered", "--yes")
    # Nobody needs it any more, and the next install unpacks it anew.
    assert frozenset(faults(machine("doctor", "--json").stdout)) - usual == {(POOLS, "golden trees")}

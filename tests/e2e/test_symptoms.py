"""What goes wrong with guests, provoked: the error begins with the cause, and names what helps."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.guest.guest import get
from pipelines.libvirt.connect import connect
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool import place
from pipelines.symptom.known import SYMPTOMS
from tests.conftest import Virtroot
from tests.support.definitions import change

NAME = "ill"
ROOT = f"/var/lib/libvirt/filesystems/root.{NAME}"

DESCRIBED = "/usr/share/qemu/vhost-user"

#: Tells what it can, as libvirt asks first, and ends when it is to serve.
DIES = '#!/bin/sh\n[ "$1" != --print-capabilities ] || exec /usr/libexec/virtiofsd "$@"\nexit 1\n'

DAEMON = "/usr/libexec/virtiofsd"

WRAPPER = Wrapper(acl=True).path

# The release's files may be old where the mirror is a copy of one day.
NEWER = r"""
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null |
    sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb +(\[[^]]*\] +)?([^ ]+) +trixie .*/\2/p' | head -n 1)
rm -rf /tmp/newer; mkdir -p /tmp/newer/lists/partial /tmp/newer/parts; cd /tmp/newer
echo "deb $mirror forky main" > sources
set -- -q -o Dir::Etc::SourceList=/tmp/newer/sources -o Dir::Etc::SourceParts=/tmp/newer/parts \
    -o Dir::State::Lists=/tmp/newer/lists -o APT::Default-Release=forky -o Acquire::Check-Valid-Until=false
apt-get "$@" update
apt-get "$@" download virtiofsd
dpkg-deb -x virtiofsd_*.deb .
mv usr/libexec/virtiofsd .
./virtiofsd --version
"""

MOUNT = (
    "mkdir -p /root/upper /root/work /root/merged; "
    "mount -t overlay overlay -o lowerdir=/etc,upperdir=/root/upper,workdir=/root/work /root/merged"
)


def says_first(said: str, name: str) -> None:
    """Check that the error of a task begins with the cause of the symptom ``name``, and names its section."""
    symptom = next(symptom for symptom in SYMPTOMS if symptom.name == name)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors[-1].startswith(f"error: {symptom.cause}: "), said
    assert f"; more: ./inv help {name}" in said


@pytest.fixture(scope="module")
def hypervisor(inv: Virtroot, trixie: Path) -> Iterator[Hypervisor]:
    """The hypervisor, with a guest that every test here does something else to."""
    inv("install", NAME, "--artifact", str(trixie), "--ssh-key", "none")
    yield connect(inv.settings)
    inv("remove", NAME, "--yes")


@pytest.fixture
def ill(hypervisor: Hypervisor) -> Iterator[Hypervisor]:
    """The same, and what was done to the domain undone."""
    definition = hypervisor.virsh("dumpxml", "--inactive", NAME).stdout
    yield hypervisor
    hypervisor.virsh("destroy", NAME, check=False)
    hypervisor.virsh("define", "/dev/stdin", stdin=definition)


def sh(hypervisor: Hypervisor, script: str, *arguments: str) -> None:
    hypervisor.target.run(["sh", "-ec", script, "provoke", *arguments])


def test_memory_that_is_not_shared(inv: Virtroot, ill: Hypervisor) -> None:
    """libvirt takes no such definition any more; one that it has is read anew at a hang-up."""
    script = 'sed -i "/<memoryBacking>/,/<\\/memoryBacking>/d" "$1"; kill -HUP "$(pidof libvirtd)"'
    sh(ill, script, f"/etc/libvirt/qemu/{NAME}.xml")
    deadline = time.monotonic() + 30
    while "memoryBacking" in ill.virsh("dumpxml", "--inactive", NAME).text:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    says_first(inv("start", NAME, status=2).stderr, "shared-memory")


def test_no_virtiofsd_to_be_found(inv: Virtroot, ill: Hypervisor) -> None:
    sh(ill, 'mv "$1" "$1.away"', DAEMON)
    try:
        said = inv("start", NAME, status=2).stderr
    finally:
        sh(ill, 'mv "$1.away" "$1"', DAEMON)
    says_first(said, "no-virtiofsd")


def test_no_virtiofsd_is_described_to_libvirt(inv: Virtroot, ill: Hypervisor) -> None:
    """A guest of an earlier version leaves it to libvirt to find one."""
    change(ill, NAME, f"<binary path='{WRAPPER}' xattr='on'>", "<binary xattr='on'>")
    sh(ill, 'mv "$1" "$1.away"', DESCRIBED)
    try:
        said = inv("start", NAME, status=2).stderr
    finally:
        sh(ill, 'mv "$1.away" "$1"', DESCRIBED)
    says_first(said, "no-virtiofsd")


def test_a_lock_element(inv: Virtroot, ill: Hypervisor) -> None:
    change(ill, NAME, "<cache mode='always'/>", "<cache mode='always'/><lock posix='on' flock='on'/>")
    says_first(inv("start", NAME, status=2).stderr, "lock-element")


def test_a_network_that_is_not_active(inv: Virtroot, ill: Hypervisor) -> None:
    asleep = b"<network><name>asleep</name><forward mode='bridge'/><bridge name='virbr0'/></network>"
    ill.virsh("net-define", "/dev/stdin", stdin=asleep)
    try:
        change(ill, NAME, "<source network='default'/>", "<source network='asleep'/>")
        said = inv("start", NAME, status=2).stderr
    finally:
        ill.virsh("net-undefine", "asleep")
    says_first(said, "network-inactive")


def test_a_virtiofsd_that_ends_at_once(inv: Virtroot, ill: Hypervisor) -> None:
    program = "/usr/local/bin/dies"
    sh(ill, 'printf %s "$2" > "$1"; chmod 755 "$1"', program, DIES)
    change(ill, NAME, f"<binary path='{WRAPPER}' xattr='on'>", f"<binary path='{program}' xattr='on'>")
    says_first(inv("start", NAME, status=2).stderr, "virtiofsd-died")


def test_a_kernel_that_qemu_cannot_read(inv: Virtroot, ill: Hypervisor) -> None:
    """The files are copied at each start, with their mode; the directory above is the host's."""
    sh(ill, 'chmod 700 "$1"', place.BOOT)
    try:
        said = inv("start", NAME, status=2).stderr
    finally:
        sh(ill, 'chmod 711 "$1"', place.BOOT)
    says_first(said, "kernel-unreadable")
    assert get(ill, NAME).state == "shut off"

    # QEMU's log is never emptied: what is of an earlier start is no reason for what comes of a later one.
    assert "could not open kernel file" in ill.target.run(["cat", place.qemu_log(NAME)]).text
    ill.virsh("start", NAME)
    said = inv("wait", NAME, status=2, INVOKE_VIRTROOT_TIMEOUT="1").stderr
    assert "error: the guest ill did not come up: no agent answered within 1 s" in said


@pytest.mark.parametrize("mode", ["700", "775"])
def test_a_root_that_others_may_not_enter(inv: Virtroot, hypervisor: Hypervisor, mode: str) -> None:
    sh(hypervisor, 'chmod "$2" "$1"', ROOT, mode)
    try:
        said = inv("verify", NAME, status=1).stderr
    finally:
        sh(hypervisor, 'chmod 755 "$1"', ROOT)
    says_first(said, "root-mode")
    assert "1 of 7 checks failed: test_the_root_is_a_directory_of_the_guests_own" in said


def test_another_tag(inv: Virtroot, ill: Hypervisor) -> None:
    change(ill, NAME, "<target dir='root'/>", "<target dir='other'/>")
    said = inv("start", NAME, status=2).stderr
    says_first(said, "tag-not-found")
    assert ": the guest ill did not come up: its console says '(initramfs)'" in said


def test_a_kernel_without_virtiofs(inv: Virtroot, ill: Hypervisor) -> None:
    """trixie's kernel has it built in, and begins without it when told so."""
    change(ill, NAME, "rootfstype=virtiofs", "rootfstype=virtiofs initcall_blacklist=virtio_fs_init")
    says_first(inv("start", NAME, status=2).stderr, "no-virtiofs")


def test_emergency_mode_is_not_taken_for_its_cause(inv: Virtroot, ill: Hypervisor) -> None:
    line = "/dev/vdb /srv ext4 defaults,x-systemd.device-timeout=1s 0 2"
    sh(ill, 'cp -p "$1" "$1.before"; echo "$2" >> "$1"', f"{ROOT}/etc/fstab", line)
    try:
        said = inv("start", NAME, status=2).stderr
    finally:
        sh(ill, 'mv "$1.before" "$1"', f"{ROOT}/etc/fstab")
    says_first(said, "waits-for-device")
    assert "in emergency mode" in said


@pytest.fixture(scope="module")
def newer(hypervisor: Hypervisor) -> Iterator[None]:
    """Put the virtiofsd of Debian's next release in place of trixie's."""
    hypervisor.target.run(["sh", "-ec", NEWER])
    sh(hypervisor, 'cp -p "$1" "$1.trixie"; mv /tmp/newer/virtiofsd "$1"', DAEMON)
    yield
    sh(hypervisor, 'mv "$1.trixie" "$1"', DAEMON)


@pytest.mark.usefixtures("newer")
def test_a_virtiofsd_that_wants_a_capability(inv: Virtroot, ill: Hypervisor) -> None:
    """1.14 wants file handles unless told otherwise; a guest of an earlier version tells it nothing."""
    change(ill, NAME, f"<binary path='{WRAPPER}' xattr='on'>", "<binary xattr='on'>")
    says_first(inv("start", NAME, status=2).stderr, "missing-capability")
    said = inv("doctor", status=1).stdout
    assert "does not start without virtroot's wrapper: can't apply the child capabilities" in said
    inv("doctor", NAME, "--fix")
    assert WRAPPER in ill.virsh("dumpxml", "--inactive", NAME).text
    assert f"{DAEMON} (Rust, 1.14" in inv("doctor").stdout


@pytest.fixture(scope="module")
def running(inv: Virtroot, hypervisor: Hypervisor, newer: None) -> Iterator[Hypervisor]:
    """The guest, up, served by the next release's virtiofsd; in the end it is off."""
    inv("start", NAME)
    yield hypervisor
    hypervisor.virsh("destroy", NAME, check=False)


def test_a_copy_of_a_domain_does_not_start_on_a_root_that_is_in_use(inv: Virtroot, running: Hypervisor) -> None:
    """Neither by a task nor by libvirt's own start, which asks the hook."""
    definition = running.virsh("dumpxml", "--inactive", NAME).text
    uuid, copy = get(running, NAME).uuid, "22222222-2222-4222-8222-222222222222"
    copied = definition.replace(uuid, copy).replace(f"<name>{NAME}</name>", "<name>copy</name>")
    running.virsh("define", "/dev/stdin", stdin=copied.encode())
    try:
        assert f"is the root of {NAME} too" in inv("start", "copy", status=2).stderr
        started = running.virsh("start", "copy", check=False)
        assert started.returncode != 0
        assert f"{NAME} runs on it, and a root is for one guest" in started.complaint
    finally:
        running.virsh("undefine", "copy")
    assert get(running, NAME).running


def test_a_guest_that_was_refused_overlayfs(inv: Virtroot, running: Hypervisor) -> None:
    assert inv("exec", NAME, "--", "sh", "-c", MOUNT, status=32).stderr
    said = inv("verify", NAME, "--boot", status=1).stderr
    says_first(said, "overlayfs")
    # All others pass, that of ACLs too.
    assert re.search(r"\b1 of \d+ checks failed: test_nothing_in_the_guest_was_refused_overlayfs", said)
    assert "more: ./inv help overlayfs" in inv("logs", NAME).stderr


def test_a_guest_whose_virtiofsd_has_ended(inv: Virtroot, running: Hypervisor) -> None:
    """Its agent is in memory, answers, and hangs at the first command; nothing else tells what is the matter."""
    assert get(running, NAME).find_unserved() == ""
    sh(running, "pkill -KILL virtiofsd")
    for task in (("wait", NAME), ("exec", NAME, "--", "uname", "-r"), ("verify", NAME, "--boot")):
        said = inv(*task, status=2).stderr
        says_first(said, "virtiofsd-gone")
        assert f"no virtiofsd serves {ROOT} any more" in said
    inv("stop", NAME, "--force")
    assert "Unexpected end-of-file" in inv("logs", NAME, "--qemu").stdout

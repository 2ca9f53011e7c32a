"""The running guest, asked through its agent. The last test shuts it down where it may."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from testinfra.host import Host

from pipelines.artifact.manifest import Manifest
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt import beside, wrappers
from pipelines.symptom.known import OVERLAYFS
from pipelines.verify import Context
from tests.acceptance import acl, expectations
from tests.acceptance.conftest import Drift

pytestmark = pytest.mark.guest


def test_agent_runs_commands(running: Host) -> None:
    assert running.check_output("echo %s", "a b") == "a b"


def test_default_target_was_reached_without_a_failed_unit(running: Host) -> None:
    state = running.run("systemctl is-system-running --wait").stdout.strip()
    failed = running.run("systemctl --failed --no-legend --plain").stdout
    assert (state, failed) == ("running", "")


def test_root_is_virtiofs_and_writable(running: Host) -> None:
    root = running.mount_point("/")
    assert root.filesystem == "virtiofs"
    assert "rw" in root.options
    running.check_output("touch /virtroot-writable && rm /virtroot-writable")
    expectations.is_a_directory_for_all(*running.check_output("stat --format='%U %a' /").split())


def test_kernel_is_the_roots(running: Host, manifest: Manifest, drift: Drift) -> None:
    version = running.check_output("uname -r")
    if version != manifest.kernel_version:
        # One that an upgrade in the guest brought.
        assert version in running.check_output("ls /usr/lib/modules").split()
        drift(f"runs the kernel {version}")


def test_a_guest_without_an_initramfs_needs_none_at_its_next_start(running: Host, guest: Guest) -> None:
    if guest.initrd:
        assert guest.hypervisor.target.run(["test", "-s", f"{guest.boot}/initrd"], check=False).returncode == 0
        return
    # The kernel that it would load then; an upgrade may have brought another one than runs.
    kernel = running.check_output("readlink -f %s", f"/{guest.kernel}").rpartition("/")[2].removeprefix("vmlinuz-")
    known = running.file(f"/usr/lib/modules/{kernel}").is_directory
    expectations.mounts_virtiofs_without_an_initramfs(running, kernel if known else running.check_output("uname -r"))


def test_packages_are_whole(running: Host, manifest: Manifest, drift: Drift) -> None:
    """People upgrade packages in their guests: that they are others than the manifest's is told, and no fault."""
    for change in expectations.drifts(running, manifest):
        drift(change)


def test_fstab_mounts_the_root_over_virtiofs(running: Host, guest: Guest, drift: Drift) -> None:
    for mounted in expectations.mounts_its_devices(running, guest):
        drift(f"mounts {mounted}")


def test_usr_is_the_device_that_the_domain_has_for_it(running: Host, guest: Guest) -> None:
    mounted = running.check_output("findmnt --noheadings --output SOURCE --target /usr")
    assert mounted == ("usr" if guest.usr else "root")


def test_usr_is_there_before_init(running: Host, guest: Guest, manifest: Manifest) -> None:
    """What init runs from before /usr is mounted, the kernel reads from the root all along, and slowly."""
    if guest.usr and manifest.generator != "none" and not manifest.origin:
        devices = running.check_output("stat --dereference --format=%d /proc/1/exe /usr").split()
        assert devices[0] == devices[1]


def test_shares_are_mounted_and_the_host_keeps_read_only_ones_so(running: Host, guest: Guest) -> None:
    for share in guest.shares:
        point = running.check_output("findmnt --noheadings --first-only --types virtiofs --output TARGET %s", share.tag)
        assert point, f"{share.tag} is not mounted"
        if share.readonly:
            assert running.run("touch %s/.virtroot-writable", point).rc != 0


def test_no_boot_loader(running: Host, manifest: Manifest) -> None:
    expectations.has_no_boot_loader(running, manifest)


def test_machine_id_is_the_guests_own(running: Host, guest: Guest) -> None:
    own = running.file("/etc/machine-id").content_string.strip()
    assert own == UUID(guest.uuid).hex
    others = [other for other in guests.every(guest.hypervisor) if other.name != guest.name]
    assert own not in {UUID(other.uuid).hex for other in others}


def test_ssh_host_keys_are_the_guests_own(running: Host, guest: Guest, manifest: Manifest) -> None:
    if not expectations.ssh_service(running, manifest):
        # What one left that was removed is nobody's business.
        assert not guest.transient or running.check_output("find /etc -path '/etc/ssh/ssh_host_*'") == ""
        return
    key = "etc/ssh/ssh_host_ed25519_key.pub"
    own = running.file(f"/{key}").content_string.split()[1]
    for other in guests.every(guest.hypervisor):
        if other.name != guest.name:
            assert own not in _read(other, key)


def _read(guest: Guest, path: str) -> str:
    try:
        return beside.read(guest.target, guest.root, path).decode()
    except VirtrootError:
        return ""  # never booted, so it has no keys yet


def test_services_people_expect_are_running(running: Host, guest: Guest, manifest: Manifest, drift: Drift) -> None:
    ssh = expectations.ssh_service(running, manifest)
    # What brings up the network of a system that was imported is its own affair.
    network = [] if manifest.origin else ["systemd-networkd"]
    for service in ("qemu-guest-agent", *network, *([ssh] if ssh else [])):
        state = running.run("systemctl is-enabled %s", service).stdout.strip()
        if guest.transient or state not in ("disabled", "masked"):
            assert running.service(service).is_running, service
        else:
            # Somebody has other means, and said so.
            drift(f"does not start {service}")


def test_file_written_in_the_guest_is_seen_on_the_host(running: Host, guest: Guest) -> None:
    running.check_output("echo from the guest > /root/virtroot-shared && sync")
    seen = beside.read(guest.target, guest.root, "root/virtroot-shared")
    running.check_output("rm /root/virtroot-shared")
    assert seen == b"from the guest\n"


def test_file_written_on_the_host_is_seen_in_the_guest(running: Host, guest: Guest) -> None:
    beside.write(guest.target, guest.root, "root/virtroot-from-host", 0o644, "from the host\n")
    seen = running.check_output("cat /root/virtroot-from-host")
    running.check_output("rm /root/virtroot-from-host")
    assert seen == "from the host"


def test_an_acl_decides_who_gets_in(
    running: Host, guest: Guest, record_property: Callable[[str, object], None]
) -> None:
    if not all((found := wrappers.parse(path)) and found.acl for path in guest.binaries):
        # An old kernel, or a definition of an earlier version or of the user's own; doctor says which.
        record_property("not applicable", "the guest's virtiofsd is not asked for POSIX ACLs")
        return
    said = running.check_output(acl.SCRIPT)
    if said.startswith(acl.CANNOT_TELL):
        record_property("not applicable", said)
    elif said.startswith("refused: ") and not _pool_takes_acls(guest):
        record_property("not applicable", "the file system of the guest's root has no ACLs")
    else:
        assert said == acl.DECIDES


def _pool_takes_acls(guest: Guest) -> bool:
    script = 'import errno, os, sys\ntry:\n    os.getxattr(sys.argv[1], "system.posix_acl_access")\n'
    script += "except OSError as error:\n    sys.exit(error.errno != errno.ENODATA)"
    return guest.target.run([guest.target.python, "-I", "-c", script, guest.root], check=False).returncode == 0


def test_nothing_in_the_guest_was_refused_overlayfs(running: Host, guest: Guest) -> None:
    said = running.check_output("journalctl --boot --output=cat --no-pager | grep -i overlay | tail -c 65536")
    assert not OVERLAYFS.pattern.search(said), f"{guest.name}: {OVERLAYFS.cause}: {OVERLAYFS.remedy}\n{said}"


def test_shuts_down_cleanly(context: Context, guest: Guest) -> None:
    if not context.shutdown:
        assert guest.running, "the guest was to stay up"
        return
    guest.stop(float(str(context.settings["timeout"])))
    assert guest.hypervisor.state(guest.uuid, reason=True) == "shut off (shutdown)"
    assert "Failed unmounting" not in guest.console_tail(200)

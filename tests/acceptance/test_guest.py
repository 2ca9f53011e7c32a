"""The running guest, by the facts that were gathered in it. The last test shuts it down where it may."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from testinfra.host import Host

from pipelines.artifact.manifest import Manifest
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt import wrappers
from pipelines.recipe import machine_specific
from pipelines.symptom.known import OVERLAYFS
from pipelines.target import programs
from pipelines.text import split_fields, split_lines, trim
from pipelines.verify import SuiteContext
from tests.acceptance import acl, expectations
from tests.acceptance.conftest import Drift
from tests.acceptance.facts import GREETING, TO_HOST, Facts

pytestmark = pytest.mark.guest


def test_agent_runs_commands(facts: Facts) -> None:
    assert facts.text("echo") == "a b"


def test_default_target_was_reached_without_a_failed_unit(facts: Facts) -> None:
    state, failed = trim(facts["state"].output), facts["failed"].output
    assert (state, failed) == ("running", "")


def test_root_is_virtiofs_and_writable(facts: Facts) -> None:
    filesystem, options = split_fields(facts.text("root"), 2)
    assert filesystem == "virtiofs"
    assert "rw" in options.split(",")
    facts.text("writable")
    expectations.is_a_directory_for_all(*split_fields(facts.text("owner")))


def test_kernel_is_the_roots(facts: Facts, manifest: Manifest, drift: Drift) -> None:
    version = facts.text("kernel")
    if version != manifest.kernel_version:
        # One that an upgrade in the guest brought.
        assert version in split_lines(facts.text("kernels"))
        drift(f"runs the kernel {version}")


def test_a_guest_without_an_initramfs_needs_none_at_its_next_start(facts: Facts, guest: Guest) -> None:
    if guest.source.initrd:
        assert guest.hypervisor.target.run(["test", "-s", f"{guest.boot}/initrd"], check=False).returncode == 0
        return
    expectations.mounts_virtiofs_without_an_initramfs(facts.text("builtin"), facts.text("next"))


def test_packages_are_whole(facts: Facts, manifest: Manifest, drift: Drift) -> None:
    """People upgrade packages in their guests: that they are others than the manifest's is told, and no fault."""
    facts.text("packages-check")
    for change in expectations.drifts(expectations.parse_packages(facts.text("packages")), manifest):
        drift(change)


def test_fstab_mounts_the_root_over_virtiofs(facts: Facts, guest: Guest, drift: Drift) -> None:
    for mounted in expectations.mounts_its_devices(facts.text("fstab"), guest):
        drift(f"mounts {mounted}")


def test_usr_is_the_device_that_the_domain_has_for_it(facts: Facts, guest: Guest) -> None:
    assert facts.text("usr") == ("usr" if guest.usr else "root")


def test_usr_is_there_before_init(facts: Facts, guest: Guest, manifest: Manifest) -> None:
    """What init runs from before /usr is mounted, the kernel reads from the root all along, and slowly."""
    if guest.usr and manifest.generator != "none" and not manifest.origin:
        devices = split_lines(facts.text("devices"))
        assert devices[0] == devices[1]


def test_shares_are_mounted_and_the_host_keeps_read_only_ones_so(facts: Facts, guest: Guest) -> None:
    for share in guest.shares:
        assert trim(facts[f"share.{share.tag}"].output), f"{share.tag} is not mounted"
        if share.readonly:
            assert facts[f"share-write.{share.tag}"].status != 0


def test_no_boot_loader(facts: Facts) -> None:
    found = expectations.parse_packages(facts.text("packages"))
    expectations.has_no_boot_loader(found, files=facts["grub"].status == 0)


def test_machine_id_is_the_guests_own(facts: Facts, guest: Guest) -> None:
    own = facts.text("machine-id")
    assert own == UUID(guest.uuid).hex
    others = [other for other in guests.list_guests(guest.hypervisor) if other.name != guest.name]
    assert own not in {UUID(other.uuid).hex for other in others}


def test_ssh_host_keys_are_the_guests_own(facts: Facts, guest: Guest) -> None:
    if not expectations.ssh_service(expectations.parse_packages(facts.text("packages"))):
        # What one left that was removed is nobody's business.
        assert not guest.transient or facts.text("ssh-keys") == ""
        return
    key = "etc/ssh/ssh_host_ed25519_key.pub"
    own = split_fields(facts.text("ssh-key"))[1]
    for other in guests.list_guests(guest.hypervisor):
        if other.name != guest.name:
            assert own not in _read(other, key)


def test_other_keys_and_ids_are_the_guests_own(guest: Guest, manifest: Manifest, drift: Drift) -> None:
    made_here = [each for each in machine_specific.MATERIALS if each.made_by == machine_specific.UNIT]
    paths = {path for each in made_here for path in each.paths} - {*manifest.overlay_keys}
    own_keys = {path: own for path in sorted(paths) if (own := _read(guest, path))}
    others = [other for other in guests.list_guests(guest.hypervisor) if other.name != guest.name] if own_keys else []
    for path, own in own_keys.items():
        same = [other.name for other in others if _read(other, path) == own]
        assert not (same and guest.transient), f"/{path} is that of {same[0]}"
        if same:
            # Earlier versions left the packages' keys in their golden roots, and an upgrade keeps a guest's.
            drift(f"has the same /{path} as {same[0]}")


def _read(guest: Guest, path: str) -> str:
    try:
        return programs.read(guest.target, guest.root, path).decode()
    except VirtrootError:
        return ""  # never booted, so it has no keys yet


def test_services_people_expect_are_running(facts: Facts, guest: Guest, manifest: Manifest, drift: Drift) -> None:
    ssh = expectations.ssh_service(expectations.parse_packages(facts.text("packages")))
    # What brings up the network of a system that was imported is its own affair.
    network = [] if manifest.origin else ["systemd-networkd"]
    for service in ("qemu-guest-agent", *network, *([ssh] if ssh else [])):
        active, state = facts.service(service)
        if guest.transient or state not in ("disabled", "masked"):
            assert active in ("active", "reloading"), f"{service} is {active}"
        else:
            # Somebody has other means, and said so.
            drift(f"does not start {service}")


def test_file_written_in_the_guest_is_seen_on_the_host(facts: Facts, guest: Guest) -> None:
    facts.text("to-host")
    seen = programs.read(guest.target, guest.root, TO_HOST)
    guest.agent.run(["rm", f"/{TO_HOST}"])
    assert seen == b"from the guest\n"


def test_file_written_on_the_host_is_seen_in_the_guest(facts: Facts) -> None:
    assert facts.text("from-host") == trim(GREETING)


def test_an_acl_decides_who_gets_in(
    running: Host, guest: Guest, record_testsuite_property: Callable[[str, object], None]
) -> None:
    if not all((found := wrappers.parse(path)) and found.acl for path in guest.binaries):
        # An old kernel, or a definition of an earlier version or of the user's own; doctor says which.
        record_testsuite_property("not applicable", "the guest's virtiofsd is not asked for POSIX ACLs")
        return
    said = running.check_output(acl.SCRIPT)
    if said.startswith(acl.CANNOT_TELL):
        record_testsuite_property("not applicable", said)
    elif said.startswith("refused: ") and not _pool_takes_acls(guest):
        record_testsuite_property("not applicable", "the file system of the guest's root has no ACLs")
    else:
        assert said == acl.DECIDES


def _pool_takes_acls(guest: Guest) -> bool:
    script = 'import errno, os, sys\ntry:\n    os.getxattr(sys.argv[1], "system.posix_acl_access")\n'
    script += "except OSError as error:\n    sys.exit(error.errno != errno.ENODATA)"
    return guest.target.run([guest.target.python, "-I", "-c", script, guest.root], check=False).returncode == 0


def test_nothing_in_the_guest_was_refused_overlayfs(facts: Facts, guest: Guest) -> None:
    said = facts.text("overlay")
    assert not OVERLAYFS.pattern.search(said), f"{guest.name}: {OVERLAYFS.cause}: {OVERLAYFS.remedy}\n{said}"


def test_shuts_down_cleanly(context: SuiteContext, guest: Guest) -> None:
    if not context.shutdown:
        assert guest.running, "the guest was to stay up"
        return
    guest.stop(float(str(context.settings["timeout"])))
    assert guest.hypervisor.state(guest.uuid, reason=True) == "shut off (shutdown)"
    assert "Failed unmounting" not in guest.read_console_tail(200)

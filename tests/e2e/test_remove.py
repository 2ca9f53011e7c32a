"""What must not be lost by a removal, nor left by one. No guest boots here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import remove
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.libvirt.connect import connect
from pipelines.pool import place
from tests.conftest import Virtroot

NAME = "kept"


@pytest.fixture(scope="module")
def guest(inv: Virtroot, trixie: Path) -> Iterator[Guest]:
    inv("install", NAME, "--artifact", str(trixie))
    found = guests.get(connect(inv.settings), NAME)
    yield found
    # Whatever name it has by now.
    found.hypervisor.virsh("undefine", found.uuid, check=False)
    found.target.run(["rm", "-rf", found.root, found.boot])


@pytest.fixture(autouse=True)
def whole(guest: Guest) -> Iterator[None]:
    """Whatever was refused: root, boot directory and domain are all there afterwards."""
    yield
    for path in (f"{guest.root}/etc/os-release", f"{guest.boot}/kernel", place.manifest(guest.boot)):
        assert guest.target.run(["test", "-s", path], check=False).returncode == 0, path
    assert guest.hypervisor.xml(guest.uuid) is not None


def refused(inv: Virtroot, name: str = NAME) -> str:
    return inv("remove", name, "--yes", status=2).stderr


def test_a_copy_of_the_domain_keeps_both_from_going(inv: Virtroot, guest: Guest) -> None:
    """As virt-clone makes it: metadata and root are the first one's."""
    definition = guest.hypervisor.virsh("dumpxml", "--inactive", guest.uuid).text
    copied = definition.replace(guest.uuid, "22222222-2222-4222-8222-222222222222").replace(
        f"<name>{NAME}</name>", "<name>copy</name>"
    )
    guest.hypervisor.virsh("define", "/dev/stdin", stdin=copied.encode())
    try:
        assert f"is the root of {NAME} too" in refused(inv, "copy")
        assert "is the root of copy too" in refused(inv)
    finally:
        guest.hypervisor.virsh("undefine", "copy")


def test_a_mount_in_the_root_is_not_emptied(inv: Virtroot, guest: Guest) -> None:
    """A bind mount of the same file system: rm --one-file-system goes right into it."""
    mounted = f"{guest.root}/srv"
    prepare = 'mkdir -p /var/lib/libvirt/precious; echo data > /var/lib/libvirt/precious/file; mount --bind "$2" "$1"'
    guest.target.run(["sh", "-ec", prepare, "mount", mounted, "/var/lib/libvirt/precious"])
    try:
        assert f"{mounted} is mounted inside {guest.root}" in refused(inv)
        assert guest.target.run(["cat", "/var/lib/libvirt/precious/file"]).text == "data"
    finally:
        guest.target.run(["umount", mounted])


def test_a_snapshot_is_told_before_anything_goes(inv: Virtroot, guest: Guest) -> None:
    definition = guest.hypervisor.virsh("dumpxml", "--inactive", guest.uuid).text
    told = "<name>before</name><state>shutoff</state><creationTime>1</creationTime>"
    snapshot = f"<domainsnapshot>{told}{definition}</domainsnapshot>".encode()
    guest.hypervisor.virsh("snapshot-create", guest.uuid, "/dev/stdin", "--redefine", stdin=snapshot)
    try:
        assert "libvirt keeps the snapshot before (virsh snapshot-delete)" in refused(inv)
    finally:
        guest.hypervisor.virsh("snapshot-delete", guest.uuid, "before", "--metadata")


def test_what_libvirt_refuses_to_undefine_keeps_its_root(inv: Virtroot, guest: Guest) -> None:
    """Whatever the reason: here virsh itself is taken away between the checks and the end."""
    wrapper = '#!/bin/sh\ncase "$*" in *undefine*) echo "error: no" >&2; exit 1 ;; esac\nexec /usr/bin/virsh "$@"\n'
    put = "cat > /usr/local/bin/virsh; chmod 755 /usr/local/bin/virsh"
    guest.target.run(["sh", "-ec", put], stdin=wrapper.encode())
    try:
        assert "was not removed, its root is unchanged" in refused(inv)
    finally:
        guest.target.run(["rm", "/usr/local/bin/virsh"])


def test_what_comes_between_question_and_answer_counts(inv: Virtroot, guest: Guest) -> None:
    definition = guest.hypervisor.virsh("dumpxml", "--inactive", guest.uuid).text
    copied = definition.replace(guest.uuid, "22222222-2222-4222-8222-222222222222").replace(
        f"<name>{NAME}</name>", "<name>copy</name>"
    )

    def hours_later(_: str) -> bool:
        guest.hypervisor.virsh("define", "/dev/stdin", stdin=copied.encode())
        return True

    try:
        with pytest.raises(VirtrootError, match="is the root of copy too"):
            remove.remove(NAME, CommandContext(inv.settings), ask=hours_later)
    finally:
        guest.hypervisor.virsh("undefine", "copy")


def test_nobody_answered(inv: Virtroot, guest: Guest) -> None:
    assert "was not removed" in inv("remove", NAME, status=2).stderr


@pytest.mark.parametrize("name", ["3", "5d4b1d6e-6e0c-4c58-9d7e-0e6f3b1f7a11"])
def test_a_name_that_virsh_would_take_for_another_guest(inv: Virtroot, trixie: Path, guest: Guest, name: str) -> None:
    assert "invalid guest name" in inv("install", name, "--artifact", str(trixie), status=2).stderr


def test_a_pool_that_is_open_to_others_is_not_closed(inv: Virtroot, trixie: Path, guest: Guest) -> None:
    guest.target.run(["mkdir", "-m", "755", "/srv/shared"])
    arguments = ("install", "elsewhere", "--artifact", str(trixie), "--pool", "other", "--pool-path", "/srv/shared")
    said = inv(*arguments, status=2).stderr
    mode = guest.target.run(["stat", "--format=%a", "/srv/shared"]).text
    guest.target.run(["rmdir", "/srv/shared"])
    assert "/srv/shared exists, and other users can enter it" in said
    assert mode == "755"
    assert "other" not in guest.hypervisor.virsh("pool-list", "--all", "--name").text.split()


def test_a_root_in_a_pool_of_the_users_own_passes(inv: Virtroot, trixie: Path, guest: Guest) -> None:
    pool, virsh = "/var/lib/libvirt/own", guest.hypervisor.virsh
    guest.target.run(["mkdir", "-m", "711", pool])
    virsh("pool-define-as", "own", "dir", "--target", pool)
    arguments = ("install", "passing", "--artifact", str(trixie), "--pool", "own")
    assert "warning: other users can enter" in inv(*arguments).stderr
    inv("verify", "passing")
    inv("remove", "passing", "--yes")
    virsh("pool-destroy", "own")
    virsh("pool-undefine", "own")
    assert guest.target.run(["ls", "-A", pool]).text == ""


def test_a_renamed_guest_goes_whole(inv: Virtroot, trixie: Path, guest: Guest) -> None:
    inv("install", "before", "--artifact", str(trixie))
    guest.hypervisor.virsh("domrename", "before", "after")
    inv("remove", "after", "--yes")
    left = guest.target.run(["find", "/var/lib/libvirt/filesystems", place.BOOT, "-maxdepth", "1", "-name", "*before*"])
    assert left.text == ""
    inv("install", "before", "--artifact", str(trixie))
    inv("remove", "before", "--yes")

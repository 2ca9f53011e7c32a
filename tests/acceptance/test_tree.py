"""The artifact's tree, before any guest was made of it."""

from __future__ import annotations

import shlex

import pytest
from testinfra.host import Host

from pipelines.artifact.manifest import Manifest
from pipelines.builder import private_keys
from pipelines.recipe import machine_specific
from pipelines.text import one_line, split_lines, trim
from tests.acceptance import expectations

pytestmark = pytest.mark.tree


def test_packages_are_the_manifests(tree: Host, manifest: Manifest) -> None:
    expectations.has_packages_of(tree, manifest)


def test_fstab_mounts_the_root_over_virtiofs(tree: Host) -> None:
    expectations.has_virtiofs_fstab(tree)


def test_no_boot_loader(tree: Host, manifest: Manifest) -> None:
    expectations.has_no_boot_loader(expectations.packages(tree, manifest), files=tree.file("/boot/grub").exists)


@pytest.mark.parametrize("which", ["kernel", "initrd"])
def test_boot_file_is_a_regular_file_of_the_manifests_version(tree: Host, manifest: Manifest, which: str) -> None:
    path = getattr(manifest.boot, which)
    if which == "initrd" and not path:
        listed = tree.file(expectations.modules_builtin(manifest.kernel_version)).content_string
        expectations.mounts_virtiofs_without_an_initramfs(listed, manifest.kernel_version)
        return
    real = tree.check_output("readlink -f %s", f"/{path}")
    assert tree.file(real).is_file
    assert tree.file(real).size > 1_000_000
    assert tree.file(f"/usr/lib/modules/{manifest.kernel_version}").is_directory


def test_kernel_modules_are_indexed(tree: Host, manifest: Manifest) -> None:
    assert tree.file(f"/usr/lib/modules/{manifest.kernel_version}/modules.dep").size > 0


#: What artifacts of all versions lack.
_ALWAYS_GONE = {"var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "etc/ssh/ssh_host_*"}


def _knows_keys(manifest: Manifest) -> bool:
    """Say whether the version that made the artifact looked for keys and ids."""
    return "private_keys" in manifest.model_fields_set


def test_no_identity_is_left(tree: Host, manifest: Manifest) -> None:
    assert trim(tree.file("/etc/machine-id").content_string) == ""
    for material in machine_specific.MATERIALS:
        if not machine_specific.is_in_overlay(material, manifest.overlay_keys):
            for pattern in material.paths if _knows_keys(manifest) else _ALWAYS_GONE & {*material.paths}:
                assert tree.check_output("find /etc /var/lib -path %s", f"/{pattern}") == ""
    # Arch: a secret key in it would be every guest's.
    assert not tree.file("/etc/pacman.d/gnupg").exists
    assert tree.check_output("find /etc /root /usr -name private-keys-v1.d -o -name secring.gpg") == ""


def test_every_private_key_was_found_by_the_build(tree: Host, manifest: Manifest) -> None:
    if (manifest.origin and manifest.origin.machine_id) or not _knows_keys(manifest):
        return  # It keeps its identity, or was built before keys were looked for.
    found = split_lines(tree.check_output(" ".join(map(shlex.quote, private_keys.make_command("/")))))
    assert {*map(one_line, found)} - {*manifest.private_keys, *manifest.overlay_keys} == set()


def test_nothing_of_the_build_is_left(tree: Host) -> None:
    assert tree.check_output("find /var/cache /var/log /tmp /run -type f -size +0 ! -path '/var/cache/debconf/*'") == ""
    assert tree.check_output("find /var/lib -path '/var/lib/apt/lists/*' -o -path '/var/lib/pacman/sync/*'") == ""
    assert not tree.file("/usr/sbin/policy-rc.d").exists
    resolver = tree.file("/etc/resolv.conf")
    assert not resolver.exists or resolver.is_symlink


def test_file_capabilities_survived(tree: Host) -> None:
    """ping is the usual carrier; where a root has no file with capabilities there is nothing to lose."""
    if tree.file("/usr/bin/ping").exists and tree.exists("getcap"):
        assert "cap_net_raw" in tree.check_output("getcap /usr/bin/ping")
    assert tree.file("/usr/bin/passwd").mode & 0o4000, "passwd lost its setuid bit"

"""Signs of the environment that a system comes from, and what an import does about them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.origin import rules as applying
from pipelines.origin import signs
from pipelines.origin.rules import Installed
from pipelines.origin.system import System
from pipelines.recipe.generators import GENERATORS
from pipelines.recipe.stage import ROOT, Command
from tests.support.systems import DEBIAN, applied
from tests.support.trees import IMPORT_ROOT, find_signs, tree, write

__all__ = ["tree"]


def apply(root: Path, shown: signs.Shown, system: System = DEBIAN) -> str:
    """Apply the rules of the signs ``shown`` to ``root``, and return their messages."""
    row = GENERATORS[system.distro, "initramfs-tools" if system.distro == "debian" else "mkinitcpio"]
    said = []
    for rule in applying._make_sign_rules(replace(system, signs=shown), Installed(frozenset(), row)):
        said.append(f"{'warning: ' if rule.warning else ''}{rule.said}")
        for step in rule.steps:
            assert isinstance(step, Command)
            argv = [str(IMPORT_ROOT) if each.endswith("/import-root") else each for each in step.argv]
            subprocess.run(["sh", *(str(root) if each == ROOT else each for each in argv)], check=True)
    return "\n".join(said)


#: Files of a system, the sign that each shows, and what of the content must be there afterwards (None: no file).
SHOWS = [
    ("usr/bin/cloud-init", "", "cloud-init", ""),
    ("usr/lib/systemd/system/walinuxagent.service", "[Unit]", "cloud-agents", "[Unit]"),
    ("usr/lib/systemd/system/google-guest-agent.service", "[Unit]", "cloud-agents", "[Unit]"),
    ("etc/systemd/system/amazon-ssm-agent.service", "[Unit]", "cloud-agents", ""),
    ("usr/lib/systemd/system/afterburn.service", "[Unit]", "cloud-agents", "[Unit]"),
    (".dockerenv", "", "container-marks", None),
    ("etc/environment", "A=b\ncontainer=docker\n", "container-variable", "A=b\n# container=docker\n"),
    ("etc/profile.d/x.sh", "export container=lxc", "container-variable", "# export container=lxc"),
    ("etc/hosts", "", "container-hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/hosts", "127.0.0.1 localhost\n172.17.0.2\t3f2aab01c2d4\n10.0.0.9 nas\n", "container-hosts",
     "127.0.0.1 localhost\n10.0.0.9 nas\n"),
    ("etc/systemd/system/systemd-udevd.service", "->/dev/null", "container-masks", None),
    ("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", "policy", None),
    ("etc/apt/apt.conf.d/docker-clean", "DPkg::Post-Invoke {};", "docker-apt", None),
    ("etc/dpkg/dpkg.cfg.d/docker", "path-exclude=/usr/share/doc/*", "docker-apt", None),
    ("etc/dpkg/dpkg.cfg.d/speed", "force-unsafe-io\n", "unsafe-io", "# force-unsafe-io\n"),
    ("etc/dpkg/dpkg.cfg", "log /x\nforce-unsafe-io", "unsafe-io", "log /x\n# force-unsafe-io"),
    ("etc/apt/apt.conf", 'Acquire::http::Proxy "http://127.0.0.1:3142";\n', "apt-proxy",
     '// Acquire::http::Proxy "http://127.0.0.1:3142";\n'),
    ("etc/apt/apt.conf.d/01p", 'Acquire::https::Proxy::host "localhost:1";', "apt-proxy",
     '// Acquire::https::Proxy::host "localhost:1";'),
    ("etc/environment", 'HTTPS_PROXY="http://localhost:8080"\n', "proxy-variable",
     '# HTTPS_PROXY="http://localhost:8080"\n'),
    ("etc/mdadm/mdadm.conf", "MAILADDR root\nARRAY /dev/md0 UUID=1\n", "arrays",
     "MAILADDR root\n# ARRAY /dev/md0 UUID=1\n"),
    ("usr/lib/systemd/system/dphys-swapfile.service", "[Unit]", "swap-services", "[Unit]"),
    ("etc/kernel-img.conf", "do_symlinks = No\nwarn_reboot = yes\n", "kernel-img",
     "warn_reboot = yes\ndo_symlinks = yes\n"),
    ("etc/kernel-img.conf", "link_in_boot=yes\nimage_dest = /boot\n", "kernel-img", "do_symlinks = yes\n"),
    ("etc/kernel-img.conf", "no_symlinks = 1\n", "kernel-img", "do_symlinks = yes\n"),
    ("etc/initramfs-tools/update-initramfs.conf", "update_initramfs=no\n", "no-update", "update_initramfs=yes\n"),
    ("etc/initramfs-tools/conf.d/driver-policy", "MODULES=dep\n", "modules-of-a-machine", "MODULES=most\n"),
    ("etc/initramfs-tools/initramfs.conf", 'A=b\nMODULES="list"\n', "modules-of-a-machine", "A=b\nMODULES=most\n"),
    ("etc/initramfs-tools/initramfs.conf", "BOOT=nfs\n", "boot-from-net", "BOOT=local\n"),
    ("etc/kernel/postinst.d/initramfs-tools", "#!/bin/sh\n", "inert-hooks", "#!/bin/sh\n"),
    ("etc/pacman.d/hooks/90-mkinitcpio-install.hook", "->/dev/null", "masked-hooks", None),
    ("etc/mkinitcpio.d/linux.preset", 'default_uki="/efi/a.efi"\n', "unified-images",
     '#default_uki="/efi/a.efi"\ndefault_image="/boot/initramfs-linux.img"\n'),
    ("etc/dracut.conf.d/uki.conf", 'uefi="yes"\n', "unified-by-dracut", '# uefi="yes"\n'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "content", "name", "after"), SHOWS)
def test_a_sign_shows_and_is_undone(tree: Path, path: str, content: str, name: str, after: str | None) -> None:
    file = write(tree, path, content)
    shown = find_signs(tree)
    assert name in shown
    assert [each for each, _ in shown[name]] == [path]
    said = apply(tree, shown)
    assert path in said or file.name in said or name.startswith("cloud")
    assert (file.read_text() if file.is_file() else None) == after or (after == "" and file.is_symlink())
    # A corrected file is not a sign any more.
    assert name not in find_signs(tree)


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("etc/apt/apt.conf.d/p", 'Acquire::http::Proxy "http://cache.lan:3142";', "asks the proxy http://cache.lan"),
        ("etc/apt/apt.conf.d/p", 'Acquire { http { Proxy "http://localhost:1"; } }', "asks the proxy http://localhost"),
        ("etc/apt/sources.list", "deb [trusted=yes] file:/srv/mirror ./\n", "packages come from file:/srv/mirror"),
        ("etc/apt/sources.list.d/a.sources", "URIs: http://localhost:8080/debian\n", "come from http://localhost:8080"),
        ("etc/apt/apt.conf.d/x", 'APT::Get::AllowUnauthenticated "true";', "check less than it could"),
        ("etc/dpkg/dpkg.cfg.d/small", "path-exclude /usr/share/man/*\n", "keeps files out of packages"),
        ("etc/pacman.conf", "NoExtract = usr/share/help/*\n", "keeps files out of packages"),
        ("etc/netplan/x.yaml", "network:\n addresses: [10.0.0.5/24]\n", "the fixed address 10.0.0.5/24"),
        ("etc/network/interfaces", "iface ens3 inet static\n  address 10.0.0.6\n", "the fixed address 10.0.0.6"),
        ("etc/systemd/network/a.network", "[Network]\nAddress=10.0.0.7/24\n", "the fixed address 10.0.0.7/24"),
    ],
)
def test_a_sign_that_is_not_undone_is_a_warning_with_the_file(tree: Path, path: str, content: str, words: str) -> None:
    write(tree, path, content)
    before = {each: each.read_bytes() for each in tree.rglob("*") if each.is_file()}
    said = [line for line in apply(tree, find_signs(tree)).splitlines() if line.startswith("warning: ")]
    assert any(path in line and re.search(words, line) for line in said), said
    assert {each: each.read_bytes() for each in tree.rglob("*") if each.is_file()} == before


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("etc/cloud/cloud-init.disabled", ""),
        ("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n"),
        ("etc/environment", "http_proxy=http://proxy.lan:1\ncontainers=3\n"),
        ("etc/apt/apt.conf.d/a", '// Acquire::http::Proxy "http://localhost";\nAcquire::http::Proxy "DIRECT";\n'),
        ("etc/apt/sources.list", "deb http://mirror.lan/debian trixie main\n# deb file:/srv x\n"),
        ("etc/initramfs-tools/initramfs.conf", "# MODULES=dep\nMODULES=most\nBOOT=local\n"),
        ("etc/kernel-img.conf", "do_symlinks = yes\ndo_initrd = yes\n"),
        ("etc/netplan/x.yaml", "network:\n  nameservers:\n    addresses: [9.9.9.9]\n"),
        ("etc/systemd/system/own.service", "->/dev/null"),
        ("etc/systemd/system/walinuxagent.service", "->/dev/null"),
        ("etc/hosts", "127.0.0.1 localhost\n10.0.0.1 deadbeef\n10.0.0.2 nas.lan nas\n"),
    ],
)
def test_ordinary_configuration_is_not_a_sign(tree: Path, path: str, content: str) -> None:
    if path.startswith("etc/cloud"):
        write(tree, "usr/bin/cloud-init")
    write(tree, path, content)
    shown = {name for name in find_signs(tree) if signs.BY_NAME[name].said}
    assert shown == set()


def test_a_link_out_of_the_tree_is_neither_read_nor_written(tree: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "initramfs.conf").write_text("MODULES=dep\n")
    (tree / "etc/initramfs-tools").symlink_to(victim)
    (tree / "etc/environment").symlink_to(victim / "initramfs.conf")
    assert not [name for name in find_signs(tree) if signs.BY_NAME[name].said]
    arguments = ["replace", str(tree), "MODULES=.*", "MODULES=most", "etc/initramfs-tools/initramfs.conf"]
    assert subprocess.run(["sh", str(IMPORT_ROOT), *arguments], capture_output=True, check=False).returncode == 1
    assert (victim / "initramfs.conf").read_text() == "MODULES=dep\n"


def test_a_file_that_is_moved_is_reported_once_and_kept(tree: Path) -> None:
    write(tree, "etc/dpkg/dpkg.cfg.d/docker", "path-exclude /usr/share/doc/*\n")
    said = apply(tree, find_signs(tree))
    assert said.count("dpkg.cfg.d/docker") == 1
    kept = tree / "var/lib/virtroot/before-import/etc/dpkg/dpkg.cfg.d/docker"
    assert kept.read_text() == "path-exclude /usr/share/doc/*\n"


def test_diverted_programs_are_named_by_their_path(tree: Path) -> None:
    entries = ("/usr/sbin/start-stop-daemon\n/usr/sbin/start-stop-daemon.REAL\n:\n"
               "/usr/bin/foo\n/usr/bin/foo.distrib\n:\n/sbin/initctl\n/sbin/initctl.distrib\nupstart\n")  # fmt: skip
    write(tree, "var/lib/dpkg/diversions", entries)
    [(_, texts)] = find_signs(tree)["diversions"]
    assert texts == ("/usr/sbin/start-stop-daemon",)
    lines = applied(replace(DEBIAN, signs=find_signs(tree)), "initramfs-tools")
    assert "import-root undivert /rootfs/root /usr/sbin/start-stop-daemon" in lines

"""What shows where a system came from, and what is done about it: the table, on trees made for it."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin import owners, signs, system_facts
from pipelines.origin import rules as applying
from pipelines.origin.network import Network, plan
from pipelines.origin.rules import Installed
from pipelines.origin.system import System, refuse_incomplete
from pipelines.recipe.generators import GENERATORS
from pipelines.recipe.stage import ROOT, Command
from pipelines.settings import CHECKOUT
from pipelines.target.payload import signs as searching
from pipelines.target.target import Local
from tests.support.systems import ARCH, DEBIAN, applied

_SCRIPT = CHECKOUT / "containerfiles/debian/import-root"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that shows nothing."""
    root = tmp_path / "system"
    (root / "etc").mkdir(parents=True)
    root.chmod(0o755)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    return root


def write(root: Path, path: str, content: str = "") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if content.startswith("->"):
        file.symlink_to(content[2:])
    else:
        file.write_text(content)
    return file


def look(root: Path) -> signs.Shown:
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        return signs.parse_answer(searching.find(descriptor, signs.make_queries()))
    finally:
        os.close(descriptor)


def apply(root: Path, shown: signs.Shown, system: System = DEBIAN) -> str:
    """Do in ``root`` what the rules of the signs that show do there; return what is said."""
    row = GENERATORS[system.distro, "initramfs-tools" if system.distro == "debian" else "mkinitcpio"]
    said = []
    for rule in applying._make_sign_rules(replace(system, signs=shown), Installed(frozenset(), row)):
        said.append(f"{'warning: ' if rule.warning else ''}{rule.said}")
        for step in rule.steps:
            assert isinstance(step, Command)
            argv = [str(_SCRIPT) if each.endswith("/import-root") else each for each in step.argv]
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
    shown = look(tree)
    assert name in shown
    assert [each for each, _ in shown[name]] == [path]
    said = apply(tree, shown)
    assert path in said or file.name in said or name.startswith("cloud")
    assert (file.read_text() if file.is_file() else None) == after or (after == "" and file.is_symlink())
    # What was done is not undone by the next look, and needs no further one.
    assert name not in look(tree)


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
def test_what_is_not_undone_is_a_warning_that_names_the_file(tree: Path, path: str, content: str, words: str) -> None:
    write(tree, path, content)
    before = {each: each.read_bytes() for each in tree.rglob("*") if each.is_file()}
    said = [line for line in apply(tree, look(tree)).splitlines() if line.startswith("warning: ")]
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
def test_what_is_a_system_s_own_shows_nothing(tree: Path, path: str, content: str) -> None:
    if path.startswith("etc/cloud"):
        write(tree, "usr/bin/cloud-init")
    write(tree, path, content)
    shown = {name for name in look(tree) if signs.BY_NAME[name].said}
    assert shown == set()


def test_a_link_out_of_the_tree_is_neither_read_nor_written(tree: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "initramfs.conf").write_text("MODULES=dep\n")
    (tree / "etc/initramfs-tools").symlink_to(victim)
    (tree / "etc/environment").symlink_to(victim / "initramfs.conf")
    assert not [name for name in look(tree) if signs.BY_NAME[name].said]
    arguments = ["replace", str(tree), "MODULES=.*", "MODULES=most", "etc/initramfs-tools/initramfs.conf"]
    assert subprocess.run(["sh", str(_SCRIPT), *arguments], capture_output=True, check=False).returncode == 1
    assert (victim / "initramfs.conf").read_text() == "MODULES=dep\n"


def test_what_is_put_aside_is_said_once_and_kept(tree: Path) -> None:
    write(tree, "etc/dpkg/dpkg.cfg.d/docker", "path-exclude /usr/share/doc/*\n")
    said = apply(tree, look(tree))
    assert said.count("dpkg.cfg.d/docker") == 1
    kept = tree / "var/lib/virtroot/before-import/etc/dpkg/dpkg.cfg.d/docker"
    assert kept.read_text() == "path-exclude /usr/share/doc/*\n"


def test_placeholders_of_a_build_are_named_by_what_they_stand_for(tree: Path) -> None:
    entries = ("/usr/sbin/start-stop-daemon\n/usr/sbin/start-stop-daemon.REAL\n:\n"
               "/usr/bin/foo\n/usr/bin/foo.distrib\n:\n/sbin/initctl\n/sbin/initctl.distrib\nupstart\n")  # fmt: skip
    write(tree, "var/lib/dpkg/diversions", entries)
    [(_, texts)] = look(tree)["diversions"]
    assert texts == ("/usr/sbin/start-stop-daemon",)
    lines = applied(replace(DEBIAN, signs=look(tree)), "initramfs-tools")
    assert "import-root undivert /rootfs/root /usr/sbin/start-stop-daemon" in lines


@pytest.mark.parametrize(
    ("files", "found", "expected"),
    [
        # A container's file system, and a cloud image whose network cloud-init would have written.
        ({}, set(), Network(fallback=True, enable=True, resolver="install")),
        ({"usr/lib/systemd/systemd-resolved": ""}, set(), Network(fallback=True, enable=True, resolver="stub")),
        ({"etc/systemd/system/multi-user.target.wants/NetworkManager.service": "", "usr/sbin/NetworkManager": "",
          "etc/resolv.conf": ""}, {"etc/resolv.conf"}, Network(resolver="remove")),
        ({"etc/network/interfaces": "iface lo inet loopback\n"}, {"etc/resolv.conf"},
         Network(fallback=True, enable=True)),
        ({"etc/network/interfaces": "iface ens3 inet dhcp\n"}, {"etc/resolv.conf"}, Network(rename="ens3")),
        ({"etc/netplan/50.yaml": "network:\n ethernets:\n  lan:\n   match:\n    macaddress: '52:54:00:1:2:3'\n"},
         {"etc/resolv.conf"}, Network(fallback=True, enable=True)),
        ({"etc/systemd/network/10.network": "[Match]\nMACAddress=52:54:00:00:00:01\n",
          "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": ""}, {"etc/resolv.conf"},
         Network(fallback=True)),
        ({"etc/systemd/network/10.link": "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=lan0\n",
          "etc/systemd/network/10.network": "[Match]\nName=lan0\n",
          "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": ""}, {"etc/resolv.conf"},
         Network(rename="lan0")),
        ({"etc/udev/rules.d/70-persistent-net.rules": 'SUBSYSTEM=="net", ATTR{address}=="52:54", NAME="eth0"\n',
          "etc/network/interfaces": "iface eth0 inet dhcp\n"}, {"etc/resolv.conf"}, Network(rename="eth0")),
        # Programs that nothing starts write no name servers.
        ({"usr/sbin/dhcpcd": ""}, set(), Network(fallback=True, enable=True, resolver="install")),
        ({"usr/sbin/dhcpcd": "", "etc/network/interfaces": "iface ens3 inet dhcp\n"}, set(), Network(rename="ens3")),
        ({"etc/netplan/50.yaml": "network:\n ethernets:\n  lan:\n   match:\n    macaddress: '52:54:00:1:2:3'\n",
          "etc/systemd/system/multi-user.target.wants/NetworkManager.service": ""}, {"etc/resolv.conf"}, Network()),
        ({"etc/network/interfaces": "iface wlan0 inet dhcp\n"}, {"etc/resolv.conf"}, Network()),
        ({"etc/network/interfaces": "iface ens3 inet dhcp\niface ens4 inet dhcp\n"}, {"etc/resolv.conf"}, Network()),
    ],
)  # fmt: skip
def test_the_guest_s_card_gets_an_address_and_name_servers(
    tree: Path, files: dict[str, str], found: set[str], expected: Network
) -> None:
    for path, content in files.items():
        write(tree, path, content)
    system = system_facts.collect(Local(), str(tree))
    assert plan(system.signs, system.cards, frozenset(found), "debian") == expected


@pytest.mark.parametrize(
    "content", ["", "# Generated by Docker Engine.\nnameserver 1.1.1.1\n", "nameserver 127.0.0.11\noptions ndots:0\n"]
)
def test_name_servers_of_a_container_engine_are_replaced(tree: Path, content: str) -> None:
    write(tree, "etc/resolv.conf", content)
    write(tree, "usr/lib/systemd/systemd-resolved")
    assert plan(look(tree), (), frozenset({"etc/resolv.conf"}), "debian").resolver == "stub"
    subprocess.run(["sh", str(_SCRIPT), "resolv", str(tree), "stub"], check=True)
    assert (tree / "etc/resolv.conf").readlink() == Path("../run/systemd/resolve/stub-resolv.conf")


def test_a_card_s_name_is_that_of_the_configuration(tree: Path) -> None:
    subprocess.run(["sh", str(_SCRIPT), "card", str(tree), "ens3"], check=True)
    link = (tree / "etc/systemd/network/10-virtroot-card.link").read_text()
    assert "[Match]\nDriver=virtio_net\n\n[Link]\nName=ens3\n" in link


def test_a_system_without_a_kernel_is_refused_with_what_it_lacks() -> None:
    container = replace(DEBIAN, kernels=(), signs={"container-marks": ((".dockerenv", ()),)})
    with pytest.raises(VirtrootError, match="has no kernel in /boot, like any container") as failed:
        refuse_incomplete(container, frozenset({"bash"}))
    assert failed.value.hint == "install in the system first: linux-image-amd64, initramfs-tools"
    with pytest.raises(VirtrootError) as failed:
        refuse_incomplete(replace(ARCH, kernels=()), frozenset({"dracut"}))
    assert failed.value.hint == "install in the system first: linux"
    refuse_incomplete(replace(DEBIAN, kernels=(), found=DEBIAN.found | {"vmlinuz"}), frozenset())


ROOTS = dict.fromkeys(owners.ASKED, (0, 0, 0o755))


def test_owners_that_are_shifted_are_refused_and_moved_back() -> None:
    owners.refuse_shifted(ROOTS)
    owners.refuse_shifted({**ROOTS, ".": (1000, 1000, 0o700), "usr/bin/mount": (0, 6, 0o4755)})
    shifted = {path: (100000, 100000, mode) for path, (_, _, mode) in ROOTS.items()}
    with pytest.raises(VirtrootError, match="shifted by 100000") as failed:
        owners.refuse_shifted({**shifted, ".": (0, 0, 0o755)})
    assert "--shift-ids" in failed.value.hint
    assert owners.get_offset("auto", shifted) == 100000
    assert owners.get_offset("165536", shifted) == 165536


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (dict.fromkeys(owners.ASKED, (1000, 1000, 0o755)), "everything belongs to user 1000"),
        ({"usr/bin/su": (1000, 0, 0o4755)}, "usr/bin/su belongs to user 1000"),
        ({"usr": (100000, 100000, 0o755)}, "usr belongs to user 100000"),
    ],
)
def test_owners_that_are_lost_are_refused(changed: dict[str, tuple[int, int, int]], why: str) -> None:
    with pytest.raises(VirtrootError, match=why):
        owners.refuse_shifted({**ROOTS, **changed})


@pytest.mark.parametrize("asked", ["", "0", "x", "-1", "1000", "99999999999"])
def test_an_offset_that_is_none_is_refused(asked: str) -> None:
    with pytest.raises(VirtrootError, match="not a number of at least 65536"):
        owners.get_offset(asked, ROOTS)
    with pytest.raises(VirtrootError, match="are not shifted"):
        owners.get_offset("auto", ROOTS)


def _acl(user: int) -> bytes:
    entries = (
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 6, user),
        (0x04, 5, 0xFFFFFFFF),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def shift(root: Path, offset: int) -> subprocess.CompletedProcess[str]:
    argv = ["python3", str(CHECKOUT / "containerfiles/debian/shift-owners"), str(root), str(offset)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """A tree as root of a user namespace left it: setuid, an ACL, a capability of that namespace, links."""
    root = tmp_path / "system"
    root.mkdir()
    su = write(root, "usr/su", "program")
    write(root, "usr/mine")
    ping = write(root, "usr/ping")
    (root / "usr/ping2").hardlink_to(ping)
    write(root, "usr/away", "->/etc/shadow")
    for path in [root, *root.rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    os.chown(root / "usr/mine", 101000, 100050)
    su.chmod(0o6755)
    os.utime(su, ns=(1_000_000_001, 1_000_000_001))
    os.setxattr(root / "usr/mine", "system.posix_acl_access", _acl(104242))
    os.setxattr(ping, "security.capability", struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 100000))
    return root


def test_shifted_owners_move_back_with_acls_capabilities_and_setuid(shifted: Path) -> None:
    shadow = Path("/etc/shadow").stat()
    assert shift(shifted, 100000).returncode == 0
    ids = {path.name: path.lstat()[4:6] for path in [shifted, *shifted.rglob("*")]}
    assert ids == {"system": (0, 0), "usr": (0, 0), "su": (0, 0), "mine": (1000, 50), "ping": (0, 0), "ping2": (0, 0),
                   "away": (0, 0)}  # fmt: skip
    su = (shifted / "usr/su").stat()
    assert (su.st_mode & 0o7777, su.st_mtime_ns) == (0o6755, 1_000_000_001)
    assert os.getxattr(shifted / "usr/mine", "system.posix_acl_access") == _acl(4242)
    capability = os.getxattr(shifted / "usr/ping2", "security.capability")
    assert capability == struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    assert Path("/etc/shadow").stat()[4:6] == shadow[4:6]


def test_a_tree_with_other_owners_too_stays_as_it_is(shifted: Path) -> None:
    os.chown(shifted / "usr/mine", 5, 5)
    done = shift(shifted, 100000)
    assert done.returncode == 1
    assert "usr/mine' has the id 5" in done.stderr
    assert (shifted / "usr/su").stat().st_uid == 100000


def test_a_tree_that_cannot_be_listed_to_its_end_stays_as_it_is(shifted: Path) -> None:
    """Deeper than a path can say: half of it must not be left with the owners of the other machine."""
    here = os.open(shifted, os.O_RDONLY)
    for _ in range(50):
        os.mkdir("d" * 100, dir_fd=here)
        os.chown("d" * 100, 100000, 100000, dir_fd=here)
        here, above = os.open("d" * 100, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    done = shift(shifted, 100000)
    assert done.returncode == 1
    assert "File name too long" in done.stderr
    assert (shifted / "usr/su").stat().st_uid == 100000
    subprocess.run(["rm", "-rf", "--", str(shifted)], check=True)

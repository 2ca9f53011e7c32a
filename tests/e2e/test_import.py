"""A Debian system that ran from disks is imported, as a tarball and as a directory; its guest passes as any other."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import load
from pipelines.engine import engine as engines
from pipelines.guest.guest import get
from pipelines.host import process
from pipelines.libvirt.connect import connect
from pipelines.origin import guestfs
from tests.conftest import Virtroot, named

MACHINE_ID = "5d4b1d6e6e0c4c589d7e0e6f3b1f7a11"

FSTAB = """\
# /etc/fstab: static file system information.
UUID=aaaa / ext4 errors=remount-ro 0 1
UUID=bbbb /srv/data ext4 defaults 0 2
UUID=cccc none swap sw 0 0
"""

GRUB = "grub-common, grub-pc, grub-pc-bin, grub2-common"

#: What only a copy that keeps everything keeps; none of it is touched by a rule.
_SPECIAL = "srv/special"

_KEEP = (*archive.KEEP, "--preserve-permissions", "--same-owner")


@pytest.fixture(scope="module")
def system(trixie: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian system as it lay on a disk: with what such a system has, and with files of every kind."""
    root = unpack(trixie, tmp_path_factory.mktemp("system") / "root")
    (root / "usr/share/initramfs-tools/modules.d/virtroot.conf").unlink()
    (root / "usr/lib/systemd/system/virtroot-sshd-keygen.service").unlink()
    (root / "etc/systemd/system/multi-user.target.wants/virtroot-sshd-keygen.service").unlink(missing_ok=True)
    # Where it finds its configuration, it looks for the disk that it is on.
    _install_a_boot_loader(root)
    for path, content in {
        "etc/fstab": FSTAB,
        "etc/hostname": "oldbox\n",
        "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 oldbox\n10.0.0.9 nas\n",
        "etc/machine-id": f"{MACHINE_ID}\n",
        "etc/initramfs-tools/conf.d/resume": "RESUME=UUID=cccc\n",
        "etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n',
        "boot/grub/grub.cfg": "menuentry\n",
        "etc/crypttab": "data UUID=dddd none luks\n",
        "etc/network/interfaces.d/main": "allow-hotplug ens3\niface ens3 inet dhcp\n",
        "etc/systemd/system/dev-sdb2.swap": "[Swap]\nWhat=/dev/sdb2\n[Install]\nWantedBy=swap.target\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    in_root(root, "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key")
    wants = root / "etc/systemd/system/swap.target.wants"
    wants.mkdir()
    (wants / "dev-sdb2.swap").symlink_to("/etc/systemd/system/dev-sdb2.swap")
    _come_from_elsewhere(root)
    _make_special(root / _SPECIAL)
    return root


#: Leftovers of a cloud, a container engine, a build and an old network; each breaks a boot, an upgrade or the network.
_LEFTOVERS = {
    ".dockerenv": "",
    "usr/bin/cloud-init": "#!/bin/sh\nexec sleep 300\n",
    "usr/lib/systemd/system/walinuxagent.service": "[Service]\nExecStart=/bin/false\n",
    "usr/lib/systemd/system/swapfile.swap": "[Swap]\nWhat=/swapfile\n",
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    "etc/apt/apt.conf.d/01proxy": 'Acquire::http::Proxy "http://127.0.0.1:3142";\n',
    "etc/dpkg/dpkg.cfg.d/docker-apt-speedup": "force-unsafe-io\n",
    "etc/kernel-img.conf": "do_symlinks = no\n",
    "etc/initramfs-tools/update-initramfs.conf": "update_initramfs=no\n",
    "etc/initramfs-tools/conf.d/driver-policy": "MODULES=dep\n",
    "etc/systemd/network/10-old.network": "[Match]\nMACAddress=52:54:00:aa:bb:cc\n[Network]\nDHCP=yes\n",
}


def _come_from_elsewhere(root: Path) -> None:
    for path, content in _LEFTOVERS.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    for path in ("usr/bin/cloud-init", "usr/sbin/policy-rc.d"):
        (root / path).chmod(0o755)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    for unit in ("walinuxagent.service", "swapfile.swap"):
        (wants / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")
    with (root / "etc/hosts").open("a") as hosts:
        hosts.write("172.17.0.2\t3f2aab01c2d4\n")
    (root / "etc/systemd/network/80-virtroot-dhcp.network").unlink()
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").touch()


def _install_a_boot_loader(root: Path) -> None:
    """Install grub as Debian's installer does, but for writing it to a disk."""
    resolver = root / "etc/resolv.conf"
    before = resolver.readlink() if resolver.is_symlink() else None
    resolver.unlink(missing_ok=True)
    resolver.write_text(Path("/etc/resolv.conf").read_text())
    install = "apt-get -qq update && apt-get -qq install --no-install-recommends grub-pc; rm -rf /var/lib/apt/lists"
    in_root(root, install)
    resolver.unlink()
    if before:
        resolver.symlink_to(before)


def in_root(root: Path, script: str) -> None:
    done = subprocess.run(
        ["chroot", str(root), "sh", "-ec", script],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _make_special(directory: Path) -> None:
    directory.mkdir(mode=0o2751)
    directory.chmod(0o2751)
    plain = directory / "owned"
    plain.write_text("mine\n")
    os.chown(plain, 12345, 54321)
    plain.chmod(0o4750)
    os.utime(plain, ns=(1_000_000_001, 1_000_000_001))
    (directory / "linked").hardlink_to(plain)
    (directory / "dangling").symlink_to("/nowhere/at all")
    os.setxattr(plain, "user.note", b"\0bytes")
    # What overlayfs keeps of a directory whose deleted files must not come back.
    os.setxattr(directory, "trusted.overlay.opaque", b"y")
    # cap_net_raw=ep, and rw for the user 4242, as the kernel keeps them.
    os.setxattr(plain, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    nobody = 0xFFFFFFFF
    entries = ((0x01, 7, nobody), (0x02, 6, 4242), (0x04, 5, nobody), (0x10, 7, nobody), (0x20, 0, nobody))
    listed = directory / "listed"
    listed.touch()
    os.setxattr(listed, "security.selinux", b"system_u:object_r:etc_t:s0\0")
    packed = b"".join(struct.pack("<HHI", *each) for each in entries)
    os.setxattr(listed, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    os.mknod(directory / "device", stat.S_IFBLK | 0o640, os.makedev(7, 42))
    os.mkfifo(directory / "pipe", 0o600)
    (directory / "a\nname").touch()
    with (directory / "sparse").open("wb") as sparse:
        sparse.truncate(32 << 20)
        sparse.seek(16 << 20)
        sparse.write(b"middle")


def facts(directory: Path) -> dict[str, object]:
    """Return what there is to know of each entry below ``directory``."""
    found: dict[str, object] = {}
    for path in sorted([directory, *directory.rglob("*")]):
        known = path.lstat()
        link = path.is_symlink()
        attributes = () if link else tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
        regular = stat.S_ISREG(known.st_mode)
        found[str(path.relative_to(directory))] = (
            oct(known.st_mode),
            (known.st_uid, known.st_gid, known.st_rdev),
            (known.st_nlink, known.st_size) if regular else (),
            known.st_mtime_ns if path.name == "owned" else 0,
            str(path.readlink()) if link else "",
            attributes,
            path.read_bytes() if regular and known.st_size < 100 else b"",
        )
    return found


def unpack(artifact: Path, directory: Path, *paths: str) -> Path:
    directory.mkdir()
    argv = [
        "tar",
        "--extract",
        "--zstd",
        *_KEEP,
        "--directory",
        str(directory),
        "--file",
        str(artifact / "rootfs.tar.zst"),
    ]
    subprocess.run([*argv, *(f"./{path}" for path in paths)], check=True)
    return directory


@pytest.fixture(scope="module")
def imported(inv: Virtroot, system: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of the system's tarball, whose tree is in a directory of its own."""
    tarball = tmp_path_factory.mktemp("tarball") / "oldbox.tar.gz"
    argv = ["tar", "--create", "--sparse", "--use-compress-program=gzip -1", *_KEEP, "--file", str(tarball)]
    subprocess.run([*argv, "--directory", str(system.parent), "root"], check=True)
    done = inv("import", "oldbox", str(tarball))
    for said in (
        "it is Debian GNU/Linux 13 (trixie), its initramfs made by initramfs-tools",
        "fstab has the one line of a virtiofs root",
        "swap on UUID=cccc is not used any more",
        "/srv/data was a file system of its own on UUID=bbbb",
        "crypttab with 1 lines is put aside",
        "the unit dev-sdb2.swap waits for a disk",
        "the resume device in etc/initramfs-tools/conf.d/resume is purged",
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet"',
        f"the hypervisor loads the kernel: {GRUB} purged",
        "etc/network/interfaces.d/main names the network card ens3: the guest's card is called ens3",
        "cloud-init is disabled by etc/cloud/cloud-init.disabled",
        "agents of a cloud are masked: walinuxagent.service",
        ".dockerenv of a container engine is removed",
        "usr/sbin/policy-rc.d, which keeps packages from starting their services, is put aside",
        "the proxy http://127.0.0.1:3142 in etc/apt/apt.conf.d/01proxy was on the machine of the build",
        "do_symlinks = no in etc/kernel-img.conf would keep the links to the kernel as they are",
        "update_initramfs in etc/initramfs-tools/update-initramfs.conf is yes now",
        "MODULES in etc/initramfs-tools/conf.d/driver-policy is most now",
        "etc/systemd/network/10-old.network matches a card of the old machine: systemd-networkd asks",
        "etc/resolv.conf is systemd-resolved's",
        "the unit swapfile.swap waits for a disk and is put aside",
        "virtiofs and virtio_pci are in initramfs-tools's initramfs",
        "its identity (machine-id, ssh host keys) is left behind",
    ):
        assert said in done.stderr, said
    return Path(done.stdout.strip())


def test_everything_arrives_that_is_not_changed_on_purpose(
    inv: Virtroot, imported: Path, system: Path, tmp_path: Path
) -> None:
    manifest = load(imported / "manifest.json")
    assert manifest.origin is not None
    assert (manifest.origin.kind, manifest.origin.machine_id) == ("tarball", "")
    assert not [package for package in manifest.packages if "grub" in package.name]
    tree = unpack(imported, tmp_path / "tree", _SPECIAL, "etc", "usr/sbin", "usr/share/initramfs-tools/modules.d")
    expected = facts(system / _SPECIAL)
    assert len(expected) == 9
    assert facts(tree / _SPECIAL) == expected
    assert (tree / _SPECIAL / "sparse").stat().st_blocks < 2048
    fstab = (tree / "etc/fstab").read_text().splitlines()
    assert [line for line in fstab if not line.startswith("#")] == ["root / virtiofs defaults 0 0"]
    assert all(f"# {line}" in fstab for line in FSTAB.splitlines())
    assert (tree / "etc/crypttab.before-virtroot").read_text() == (system / "etc/crypttab").read_text()
    assert not (tree / "etc/default/grub").exists()
    assert (tree / "etc/machine-id").read_text() == ""
    assert not list((tree / "etc/ssh").glob("ssh_host_*"))
    hosts = (system / "etc/hosts").read_text()
    assert (tree / "etc/hosts").read_text() == hosts.replace("172.17.0.2\t3f2aab01c2d4\n", "")
    assert not (tree / "usr/sbin/policy-rc.d").exists()
    assert (tree / "etc/resolv.conf").readlink() == Path("../run/systemd/resolve/stub-resolv.conf")
    # The same system boots below, imported from its disk.
    assert (tree / "etc/kernel-img.conf").read_text() == "do_symlinks = yes\n"


@pytest.mark.parametrize("after", ["it is Debian", "the hypervisor loads the kernel"])
def test_a_killed_import_leaves_nothing_under_a_final_name(
    inv: Virtroot, imported: Path, system: Path, after: str
) -> None:
    task = inv.start("import", "oldbox", str(system))
    assert task.stderr is not None
    assert next((line for line in task.stderr if after in line), None)
    os.kill(task.pid, signal.SIGKILL)
    task.communicate()
    assert (imported.parent / "latest").resolve() == imported
    published = [entry for entry in imported.parent.iterdir() if not entry.name.startswith(".")]
    assert sorted(entry.name for entry in published) == [imported.name, "latest"]


#: Makes a disk of a tar, with GPT, swap and data, and the root on LVM: on LUKS, or for grub to boot.
_MAKE_DISK = """
import guestfs, sys
tar, image, locked = sys.argv[1], sys.argv[2], sys.argv[2] == "/locked"
g = guestfs.GuestFS(python_return_dict=True)
kind = "qcow2" if locked else "raw"
g.disk_create(image, kind, 3 << 30)
g.add_drive_opts(image, format=kind)
g.launch()
g.part_init("/dev/sda", "gpt")
begin = 2048
for size in (4, 1700, 100, 400):
    g.part_add("/dev/sda", "p", begin, begin + size * 2048 - 1)
    begin += size * 2048
g.part_set_gpt_type("/dev/sda", 1, "21686148-6449-6E6F-744E-656564454649")
device = "/dev/sda2"
if locked:
    g.luks_format(device, "open sesame", 0)
    g.cryptsetup_open(device, "open sesame", "opened")
    device = "/dev/mapper/opened"
g.pvcreate(device)
g.vgcreate("vg", [device])
g.lvcreate("root", "vg", 1600)
g.mkfs("ext4", "/dev/vg/root")
g.mkswap("/dev/sda3")
g.mkfs("xfs", "/dev/sda4")
g.mount("/dev/sda4", "/")
g.write("/precious", "data")
g.umount("/")
g.mount("/dev/vg/root", "/")
g.tar_in(tar, "/", xattrs=True, acls=True, selinux=True)
g.mkdir("/srv/data")
names = zip(map(g.vfs_uuid, ("/dev/vg/root", "/dev/sda3", "/dev/sda4")), ("/ ext4", "none swap", "/srv/data xfs"))
lines = [f"UUID={uuid} {where} defaults 0 0\\n" for uuid, where in names]
g.write("/etc/fstab", "".join(lines))
g.write("/etc/initramfs-tools/conf.d/resume", lines[1].split()[0].join(("RESUME=", "\\n")))
if not locked:
    g.command(["grub-install", "--target=i386-pc", "/dev/sda"])
g.umount_all()
g.shutdown()
"""


def make_disk(inv: Virtroot, system: Path, name: str, made: Path) -> Path:
    """Make the disk ``name`` (``locked`` or ``plain``) of a system, as the file ``made``."""
    tar = ["tar", "--create", "--sparse", "--format=posix", *archive.KEEP, "--directory", str(system), "."]
    with (
        guestfs.run_reader(engines.connect(), named("make-disks"), inv.settings) as container,
        process.open_output(tar) as content,
    ):
        container.run(["sh", "-c", "cat > /system.tar"], stdin=content)
        container.run(["python3", "-c", _MAKE_DISK, "/system.tar", f"/{name}"])
        packed = made.with_name("packed.tar")
        with packed.open("wb") as written:
            container.run(["tar", "--create", "--sparse", "--file=-", "--directory=/", name], stdout=written.write)
    subprocess.run(["tar", "--extract", f"--file={packed}", f"--directory={made.parent}"], check=True)
    packed.unlink()
    return made.with_name(name).rename(made)


@pytest.mark.long
def test_a_locked_disk_gives_a_guest_that_passes_as_any_other(inv: Virtroot, system: Path, tmp_path: Path) -> None:
    locked = make_disk(inv, system, "locked", tmp_path / "old box.qcow2")
    before = locked.read_bytes()
    key = tmp_path / "key"
    key.write_text("open sesame\n")
    done = inv("import", "oldbox", str(locked), "--key", str(key))
    assert "/srv/data on /dev/sda4 is left behind; use --include-mounts to import it" in done.stderr
    assert f"the hypervisor loads the kernel: {GRUB} purged" in done.stderr
    assert locked.read_bytes() == before
    imported = Path(done.stdout.strip())
    tree = unpack(imported, tmp_path / "tree", "srv")
    assert facts(tree / _SPECIAL) == facts(system / _SPECIAL)
    assert (tree / _SPECIAL / "sparse").stat().st_blocks < 2048
    assert list((tree / "srv/data").iterdir()) == []
    boots(inv, imported)


def test_a_disk_that_grub_booted_gives_a_guest_that_passes_as_any_other(
    inv: Virtroot, system: Path, tmp_path: Path
) -> None:
    plain = make_disk(inv, system, "plain", tmp_path / "plain.raw")
    with plain.open("rb") as disk_of_grub:
        assert b"GRUB" in disk_of_grub.read(512)
    done = inv("import", "oldbox", str(plain), "--include-mounts", "--generator", "none")
    assert "no initramfs: the kernel mounts the root itself" in done.stderr
    imported = Path(done.stdout.strip())
    assert not [each for each in Artifact(imported).manifest.packages if "grub" in each.name]
    tree = unpack(imported, tmp_path / "tree", "srv", "etc", "boot")
    assert facts(tree / _SPECIAL) == facts(system / _SPECIAL)
    assert (tree / "srv/data/precious").read_text() == "data"
    assert not (tree / "boot/grub").exists()
    boots(inv, imported)


def boots(inv: Virtroot, artifact: Path) -> None:
    """Install, verify, boot and verify."""
    said = inv("install", "oldbox", "--ssh-key", str(_key(inv.output.parent)), "--cache", "always").stderr
    assert f"installing oldbox from the imported system {Artifact(artifact).stored_id}" in said
    guest = get(connect(inv.settings), "oldbox")
    hosts = guest.target.run(["cat", f"{guest.root}/etc/hosts"]).text
    assert hosts == "127.0.0.1 localhost\n10.0.0.9 nas\n127.0.1.1 oldbox"
    inv("verify", "oldbox")
    inv("verify", "oldbox", "--boot")
    inv("remove", "oldbox", "--yes")


def _key(directory: Path) -> Path:
    path = directory / "key.pub"
    path.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me\n")
    return path


@pytest.mark.long
def test_a_directory_gives_the_same_and_may_keep_its_identity(
    inv: Virtroot, imported: Path, system: Path, tmp_path: Path
) -> None:
    moved = Path(inv("import", "oldbox", str(system), "--keep-identity").stdout.strip())
    origin = Artifact(moved).manifest.origin
    assert origin is not None
    assert origin.hostname == "oldbox"
    assert (moved.parent / "latest").resolve() == moved
    # Those before it were killed.
    assert list(moved.parent.glob(".partial*")) == []
    client = docker.from_env()
    assert client.containers.list(all=True, filters={"label": "virtroot.recipe=oldbox"}) == []
    assert not [each for each in client.volumes.list() if each.name.startswith("virtroot-import-oldbox")]
    changed = inv("diff", str(Artifact(imported).id), str(Artifact(moved).id), "--files").stdout
    different = [line for line in changed.splitlines() if "etc/" in line or "srv/" in line or "usr/bin" in line]
    assert all("machine-id" in line or "ssh_host" in line or "sshd-keygen" in line for line in different), changed
    assert different

    inv("install", "moved", "--artifact", str(moved), "--cache", "always")
    guest = get(connect(inv.settings), "moved")
    assert guest.uuid.replace("-", "") == MACHINE_ID
    paths = [f"{guest.root}/etc/{name}" for name in ("hostname", "machine-id", "ssh/ssh_host_ed25519_key")]
    kept = guest.target.run(["cat", *paths])
    assert kept.text == f"oldbox\n{MACHINE_ID}\n{(system / 'etc/ssh/ssh_host_ed25519_key').read_text().rstrip()}"
    assert (
        "keeps the identity of oldbox, which moved already has"
        in inv("install", "twin", "--artifact", str(moved), status=2).stderr
    )
    inv("verify", "moved", "--boot")
    inv("remove", "moved", "--yes")


def _overlay_on(path: str) -> bytes:
    """Return a qcow2 image of 1 MiB whose backing file is ``path``, by the format's description."""
    name, cluster = path.encode(), 1 << 16
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 72, len(name), 16, 1 << 20, 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
    clusters = (header + name, struct.pack(">Q", 2 << 16), struct.pack(">H", 1) * 4, b"")
    return b"".join(each.ljust(cluster, b"\0") for each in clusters)


def test_a_disk_that_refers_to_another_file_is_refused(inv: Virtroot, tmp_path: Path) -> None:
    image = tmp_path / "-o"
    image.write_bytes(_overlay_on("/etc/passwd"))
    assert (
        "the image is only a part: it refers to another file" in inv("import", "nothing", str(image), status=2).stderr
    )
    assert sorted(path.name for path in (inv.output / "nothing").iterdir()) == [".import"]


@pytest.mark.usefixtures("imported")
def test_a_recipe_and_an_import_do_not_share_a_name(inv: Virtroot, recipe: Callable[..., Path], system: Path) -> None:
    said = inv("build", "--recipe", str(recipe("oldbox")), status=2).stderr
    assert "contains an imported system" in said
    assert "contains builds of" in inv("import", named("trixie"), str(system), status=2).stderr


def test_a_hostile_system_harms_nothing_and_is_refused(inv: Virtroot, system: Path, tmp_path: Path) -> None:
    """A device called vmlinuz, links out of the tree in every place that is written to, a fstab that types."""
    victim = tmp_path / "victim"
    victim.write_text("theirs\n")
    hostile = tmp_path / "hostile"
    subprocess.run(["cp", "--archive", "--reflink=auto", str(system), str(hostile)], check=True)
    [kernel] = (hostile / "boot").glob("vmlinuz-*")
    for path in (hostile / "vmlinuz", kernel):
        path.unlink()
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    for name in ("etc/crypttab", "etc/machine-id", "usr/sbin/policy-rc.d", "etc/resolv.conf"):
        (hostile / name).unlink(missing_ok=True)
        (hostile / name).symlink_to(victim)
    for name in ("proc", "run"):
        (hostile / name).rmdir()
        (hostile / name).symlink_to("/etc")
    fstab = b"\x1b]0;owned\x07/dev/sda1 /srv/\x1b[31mred ext4 defaults 0 0\x0bevil / ext4 x 0 0\n"
    (hostile / "etc/fstab").write_bytes(fstab)
    failed = inv("import", "hostile", str(hostile), status=2)
    assert "\x1b" not in failed.stderr
    assert "the kernel vmlinuz is not a regular file inside the root" in failed.stderr
    assert victim.read_text() == "theirs\n"
    # Nothing has a name that was not published, and no builder is left.
    assert sorted(path.name for path in (inv.output / "hostile").iterdir()) == [".import", "failed"]
    client = docker.from_env()
    assert client.containers.list(all=True, filters={"label": "virtroot.recipe=hostile"}) == []

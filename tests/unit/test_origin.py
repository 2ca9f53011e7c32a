"""Systems that are imported: what cannot come, their fstab, and which rules apply to them."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO
from unittest.mock import MagicMock

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin import guestfs, system_facts, tree_stream
from pipelines.origin import rules as applying
from pipelines.origin.disk import Choice, Disks, Found, choose
from pipelines.origin.fstab import ROOT_LINE, Mount, find_needed, is_system_part, rewrite
from pipelines.origin.rules import Installed
from pipelines.origin.system import choose_generator, refuse
from pipelines.recipe.generators import GENERATORS
from pipelines.recipe.stage import Tree
from pipelines.target import mounts
from pipelines.target.payload import mountinfo
from pipelines.target.target import Local
from tests.support.systems import ARCH, DEBIAN, applied

OLD = """# static
UUID=1 / ext4 errors=remount-ro 0 1
UUID=2 /boot/efi vfat umask=0077 0 1
UUID=3 none swap sw 0 0
UUID=4 /srv/my\\040data ext4 defaults 0 2
tmpfs /tmp tmpfs defaults 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
"""


def active(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_root_is_the_one_line_and_the_old_ones_stay_as_comments() -> None:
    text = rewrite(OLD).text
    assert active(text) == [ROOT_LINE]
    assert all(f"# {line}" in text.splitlines() for line in OLD.splitlines())


def test_swap_and_data_are_named() -> None:
    found = rewrite(OLD)
    assert found.swap == ("UUID=3",)
    assert found.data == (Mount("UUID=4", "/srv/my\\040data", "ext4", "defaults"),)


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_no_control_character_makes_a_line_of_its_own(end: str) -> None:
    text = rewrite(f"a /a ext4 defaults 0 0{end}evil /etc ext4 defaults 0 0\x1b[2J\n").text
    assert active(text) == [ROOT_LINE]
    assert "\x1b" not in text


def test_what_a_boot_would_wait_for_is_of_a_disk() -> None:
    """Other machines' file systems, directories and files of the system's own are no partition that is missing."""
    text = """
nas:/export /var/www nfs defaults 0 0
//nas/x /var/lib/x cifs credentials=/root/x 0 0
host:/y /var/y fuse.sshfs defaults 0 0
/srv/docker /var/lib/docker none bind 0 0
/root/disk.iso /opt/iso iso9660 loop,ro 0 0
/root/fs.img /opt/img ext4 defaults 0 0
UUID=5 /var/net ext4 _netdev 0 0
UUID=6 /var/maybe ext4 nofail 0 0
UUID=7 //boot/ ext4 defaults 0 0
/dev/mapper/vg-var /var ext4 defaults 0 0
rpool/opt /opt zfs defaults 0 0
UUID=8 /srv ext4 defaults 0 0
"""
    assert [mount.point for mount in find_needed(text)] == ["/boot", "/var", "/opt"]
    lines = applied(replace(DEBIAN, fstab=text), "initramfs-tools")
    assert "/var/www was mounted from nas:/export, and is not any more: its line in fstab is a comment" in lines
    assert "/srv was a file system of its own on UUID=8" in lines


def test_no_fstab_gives_the_one_line() -> None:
    assert rewrite("").text == f"{ROOT_LINE}\n"


def test_parts_of_a_system_are_told_from_data() -> None:
    assert all(map(is_system_part, ["/boot", "/boot/efi", "/usr", "/var/log"]))
    assert not any(map(is_system_part, ["/srv", "/home", "/variety", "/mnt/usr"]))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"top": frozenset({"Windows", "Users"})}, "Windows"),
        ({"machine": "00b7"}, "for aarch64"),
        ({"machine": ""}, "an unknown processor"),
        ({"found": DEBIAN.found - {"var/lib/dpkg/status"}}, "neither dpkg's nor pacman's"),
        ({"found": frozenset(), "fstab": "UUID=9 /usr ext4 defaults 0 2"}, "it is on another partition, UUID=9"),
        ({"found": frozenset()}, "no /usr/bin, only etc, usr, var"),
        ({"found": DEBIAN.found - {"usr/lib/systemd/systemd"}}, "no systemd"),
    ],
)
def test_what_cannot_come_is_refused_with_its_reason(changed: dict[str, object], why: str) -> None:
    refuse(DEBIAN)
    with pytest.raises(VirtrootError, match=why):
        refuse(replace(DEBIAN, **changed))  # type: ignore[arg-type]


def test_the_generator_is_the_one_that_is_installed() -> None:
    both = frozenset({"dracut", "initramfs-tools"})
    assert choose_generator(DEBIAN, both, "") == "initramfs-tools"
    assert choose_generator(DEBIAN, both, "dracut") == "dracut"
    assert choose_generator(DEBIAN, frozenset({"virtroot-no-initramfs"}), "") == "none"
    assert choose_generator(ARCH, frozenset({"dracut"}), "") == "dracut"
    assert choose_generator(ARCH, frozenset({"dracut"}), "none") == "none"
    for packages, asked, why in (
        (both, "booster", "booster is not installed"),
        (both, "mkinitcpio", "unknown generator mkinitcpio"),
        (frozenset({"tiny-initramfs"}), "", "no supported initramfs generator"),
    ):
        with pytest.raises(VirtrootError, match=why):
            choose_generator(DEBIAN, frozenset(packages), asked)


def test_a_system_on_disks_loses_what_it_had_from_them() -> None:
    system = replace(
        DEBIAN,
        fstab=OLD,
        resume=("etc/initramfs-tools/conf.d/resume",),
        cmdline='GRUB_CMDLINE_LINUX="quiet"',
        crypttab=("data UUID=5 none luks",),
        units=("dev-sdb2.swap",),
        cards=("etc/network/interfaces names the network card ens3",),
    )
    lines = applied(system, "grub-pc", "grub-common", "shim-signed", "bash", "initramfs-tools")
    for expected in (
        "swap on UUID=3 is not used any more",
        "/srv/my\\040data was a file system of its own on UUID=4",
        "crypttab with 1 lines is put aside",
        "the unit dev-sdb2.swap waits for a disk",
        "import-root resume /rootfs/root etc/initramfs-tools/conf.d/resume",
        'GRUB_CMDLINE_LINUX="quiet"',
        "apt-get --yes --allow-remove-essential --allow-change-held-packages purge grub-common grub-pc shim-signed",
        "etc/network/interfaces names the network card ens3",
        "qemu-guest-agent is installed",
        "tree initramfs-tools; update-initramfs -u -k all",
        "import-root forget /rootfs/root ( -path etc/ssh/ssh_host_* -o ",
        "-delete; tree sshd; tree machine-specific",
    ):
        assert expected in lines
    # The image is made when nothing of the disks is left in the configuration.
    order = [lines.index(part) for part in ("prepare", "resume /rootfs", " purge grub", "update-initramfs", "close")]
    assert order == sorted(order)


def test_what_a_system_has_no_need_of_is_not_done() -> None:
    lines = applied(DEBIAN, "qemu-guest-agent", "initramfs-tools")
    assert not [word for word in ("crypttab", "swap", "resume", "install", "purge ", "links") if f"{word} " in lines]
    assert "what is left of grub" in lines
    assert "import-root links /rootfs/root 6.12.1-amd64" in applied(replace(DEBIAN, links={}), "initramfs-tools")


def test_arch_uses_its_own_tools() -> None:
    lines = applied(ARCH, "grub", "linux")
    assert "pacman --remove --nosave --recursive --noconfirm grub" in lines
    assert "pacman --config /run/pacman.conf -S$refresh --noconfirm qemu-guest-agent" in lines
    assert "tree mkinitcpio; mkinitcpio --allpresets" in lines


def test_a_system_that_moves_keeps_who_it_is() -> None:
    lines = applied(DEBIAN, "initramfs-tools", keep_identity=True)
    assert "forget" not in lines
    assert "is kept" in lines


def test_rules_name_only_trees_that_there_are() -> None:
    for (distro, row), found in GENERATORS.items():
        system = DEBIAN if distro == "debian" else ARCH
        made = applying.make_rules(system, Installed(frozenset(), found), keep_identity=False)
        named = {step.name for rule in made for step in rule.steps if isinstance(step, Tree)}
        assert named == {"sshd", "machine-specific", *found.skeletons}, row


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the facts of a Debian system, and things that its owner put there to mislead."""
    root = tmp_path / "system"
    for directory in (
        "etc/systemd/system",
        "usr/bin",
        "usr/lib/systemd",
        "var/lib/dpkg",
        "boot",
        "usr/lib/modules/6.1",
    ):
        (root / directory).mkdir(parents=True)
    (root / "usr/lib/systemd/systemd").write_bytes(b"\x7fELF" + b"\0" * 14 + b"\x3e\x00" + b"\0" * 44)
    (root / "var/lib/dpkg/status").touch()
    (root / "usr/lib/os-release").write_text('ID=debian\nPRETTY_NAME="Debian \x1b[31mred\x1e\x1f"\n')
    (root / "etc/fstab").write_text("UUID=1 / ext4 defaults 0 1\n")
    (root / "etc/machine-id").write_text("0" * 31 + "1\n")
    (root / "boot/vmlinuz-6.1").touch()
    (root / "vmlinuz").symlink_to("boot/vmlinuz-6.1")
    (root / "initrd.img").symlink_to("/etc/passwd")
    (root / "etc/crypttab").symlink_to("/etc/passwd")
    (root / "etc/systemd/system/a b;c.swap").write_text("[Swap]\nWhat=/dev/sdb2\n")
    return root


def test_the_facts_of_a_tree(tree: Path) -> None:
    system = system_facts.collect(Local(), str(tree))
    refuse(system)
    assert (system.distro, system.machine, system.machine_id) == ("debian", "003e", "0" * 31 + "1")
    assert system.fstab == "UUID=1 / ext4 defaults 0 1\n"
    assert system.kernels == ("6.1",)
    assert system.links == {"vmlinuz": "boot/vmlinuz-6.1"}
    assert system.units == ("a b;c.swap",)
    # Links lead out of the tree here, and are not followed.
    assert system.crypttab == ()


def test_a_glance_says_whether_a_tree_can_come(tree: Path, tmp_path: Path) -> None:
    looked, glanced = system_facts.collect(Local(), str(tree)), system_facts.collect_basics(tree)
    for name in ("top", "found", "machine", "fstab", "distro"):
        assert getattr(glanced, name) == getattr(looked, name), name
    refuse(glanced)
    # What leads out of the tree is not there, and not read.
    (tree / "etc/fstab").unlink()
    (tree / "etc/fstab").symlink_to("/etc/fstab")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/systemd").write_bytes(b"x" * 64)
    (tree / "usr/lib/systemd/systemd").unlink()
    (tree / "usr/lib/systemd").rmdir()
    (tree / "usr/lib/systemd").symlink_to(tmp_path / "outside")
    glanced = system_facts.collect_basics(tree)
    assert (glanced.fstab, glanced.machine) == ("", "")
    assert "usr/lib/systemd/systemd" not in glanced.found


def test_the_disks_in_a_configuration_are_found(tree: Path) -> None:
    for path, text in {
        "etc/dracut.conf.d/cmdline.conf": 'kernel_cmdline+=" rd.luks.uuid=luks-1 quiet resume=UUID=2 "\n',
        "etc/dracut.conf.d/other.conf": 'kernel_cmdline="quiet noresume"\n# kernel_cmdline=" resume=x"\n',
        "etc/mkinitcpio.d/linux.preset": 'ALL_config="/etc/mkinitcpio.conf"\n',
        "etc/mkinitcpio.d/own.preset": "ALL_config=/etc/own.conf\n#ALL_config=/etc/mkinitcpio.conf\n",
        "etc/initramfs-tools/initramfs.conf": "FSTYPE=auto\n",
        "etc/initramfs-tools/conf.d/type": "FSTYPE=virtiofs\n",
        "etc/network/interfaces": "# ensure that enough is set for ens9\nallow-hotplug enp1s0\n",
        "etc/netplan/a.yaml": "ensure: enough\n",
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    system = system_facts.collect(Local(), str(tree))
    assert system.dracut == ("etc/dracut.conf.d/cmdline.conf",)
    assert system.presets == ("etc/mkinitcpio.d/linux.preset",)
    assert system.fstype == ("etc/initramfs-tools/conf.d/type",)
    assert system.cards == ("etc/network/interfaces names the network card enp1s0",)
    lines = applied(system, "initramfs-tools")
    assert "FSTYPE in etc/initramfs-tools/conf.d/type adds no module" in lines
    assert "import-root dracut /rootfs/root etc/dracut.conf.d/cmdline.conf" in lines
    assert "presets" not in lines
    assert "presets /rootfs/root etc/mkinitcpio.d/linux.preset" in applied(
        replace(ARCH, presets=system.presets), "linux"
    )


@pytest.mark.parametrize(
    ("at", "magic"),
    [(0, b"QFI\xfb"), (0, b"QED\0"), (0, b"XFSB"), (0, b"LUKS\xba\xbe"), (512, b"LABELONE"), (65600, b"_BHRfS_M")],
)
def test_a_disk_is_told_by_what_it_says_where(tmp_path: Path, at: int, magic: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\0" * at + magic + b"\0" * 1024)
    assert tree_stream.get_source(str(path), outside=tmp_path / "output").kind == "disk"


def test_a_fstab_that_fills_the_memory_is_refused(tree: Path) -> None:
    with (tree / "etc/fstab").open("wb") as fstab:
        fstab.truncate(10 << 30)
    with pytest.raises(VirtrootError, match="larger than 64 KiB"):
        system_facts.collect(Local(), str(tree))


@pytest.mark.parametrize(
    ("head", "option"),
    [
        (b"\x1f\x8b\x08", "--gzip"),
        (b"\x28\xb5\x2f\xfd", "--zstd"),
        (b"\xfd7zXZ\x00", "--xz"),
        (b"BZh9", "--bzip2"),
        (b"x" * 257 + b"ustar\0", ""),
    ],
)
def test_a_tarball_is_told_by_how_it_begins(tmp_path: Path, head: bytes, option: str) -> None:
    path = tmp_path / "anything"
    path.write_bytes(head)
    found = tree_stream.get_source(str(path), outside=tmp_path / "output")
    assert (found.kind, found.size, found.decompress) == ("tarball", len(head), option)


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no tarball")
    for name, why in {
        "missing": "cannot read",
        "notes.txt": "not a tarball or disk image",
        "": "contains",
        "/dev/null": "not a directory or file",
    }.items():
        with pytest.raises(VirtrootError, match=why):
            tree_stream.get_source(str(tmp_path / name), outside=tmp_path / "output")
    with pytest.raises(VirtrootError, match="the running system"):
        tree_stream.get_source("/", outside=Path("/nowhere/output"))


def test_data_that_is_mounted_in_a_directory_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "system"
    source.mkdir()
    points = {"/": "ext4", str(source): "ext4", **{f"{source}/{point}": kind for point, kind in MOUNTED.items()}}
    there = [mountinfo.Mount(point, kind, []) for point, kind in points.items()]
    monkeypatch.setattr(mounts, "points", lambda _: there)
    assert tree_stream.get_source(str(source), outside=tmp_path / "o").left_out == ("proc", "home", "srv/data")
    assert tree_stream.get_source(str(source), outside=tmp_path / "o", include_mounts=True).left_out == ("proc",)


MOUNTED = {"proc": "proc", "boot": "ext4", "home": "xfs", "srv/data": "btrfs", "var/lib": "xfs"}


def on_disk(**changed: object) -> Found:
    usual = {"root": "/dev/sda2", "type": "linux", "arch": "x86_64", "packages": "apt", "name": "debian 13"}
    mounts = {"/": "/dev/sda2", "/boot/efi": "/dev/sda1", "/home": "/dev/sda5", "/var": "/dev/sda6"}
    return Found.model_validate({**usual, "mounts": mounts, **changed})


DEVICES = {f"/dev/sda{number}": "ext4" for number in range(1, 7)}


def test_of_a_disk_the_systems_own_is_copied() -> None:
    disks = Disks(systems=(on_disk(),), filesystems=DEVICES, used={"/dev/sda2": 5, "/dev/sda6": 2, "/dev/sda5": 9})
    choice = choose(disks, "", include_mounts=False)
    assert choice.mounts == (("/", "/dev/sda2"), ("/var", "/dev/sda6"))
    assert (choice.left, choice.size) == ((("/home", "/dev/sda5"),), 7)
    assert choose(disks, "", include_mounts=True).left == ()
    volume = on_disk(root="btrfsvol:/dev/sda2/@", mounts={"/": "btrfsvol:/dev/sda2/@"})
    assert choose(Disks(systems=(volume,), filesystems=DEVICES), "", include_mounts=False).mounts == (
        ("/", "btrfsvol:/dev/sda2/@"),
    )


@pytest.mark.parametrize(
    ("systems", "root_device", "why"),
    [
        ([], "", "no system on the disk, only /dev/sda1"),
        ([{"type": "windows", "name": "Windows 11"}], "", "Windows 11 on /dev/sda2 is windows"),
        ([{"arch": "aarch64"}], "", "is for aarch64"),
        ([{"packages": "rpm"}], "", "has the package manager rpm"),
        ([{"mounts": {"/": "/dev/sda2", "/usr": "/dev/sdb1"}}], "", "/usr is on /dev/sdb1, which is not on this disk"),
        ([{"fstab": "UUID=9 /usr ext4 defaults 0 2"}], "", "/usr is on UUID=9, which is not on this disk, or locked"),
        ([{}, {"root": "/dev/sda3"}], "", "2 systems on the disk: /dev/sda2 .*; /dev/sda3"),
        ([{}, {"root": "/dev/sda3"}], "/dev/sda4", "no system with its root on /dev/sda4"),
    ],
)
def test_what_cannot_come_from_a_disk(systems: list[dict[str, object]], root_device: str, why: str) -> None:
    disks = Disks(systems=tuple(on_disk(**each) for each in systems), filesystems=DEVICES)
    with pytest.raises(VirtrootError, match=why):
        choose(disks, root_device, include_mounts=False)


def test_what_a_boot_does_not_wait_for_may_be_missing() -> None:
    lines = "UUID=8 /var/cache ext4 nofail 0 2\nUUID=9 /opt ext4 noauto 0 2\nUUID=7 /srv/data ext4 defaults 0 2\n"
    disks = Disks(systems=(on_disk(fstab=lines),), filesystems=DEVICES)
    assert choose(disks, "", include_mounts=False).mounts == (("/", "/dev/sda2"), ("/var", "/dev/sda6"))


def test_the_root_is_mounted_first_whatever_fstab_says() -> None:
    disks = Disks(systems=(on_disk(mounts={"/usr": "/dev/sda3"}),), filesystems=DEVICES)
    assert choose(disks, "", include_mounts=False).mounts == (("/", "/dev/sda2"), ("/usr", "/dev/sda3"))


def test_of_several_systems_the_named_one_is_meant() -> None:
    other = on_disk(root="/dev/sda3", mounts={"/": "/dev/sda3"})
    assert choose(Disks(systems=(on_disk(), other), filesystems=DEVICES), "/dev/sda3", include_mounts=False).mounts == (
        ("/", "/dev/sda3"),
    )


def test_a_disk_that_is_closed_wants_a_key() -> None:
    with pytest.raises(VirtrootError, match="cannot unlock /dev/sda2"):
        choose(Disks(systems=(), closed=("/dev/sda2",)), "", include_mounts=False)


def test_the_talk_with_who_reads_a_disk_does_not_mind_how_its_words_are_cut() -> None:
    disks = Disks(systems=(on_disk(),), filesystems=DEVICES)
    said = disks.model_dump_json().encode() + b"\ntar with\nlines in it"
    for size in (1, 7, len(said)):
        chosen: list[Disks] = []
        reply, copied = io.BytesIO(), io.BytesIO()
        with ExitStack() as stack:

            def choosing(found: Disks, chosen: list[Disks] = chosen) -> Choice:
                chosen.append(found)
                return choose(found, "", include_mounts=False)

            reading = guestfs._Conversation(choosing, reply, copied.write, stack)
            for begin in range(0, len(said), size):
                reading.take(said[begin : begin + size])
        assert chosen == [disks]
        assert copied.getvalue() == b"tar with\nlines in it"
        assert json.loads(reply.getvalue()) == {"mounts": [["/", "/dev/sda2"], ["/var", "/dev/sda6"]]}


@pytest.mark.parametrize("said", [b"{}\n", b"tar\n", b"x" * (2 << 20)])
def test_what_reads_a_disk_and_says_something_else_is_not_believed(said: bytes) -> None:
    with ExitStack() as stack, pytest.raises(VirtrootError, match="cannot read the disk image"):
        guestfs._Conversation(MagicMock(), io.BytesIO(), MagicMock(), stack).take(said)


def test_a_directory_that_becomes_a_link_after_it_was_looked_at_stays_what_it_was(tmp_path: Path) -> None:
    """Whoever owns the directory above can put a link to any directory of the host there, at any time."""
    (tmp_path / "theirs/root/etc").mkdir(parents=True)
    (tmp_path / "theirs/root/etc/name").write_text("the system")
    (tmp_path / "secret/etc").mkdir(parents=True)
    (tmp_path / "secret/etc/name").write_text("the host's own")
    found = tree_stream.get_source(str(tmp_path / "theirs/root"), outside=tmp_path / "output")
    (tmp_path / "theirs/root").rename(tmp_path / "theirs/aside")
    (tmp_path / "theirs/root").symlink_to(tmp_path / "secret")
    with tree_stream._open_tar(found) as content, tarfile.open(fileobj=content, mode="r|") as tar:
        names = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isreg()}  # type: ignore[union-attr]
    assert names == {"./etc/name": b"the system"}
    assert Path(found.handle_path, "etc/name").read_text() == "the system"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_that_becomes_a_link_after_it_was_looked_at_stays_what_it_was(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w:gz" if ending else "w") as tar:
        tar.add(__file__, "etc/name")
    before = path.read_bytes()
    found = tree_stream.get_source(str(path), outside=tmp_path / "output")
    path.unlink()
    path.symlink_to("/etc/shadow")
    with tree_stream._open_tar(found) as content:
        assert content.read() == before


def test_what_a_link_leads_to_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert tree_stream.get_source(str(tmp_path / "link"), outside=tmp_path / "output").path == tmp_path / "real"
    assert "is a link to" in capsys.readouterr().err


def test_a_disk_image_is_copied_whole_and_sparse_from_what_was_opened(tmp_path: Path) -> None:
    path, copied = tmp_path / "image.raw", tmp_path / "copied"
    copied.mkdir()
    with path.open("wb") as image:
        image.write(b"QFI\xfb" + b"x" * 10000)
        image.truncate(64 << 20)
        image.seek(32 << 20)
        image.write(b"in the middle")
    content = path.read_bytes()
    found = tree_stream.get_source(str(path), outside=tmp_path / "output")
    path.unlink()
    path.symlink_to("/etc/shadow")
    container = MagicMock()

    def run(argv: list[str], stdin: IO[bytes] | None = None) -> None:
        if stdin:
            here = [word.replace("/disk", str(copied)) for word in argv]
            subprocess.run(here, input=stdin.read(), check=True)

    container.run.side_effect = run
    guestfs.copy_image(found, container)
    assert (copied / "image").read_bytes() == content
    assert (copied / "image").stat().st_blocks * 512 < len(content) // 2

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from pipelines.guest.domain import Domain, make_xml, rename_definition
from pipelines.libvirt import host_files
from pipelines.pool.place import Place
from pipelines.target import lock, programs
from pipelines.target.payload import before_start, beneath, exchange, guest_files, kernel_copy
from pipelines.target.payload.errors import Refused
from pipelines.target.target import Local
from tests.support.guests import make_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a kernel behind a relative link and an initramfs, and a victim outside."""
    root = tmp_path / "root.web"
    (root / "boot").mkdir(parents=True)
    (root / "boot" / "vmlinuz-6").write_bytes(b"kernel")
    (root / "boot" / "initrd-6").write_bytes(b"initrd")
    (root / "vmlinuz").symlink_to("boot/vmlinuz-6")
    (root / "initrd.img").symlink_to("boot/initrd-6")
    (tmp_path / "victim").write_bytes(b"secret")
    return root


def plant_absolute(path: Path) -> None:
    path.symlink_to(path.parent.parent / "victim")


def plant_climbing(path: Path) -> None:
    path.symlink_to("../victim")


def plant_loop(path: Path) -> None:
    path.symlink_to("vmlinuz")


def plant_absolute_into_the_root(path: Path) -> None:
    path.symlink_to(path.parent / "boot" / "vmlinuz-6")


def plant_through_a_directory_link(path: Path) -> None:
    (path.parent / "out").symlink_to("..")
    path.symlink_to("out/victim")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path) -> None:
    path.mkdir()


def plant_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def plant_nothing(path: Path) -> None:
    assert not path.exists()


PLANTS = [value for name, value in sorted(globals().items()) if name.startswith("plant_")]


def hand_over(root: Path, destination: Path) -> None:
    kernel_copy.copy_kernel(str(root), str(destination), "vmlinuz", "initrd.img")


@pytest.mark.parametrize(
    ("conf", "mode"),
    [
        (None, 0o600),
        ("#dynamic_ownership = 0\n", 0o600),
        ("dynamic_ownership = 1\n", 0o600),
        ("dynamic_ownership = 0 # ours\n", 0o644),
        ("dynamic_ownership = 0\n dynamic_ownership=1\n", 0o600),
    ],
)
def test_copies_are_the_hosts_own_and_readable_by_qemu_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str | None, mode: int
) -> None:
    if conf is not None:
        (tmp_path / "qemu.conf").write_text(conf)
    monkeypatch.setattr(kernel_copy, "QEMU_CONF", str(tmp_path / "qemu.conf"))
    (root / "boot" / "vmlinuz-6").chmod(0o644)
    umask = os.umask(0)
    try:
        hand_over(root, tmp_path / "virtroot.web")
        (tmp_path / "virtroot.web" / "manifest.json").touch(0o644)
        hand_over(root, tmp_path / "virtroot.web")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "virtroot.web").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "virtroot.web/manifest.json").stat().st_mode) == 0o600
    for name, content in (("kernel", b"kernel"), ("initrd", b"initrd")):
        copy = tmp_path / "virtroot.web" / name
        assert copy.read_bytes() == content
        assert stat.S_IMODE(copy.lstat().st_mode) == mode
        assert stat.S_ISREG(copy.lstat().st_mode)


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_path_is_refused_and_the_old_copy_stays(root: Path, tmp_path: Path, plant, name: str) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    hand_over(root, tmp_path / "virtroot.web")
    (root / name).unlink()
    plant(root / name)
    if plant is plant_loop and name != "vmlinuz":
        (root / "vmlinuz").unlink()
        (root / "vmlinuz").symlink_to(name)
    with pytest.raises(Refused):
        hand_over(root, tmp_path / "virtroot.web")
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    assert (tmp_path / "virtroot.web" / "initrd").read_bytes() == b"initrd"
    assert (tmp_path / "victim").read_bytes() == b"secret"


def listed(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != kernel_copy._LOCK)


def test_a_lock_that_somebody_holds_for_ever_is_named_and_not_waited_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over(root, tmp_path / "virtroot.web")
    lock = tmp_path / kernel_copy._LOCK
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    monkeypatch.setattr(kernel_copy, "PATIENCE", 0.2)
    held = os.open(lock, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(Refused, match="another process has locked it"):
        hand_over(root, tmp_path / "virtroot.web")
    os.close(held)
    # Nobody can lock what everybody has to be able to enter.
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    hand_over(root, tmp_path / "virtroot.web")
    os.close(held)


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
def test_a_file_without_an_end_is_refused_and_nothing_is_left(root: Path, tmp_path: Path, name: str) -> None:
    hand_over(root, tmp_path / "virtroot.web")
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    with (root / name).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(Refused, match=f"{name}: has {1 << 40} bytes"):
        hand_over(root, tmp_path / "virtroot.web")
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_a_full_disk_leaves_the_old_pair(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over(root, tmp_path / "virtroot.web")
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    copy = kernel_copy._copy_out

    def fails_at_the_second(root: int, path: str, destination: str) -> None:
        if destination.endswith("initrd"):
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(root, path, destination)

    monkeypatch.setattr(kernel_copy, "_copy_out", fails_at_the_second)
    with pytest.raises(OSError, match="No space"):
        hand_over(root, tmp_path / "virtroot.web")
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_both_change_and_what_else_is_there_stays(root: Path, tmp_path: Path) -> None:
    boot = tmp_path / "virtroot.web"
    hand_over(root, boot)
    (boot / "manifest.json").write_text("manifest")
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    (root / "boot" / "initrd-6").write_bytes(b"new initrd")
    hand_over(root, boot)
    assert {path.name: path.read_text() for path in boot.iterdir()} == {
        "kernel": "new kernel", "initrd": "new initrd", "manifest.json": "manifest"
    }  # fmt: skip
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_qemus_user_may_enter_whatever_the_umask(root: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        hand_over(root, tmp_path / "libvirt" / "virtroot.web")
        guest_files.write(str(root), "home/me/file", 0o644, [b""])
    finally:
        os.umask(before)
    for directory in (root / "home", root / "home" / "me"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755, directory
    for directory in (tmp_path / "libvirt", tmp_path / "libvirt" / "virtroot.web"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711, directory


def test_two_at_once_never_publish_a_short_kernel(root: Path, tmp_path: Path) -> None:
    (root / "boot" / "vmlinuz-6").write_bytes(b"k" * (8 << 20))
    boot, wrong = tmp_path / "virtroot.web", []
    with ThreadPoolExecutor(4) as pool:
        handed = [pool.submit(hand_over, root, boot) for _ in range(24)]
        while not all(each.done() for each in handed):
            with suppress(FileNotFoundError):
                size = (boot / "kernel").stat().st_size
                wrong += [size] if size != 8 << 20 else []
        for each in handed:
            each.result()
    assert wrong == []
    assert listed(tmp_path) == ["root.web", "victim", "virtroot.web"]


def test_only_virtroots_own_directories_are_written_to(root: Path, tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "kernel").write_bytes(b"the host's")
    with pytest.raises(Refused, match="is not a boot directory"):
        hand_over(root, tmp_path / "boot")
    assert (tmp_path / "boot" / "kernel").read_bytes() == b"the host's"


def test_what_is_read_from_a_root_is_small(root: Path) -> None:
    (root / "key").write_bytes(b"k" * beneath.LARGEST_READ)
    assert len(guest_files.read(str(root), "key")) == beneath.LARGEST_READ
    with (root / "key").open("ab") as key:
        key.truncate(1 << 40)
    with pytest.raises(Refused, match="the limit is"):
        guest_files.read(str(root), "key")


def test_write_makes_directories_inside_the_root(root: Path) -> None:
    guest_files.write(str(root), "root/.ssh/authorized_keys", 0o600, [b"key\n"])
    written = root / "root" / ".ssh" / "authorized_keys"
    assert written.read_bytes() == b"key\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_write_replaces_a_link_and_leaves_what_it_names(root: Path, tmp_path: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc" / "hostname").symlink_to(tmp_path / "victim")
    guest_files.write(str(root), "etc/hostname", 0o644, [b"web\n"])
    assert (root / "etc" / "hostname").read_bytes() == b"web\n"
    assert (tmp_path / "victim").read_bytes() == b"secret"


@pytest.mark.parametrize("link", ["..", "/", "nowhere"])
def test_write_refuses_a_directory_that_is_a_link_out_or_to_nowhere(root: Path, tmp_path: Path, link: str) -> None:
    (root / "etc").symlink_to(link)
    with pytest.raises(Refused):
        guest_files.write(str(root), "etc/hostname", 0o644, [b"web\n"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root.web", "victim"]


def test_write_follows_a_link_that_stays_inside(root: Path) -> None:
    (root / "usr" / "etc").mkdir(parents=True)
    (root / "etc").symlink_to("usr/etc")
    guest_files.write(str(root), "etc/hostname", 0o644, [b"web\n"])
    assert (root / "usr" / "etc" / "hostname").read_bytes() == b"web\n"


def test_what_is_one_systems_own_is_forgotten_and_nothing_else(root: Path, tmp_path: Path) -> None:
    for path in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "etc/ssh/sshd_config", "var/lib/seed"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / "etc/ssh/ssh_host_link").symlink_to(tmp_path / "victim")
    (root / "var/lib/dbus").mkdir()
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    guest_files.delete(str(root), ["var/lib/seed", "var/lib/dbus/machine-id", "not/there"])
    assert sorted(path.name for path in (root / "etc/ssh").iterdir()) == ["ssh_host_link", "sshd_config"]
    assert not (root / "var/lib/seed").exists()
    assert (root / "var/lib/dbus/machine-id").is_symlink()
    assert (tmp_path / "victim").read_bytes() == b"secret"


def test_nothing_outside_a_root_is_forgotten(root: Path, tmp_path: Path) -> None:
    (root / "etc").mkdir()
    (tmp_path / "ssh").mkdir()
    key = tmp_path / "ssh/ssh_host_rsa_key"
    key.touch()
    (root / "etc/ssh").symlink_to(tmp_path / "ssh")
    with pytest.raises(Refused, match="leaves the root"):
        guest_files.delete(str(root), [])
    assert key.exists()


def test_a_clones_definition_names_nothing_of_its_sources_but_what_somebody_added(root: Path, tmp_path: Path) -> None:
    definition = ET.fromstring(domain(root, tmp_path / "virtroot.web"))  # noqa: S314 - made here
    devices = definition.find("devices")
    assert devices is not None
    ET.SubElement(ET.SubElement(devices, "interface"), "mac", address="52:54:00:00:00:01")
    ET.SubElement(definition, "description").text = "mine"
    place = Place("/pool", "web2")
    rename_definition(definition, str(root), place, UUID(int=7))
    text = ET.tostring(definition, encoding="unicode")
    assert "52:54:00" not in text
    assert str(root) not in text
    assert "<description>mine</description>" in text
    assert definition.findtext("uuid") == str(UUID(int=7))
    assert [definition.findtext(f"os/{name}") for name in ("kernel", "initrd")] == [
        f"{place.boot}/kernel",
        f"{place.boot}/initrd",
    ]
    log = definition.find("devices/serial/log")
    assert log is not None
    assert log.get("file") == "/var/log/libvirt/qemu/web2@console.log"


def domain(root: Path, boot: Path, initrd: str = "initrd.img") -> str:
    return make_xml(
        Domain(
            name="web",
            uuid=uuid4(),
            source=make_source("a/b", initrd=initrd),
            root=str(root),
            boot=str(boot),
            memory=1 << 30,
            vcpus=1,
            network="none",
            cache="auto",
            kvm=False,
        )
    )


def test_hook_hands_over_what_the_domain_names(root: Path, tmp_path: Path) -> None:
    before_start.prepare(domain(root, tmp_path / "virtroot.web"))
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"


def test_hook_refuses_a_planted_kernel(root: Path, tmp_path: Path) -> None:
    (root / "vmlinuz").unlink()
    plant_absolute(root / "vmlinuz")
    with pytest.raises(Refused, match="leaves the root"):
        before_start.prepare(domain(root, tmp_path / "virtroot.web"))


def test_without_an_initramfs_the_kernel_alone_is_handed_over(root: Path, tmp_path: Path) -> None:
    boot = tmp_path / "virtroot.web"
    before_start.prepare(domain(root, boot))
    (boot / "manifest.json").write_text("manifest")
    # A guest that has one all the same: it is not looked at.
    (root / "initrd.img").unlink()
    plant_absolute(root / "initrd.img")
    before_start.prepare(domain(root, boot, initrd=""))
    assert {path.name: path.read_text() for path in boot.iterdir()} == {"kernel": "kernel", "manifest.json": "manifest"}


def test_without_an_initramfs_a_planted_kernel_is_refused_as_ever(root: Path, tmp_path: Path) -> None:
    (root / "vmlinuz").unlink()
    plant_absolute(root / "vmlinuz")
    with pytest.raises(Refused, match="leaves the root"):
        before_start.prepare(domain(root, tmp_path / "virtroot.web", initrd=""))


def test_an_earlier_initramfs_goes_where_directories_cannot_be_exchanged(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "virtroot.web"
    kernel_copy.copy_kernel(str(root), str(boot), "vmlinuz", "initrd.img")
    # An exchange flag that no kernel knows stands for a file system that has none.
    monkeypatch.setattr(exchange, "_RENAME_EXCHANGE", 1 << 30)
    (root / "boot" / "vmlinuz-6").write_bytes(b"new kernel")
    kernel_copy.copy_kernel(str(root), str(boot), "vmlinuz")
    assert {path.name: path.read_text() for path in boot.iterdir()} == {"kernel": "new kernel"}


def test_a_definition_with_an_initramfs_that_its_metadata_does_not_know_is_refused(root: Path, tmp_path: Path) -> None:
    changed = domain(root, tmp_path / "virtroot.web", initrd="").replace("</kernel>", "</kernel><initrd>/x</initrd>")
    with pytest.raises(Refused, match="names an initramfs"):
        before_start.prepare(changed)


def test_hook_refuses_a_root_that_another_domain_runs_on(root: Path, tmp_path: Path) -> None:
    running, own = tmp_path / "running", domain(root, tmp_path / "virtroot.web")
    running.mkdir()
    (running / "broken.xml").write_text("<domstatus><do")
    (running / "none.xml").write_text("<domstatus/>")
    (running / "other.pid").write_text("1")
    (running / "web.xml").write_text(f"<domstatus>{own}</domstatus>")
    (running / "else.xml").write_text(f"<domstatus>{domain(tmp_path, tmp_path / 'virtroot.else')}</domstatus>")
    before_start.prepare(own, str(running))
    copy = domain(root, tmp_path / "virtroot.web").replace("<name>web<", "<name>copy<")
    (running / "copy.xml").write_text(f"<domstatus>{copy}</domstatus>")
    with pytest.raises(Refused, match="copy runs on it, and a root is for one guest"):
        before_start.prepare(own, str(running))


def test_hook_refuses_a_guest_that_is_being_switched(root: Path, tmp_path: Path) -> None:
    own = domain(root, tmp_path / "virtroot.web")
    journal = root.with_name(f".{root.name}@switch")
    journal.touch()
    with pytest.raises(Refused, match="its swap with another root was interrupted"):
        before_start.prepare(own)
    journal.unlink()
    before_start.prepare(own)


def test_hook_refuses_a_guest_that_a_task_keeps_off(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one by virsh: the task copies the root by paths, which a running guest could lead elsewhere."""
    monkeypatch.setattr(before_start, "OFF_LOCK", f"{tmp_path}/off-{{}}.lock")
    own = domain(root, tmp_path / "virtroot.web")
    with lock.on(Local(), f"{tmp_path}/off-{root.name}.lock", "the root of web"):
        with pytest.raises(Refused, match=f"a task of virtroot works on {root.name}"):
            before_start.prepare(own)
        root.rename(root.with_name("root.other"))
        before_start.prepare(own.replace(f"/{root.name}<", "/root.other<"))
    root.with_name("root.other").rename(root)
    before_start.prepare(own)


def test_hook_leaves_other_domains_alone(tmp_path: Path) -> None:
    before_start.prepare("<domain><os><kernel>/x/kernel</kernel></os></domain>")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    script = tmp_path / "hook"
    script.write_bytes(host_files.hook())
    script.chmod(0o755)
    return script


def run_hook(hook: Path, definition: str, operation: str = "prepare", **env: str) -> subprocess.CompletedProcess[str]:
    argv = [str(hook), "web", operation, "begin", "-"]
    return subprocess.run(
        argv, input=definition, env={**os.environ, **env}, text=True, capture_output=True, check=False
    )


def test_the_hook_as_libvirt_calls_it(root: Path, tmp_path: Path, hook: Path) -> None:
    assert run_hook(hook, domain(root, tmp_path / "virtroot.web")).returncode == 0
    assert (tmp_path / "virtroot.web" / "kernel").read_bytes() == b"kernel"
    (root / "vmlinuz").unlink()
    plant_absolute(root / "vmlinuz")
    done = run_hook(hook, domain(root, tmp_path / "virtroot.web"))
    assert done.returncode != 0
    assert done.stderr == "virtroot: vmlinuz: leaves the root through a link\n"


def test_other_peoples_domains_start_without_any_python(root: Path, tmp_path: Path, hook: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cat").symlink_to("/usr/bin/cat")
    without = {"PATH": str(tmp_path / "bin")}
    assert run_hook(hook, "<domain><name>theirs</name></domain>", **without).returncode == 0
    ours = domain(root, tmp_path / "virtroot.web")
    assert run_hook(hook, ours, "started", **without).returncode == 0
    assert run_hook(hook, ours, **without).returncode != 0


def test_the_program_takes_no_module_from_the_current_directory(root: Path, tmp_path: Path) -> None:
    (root / "ctypes.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    before = Path.cwd()
    os.chdir(root)
    try:
        programs.copy_kernel(Local(), str(root), str(tmp_path / "virtroot.web"), "vmlinuz", "initrd.img")
    finally:
        os.chdir(before)
    assert not (tmp_path / "ran").exists()

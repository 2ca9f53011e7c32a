"""The wrapper of virtiofsd: what it asks of each daemon, under each of its names, and where a guest names it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.guest import virtiofsd_wrapper
from pipelines.health import daemon
from pipelines.libvirt import host_files, wrappers
from pipelines.libvirt.wrappers import Wrapper
from pipelines.target import programs
from pipelines.target.payload import kernel_copy
from pipelines.target.target import Local
from tests.support.definitions import parsed

RUST = "--shared-dir <DIR>  --xattr  --posix-acl\n --inode-file-handles=<MODE>  --modcaps <MODCAPS>"
RUST_1_14 = RUST.replace("--posix-acl", "--posix-acl[=<never|auto|always>]")
RUST_1_0 = "--shared-dir <DIR>  --xattr  --modcaps <MODCAPS>"
C = "-o posix_acl|no_posix_acl\n -o modcaps=CAPLIST  Modify the list of capabilities"

#: What the daemon does that is to serve; 1.14 does not start where it cannot have a capability that it wants.
SERVES = 'printf "%s\\n" "$@"'
SERVES_AS_1_14 = """case " $* " in
*" --inode-file-handles=never "*)
    echo "[2026-11-30T08:58:32Z INFO  virtiofsd] Waiting for vhost-user socket connection..."
    exec sleep 60 ;;
esac
said="can't apply the child capabilities: failed to sync capabilities with the kernel"
echo "[2026-11-30T08:58:32Z ERROR virtiofsd] $said" >&2
exit 1"""

NEVER = "--inode-file-handles=never"

Wrapped = Callable[..., list[str]]


def write_daemon(path: Path, usage: str, serves: str = SERVES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nif [ \"$1\" = --help ]; then printf '%s\\n' '{usage}'; exit; fi\n{serves}\n")
    path.chmod(0o755)
    return path


def wrapper_text(root: Path, *, acls: bool = True, capabilities: str = "00000000a82435ff") -> str:
    """Return the wrapper for a machine whose files lie below ``root``, whose file system has ``acls``."""
    status = root / "status"
    status.write_text(f"Name:\tsh\nCapEff:\t{capabilities}\n")
    text = host_files.wrapper().decode()
    text = text.replace(" /usr/l", f" {root}/usr/l").replace("/etc/qemu", f"{root}/etc/qemu")
    text = text.replace("/usr/share/qemu", f"{root}/usr/share/qemu").replace("/proc/self/status", str(status))
    python = root / "python3"
    # The attribute is missing in the first case, and unknown to the file system in the second.
    python.write_text(f'#!/bin/sh\n[ -d "$5" ] || exit 3\nexit {0 if acls else 1}\n')
    python.chmod(0o755)
    return text.replace("    python3 ", f"    {python} ")


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    """Run the wrapper under a name, and return what the daemon was started with."""

    def run(name: str, *arguments: str, acls: bool = True, capabilities: str = "00000000a82435ff") -> list[str]:
        wrapper = tmp_path / name
        wrapper.write_text(wrapper_text(tmp_path, acls=acls, capabilities=capabilities))
        wrapper.chmod(0o755)
        done = subprocess.run([str(wrapper), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


def given(directory: Path) -> tuple[str, ...]:
    """Return the arguments that libvirt gives."""
    return ("--fd=3", "--shared-dir", str(directory), "--cache", "always", "--xattr")


def test_acls_are_asked_for_by_name_and_negotiated_from_1_14_on(tmp_path: Path, wrapped: Wrapped) -> None:
    asked = given(tmp_path)
    path = tmp_path / "usr/libexec/virtiofsd"
    write_daemon(path, RUST)
    assert wrapped("virtiofsd-acl", *asked) == [NEVER, "--posix-acl", *asked]
    assert wrapped("virtiofsd-plain", *asked) == [NEVER, *asked]
    write_daemon(path, RUST_1_14)
    for name in ("virtiofsd-acl", "virtiofsd-plain"):
        assert wrapped(name, *asked) == [NEVER, "--posix-acl=auto", *asked]
    write_daemon(path, RUST_1_0)
    assert wrapped("virtiofsd-acl", *asked) == list(asked)


def test_the_daemon_in_c_takes_the_same_after_o(tmp_path: Path, wrapped: Wrapped) -> None:
    write_daemon(tmp_path / "usr/lib/qemu/virtiofsd", C)
    asked = ("--fd=3", "-o", f"source={tmp_path},xattr,cache=auto")
    assert wrapped("virtiofsd-acl-overlayfs", *asked) == ["-o", "modcaps=+sys_admin", "-oposix_acl", *asked]
    assert wrapped("virtiofsd-plain", *asked) == list(asked)
    # Without xattrs this daemon refuses ACLs.
    for options in (f"source={tmp_path}", f"source={tmp_path},no_xattr"):
        assert wrapped("virtiofsd-acl", "-o", options) == ["-o", options]


def test_a_file_system_without_acls_gets_none(tmp_path: Path, wrapped: Wrapped) -> None:
    asked = given(tmp_path)
    for usage in (RUST, RUST_1_14):
        write_daemon(tmp_path / "usr/libexec/virtiofsd", usage)
        assert wrapped("virtiofsd-acl", *asked, acls=False) == [NEVER, *asked]
        # Nor does a directory that cannot be asked, or a device without xattrs.
        assert wrapped("virtiofsd-acl", *given(tmp_path / "gone"))[:2] == [NEVER, "--fd=3"]
        assert wrapped("virtiofsd-acl", *asked[:-1]) == [NEVER, *asked[:-1]]


def test_the_wrapper_asks_the_file_system_and_does_not_guess(tmp_path: Path) -> None:
    """The probe itself: a directory here has ACLs or not, as the kernel says; what is gone has none."""
    text = host_files.wrapper().decode()
    program = text.partition("-c '")[2].partition('\' "$1"')[0]
    assert "posix_acl_access" in program

    def probe(path: Path) -> int:
        return subprocess.run([sys.executable, "-I", "-S", "-c", program, str(path)], check=False).returncode

    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in ((1, 7, -1 & 0xFFFFFFFF), (4, 5, -1 & 0xFFFFFFFF), (32, 5, -1 & 0xFFFFFFFF))
    )
    try:
        os.setxattr(tmp_path, "system.posix_acl_access", acl)
        takes = True
    except OSError:
        takes = False
    assert (probe(tmp_path) == 0) is takes
    assert probe(tmp_path / "gone") == 1
    assert probe(Path("/proc")) == 1


def test_file_handles_are_off_unless_asked_for_and_possible(tmp_path: Path, wrapped: Wrapped) -> None:
    asked = given(tmp_path)
    write_daemon(tmp_path / "usr/libexec/virtiofsd", RUST_1_14)
    assert wrapped("virtiofsd-acl-handles", *asked)[0] == "--inode-file-handles=prefer"
    # A container's usual capabilities, without CAP_DAC_READ_SEARCH.
    assert wrapped("virtiofsd-acl-handles", *asked, capabilities="00000000a82435fb")[0] == NEVER
    assert wrapped("virtiofsd-acl", *asked)[0] == NEVER


def test_each_name_asks_for_its_words_and_the_former_one_for_overlayfs(tmp_path: Path, wrapped: Wrapped) -> None:
    write_daemon(tmp_path / "usr/libexec/virtiofsd", RUST)
    asked = given(tmp_path)
    assert len(wrappers.NAMES) == 8
    for name in wrappers.NAMES:
        needs = wrappers.parse(f"{wrappers.DIRECTORY}/{name}")
        assert needs is not None
        options = wrapped(name, *asked)
        assert ("--modcaps=+sys_admin" in options) is needs.overlayfs, name
        assert ("--posix-acl" in options) is needs.acl, name
        assert ("--inode-file-handles=prefer" in options) is needs.handles, name
    former = wrappers.parse(host_files.WRAPPER)
    assert former == Wrapper(overlayfs=True)
    assert wrapped("virtiofsd", *asked) == ["--modcaps=+sys_admin", NEVER, *asked]


def test_libvirts_question_is_passed_on_alone(tmp_path: Path, wrapped: Wrapped) -> None:
    write_daemon(tmp_path / "usr/libexec/virtiofsd", RUST_1_14)
    assert wrapped("virtiofsd-acl-overlayfs", "--print-capabilities") == ["--print-capabilities"]


@pytest.mark.parametrize(
    ("release", "takes"),
    [("6.12.118+deb13-cloud-amd64", True), ("5.13.0", True), ("5.10.0-32-amd64", False), ("4.19", False), ("", False)],
)
def test_which_kernels_take_acls(release: str, takes: bool) -> None:
    assert wrappers.has_acl_support(release) is takes


def test_other_programs_are_not_virtroots() -> None:
    for path in ("", "/usr/libexec/virtiofsd", "/etc/libvirt/hooks/virtroot/virtiofsd-other", "/opt/virtiofsd-acl"):
        assert wrappers.parse(path) is None


# A start, tried


def tried(tmp_path: Path, serves: str, name: str) -> daemon.Trial:
    """Try the start of a daemon that does as it is told."""
    path = write_daemon(tmp_path / "usr/libexec/virtiofsd", RUST_1_14, serves)
    text = wrapper_text(tmp_path, capabilities="00000000a82435fb") if name else ""
    found = daemon.parse(str(path), "virtiofsd 1.14.0", RUST_1_14)
    argv = ["sh", "-s", "--", text, name or str(path), "new" if found.family == daemon.RUST else "old"]
    done = Local().run(argv, stdin=host_files.trial(), check=False, timeout=30)
    return daemon.Trial(done.returncode == 0, done.text)


def test_a_start_is_tried_and_ended(tmp_path: Path) -> None:
    alone = tried(tmp_path, SERVES_AS_1_14, "")
    assert not alone.serves
    assert "can't apply the child capabilities" in alone.output
    for name in wrappers.NAMES:
        found = tried(tmp_path, SERVES_AS_1_14, name)
        assert found.serves, found.output
        assert (wrappers.NO_HANDLES in found.output) is ("handles" in name)
    silent = tried(tmp_path, "exit 0", "virtiofsd-acl")
    assert (silent.serves, silent.output) == (False, "")


def test_a_tried_daemon_does_not_stay(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    serves = f'echo $$ > "{mark}"; echo "Waiting for vhost-user socket connection..."; sleep 60 & wait'
    assert tried(tmp_path, serves, "virtiofsd-acl").serves
    alive = Path("/proc", mark.read_text().strip())
    deadline = time.monotonic() + 10
    while alive.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive.exists()


# What a definition names

DEFINITION = """<domain><devices>
<filesystem><driver type="virtiofs"/>{root}<source dir="/p/root.web"/><target dir="root"/></filesystem>
<filesystem><driver type="virtiofs"/>{share}<source dir="/srv"/><target dir="data"/></filesystem>
<filesystem><driver type="path"/><source dir="/9p"/><target dir="old"/></filesystem>
</devices></domain>"""


def binary(path: str) -> str:
    return f'<binary path="{path}" xattr="on"><cache mode="always"/></binary>' if path else '<binary xattr="on"/>'


def named(path: Path | str) -> str:
    return f"{wrappers.DIRECTORY}/{path}"


@pytest.mark.parametrize(
    ("root", "share", "release", "then"),
    [
        # Guests of earlier versions: without a wrapper, and with that for overlayfs, which stays the root's alone.
        ("", "", "6.12.1", ("virtiofsd-acl",)),
        (wrappers.FORMER, "", "6.12.1", ("virtiofsd-acl", "virtiofsd-acl-overlayfs")),
        (wrappers.FORMER, wrappers.FORMER, "5.10.1", ("virtiofsd-overlayfs",)),
        # Another kernel by now, and one that does not say which it is.
        (named("virtiofsd-acl"), named("virtiofsd-acl"), "5.10.0", ("virtiofsd-plain",)),
        (named("virtiofsd-plain"), named("virtiofsd-plain"), "5.15", ("virtiofsd-acl",)),
        (named("virtiofsd-acl-handles"), named("virtiofsd-acl"), "", ("virtiofsd-acl", "virtiofsd-acl-handles")),
    ],
)
def test_devices_get_the_wrapper_of_the_kernel(root: str, share: str, release: str, then: tuple[str, ...]) -> None:
    definition = parsed(DEFINITION.format(root=binary(root), share=binary(share)))
    before = virtiofsd_wrapper.has_overlayfs(definition)
    assert virtiofsd_wrapper.update(definition, release) is ({root, share} != {named(each) for each in then})
    assert virtiofsd_wrapper.list_binaries(definition) == tuple(named(each) for each in then)
    assert virtiofsd_wrapper.has_overlayfs(definition) is before
    assert definition.find("devices/filesystem/driver[@type='path']/../binary") is None
    assert not virtiofsd_wrapper.update(definition, release)


def test_a_program_that_someone_chose_stays() -> None:
    definition = parsed(DEFINITION.format(root=binary("/opt/mine"), share=""))
    assert virtiofsd_wrapper.update(definition, "6.12")
    assert virtiofsd_wrapper.list_binaries(definition) == (named("virtiofsd-acl"), "/opt/mine")


def test_file_handles_follow_the_setting_where_that_is_asked() -> None:
    definition = parsed(DEFINITION.format(root=binary(""), share=binary("")))
    assert virtiofsd_wrapper.update(definition, "6.12", handles=True)
    assert virtiofsd_wrapper.list_binaries(definition) == (named("virtiofsd-acl-handles"),)
    assert not virtiofsd_wrapper.update(definition, "6.12")
    assert virtiofsd_wrapper.choose_for_share(definition) == Wrapper(acl=True, handles=True)
    assert virtiofsd_wrapper.update(definition, "6.12", handles=False)


# What a kernel says it is


def kernel(release: bytes, offset: int = 0x3000) -> bytes:
    head = bytearray(0x200 + offset)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = offset.to_bytes(2, "little")
    return bytes(head) + release + b" (builder@host) #1 SMP\0"


@pytest.mark.parametrize(
    ("content", "release"),
    [
        (kernel(b"6.12.118+deb13-cloud-amd64"), "6.12.118+deb13-cloud-amd64"),
        (kernel(b"5.10.0-32-amd64", 0xFFFF), "5.10.0-32-amd64"),
        (kernel(b"x" * 200), ""),
        (kernel(b"6.12\x1b[2J"), "6.12"),
        (kernel(b"6.12")[:0x210], ""),
        (b"", ""),
        (b"\x7fELF" + bytes(0x300), ""),
    ],
)
def test_a_kernel_names_its_release_in_its_header(tmp_path: Path, content: bytes, release: str) -> None:
    (tmp_path / "kernel").write_bytes(content)
    assert kernel_copy.read_release(str(tmp_path / "kernel")) == release
    assert programs.read_kernel_release(Local(), str(tmp_path)) == release
    assert programs.read_kernel_release(Local(), str(tmp_path / "gone")) == ""

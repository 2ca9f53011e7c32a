"""Known symptoms: found in what is really written, told from what follows from them, and each with its section."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields

import pytest

from pipelines import candidate
from pipelines import help as explaining
from pipelines.book import pages
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT
from pipelines.symptom.known import GONE, OVERLAYFS, SYMPTOMS, TIMERS
from pipelines.symptom.recognise import find_symptom, find_symptoms, get_last_start
from pipelines.symptom.symptom import Symptom
from pipelines.target.payload import beneath, guest_files
from pipelines.text import plain

NAMES = [symptom.name for symptom in SYMPTOMS]

#: What was written, by the symptom that it is one of: SEEN where virtroot's own tests provoke it, or where it was read.
SEEN = "tests/e2e"
LINES = [
    ("refused-path", "virtroot: vmlinuz: leaves the root through a link", SEEN),
    ("refused-path", "virtroot: vmlinuz: is a loop of links", SEEN),
    ("refused-path", "error: refused to touch the guest's root: vmlinuz: is no regular file", SEEN),
    ("refused-path", "error: refused to touch the guest's root: vmlinuz: not a regular file", SEEN),
    ("refused-path", "error: refused to touch the guest's root: usr: not a directory of the root itself", SEEN),
    ("refused-path", "error: refused to touch the guest's root: usr: is no directory of the root's own", SEEN),
    ("refused-path", "virtroot: usr: not a directory of the root itself, and would be served as one", SEEN),
    ("shared-memory", "error: unsupported configuration: 'virtiofs' requires shared memory", SEEN),
    ("shared-memory", "unsupported configuration: virtiofs requires shared memory", "vagrant-libvirt#1460"),
    ("no-virtiofsd", "error: operation failed: Unable to find a satisfying virtiofsd", SEEN),
    ("no-virtiofsd", "error: internal error: virtiofsd binary '/opt/virtiofsd' is not executable", "libvirt's source"),
    ("no-virtiofsd", "virtroot: no virtiofsd is installed", "pipelines/target/payload/virtiofsd.sh"),
    (
        "waits-for-cloud",
        "[***   ] A start job is running for Initial cloud-init job (metadata service crawler) (1min 2s / no limit)",
        "cloud-init's units",
    ),
    (
        "waits-for-cloud",
        "[ **  ] A start job is running for Cloud-init: Network Stage (2min / no limit)",
        "newer units",
    ),
    (
        "waits-for-cloud",
        "url_helper.py[WARNING]: Calling 'http://169.254.169.254/2009-04-04/meta-data/instance-id' failed [50/120s]",
        "cloud-init's source",
    ),
    ("lock-element", "unsupported configuration: locking options are not supported by this virtiofsd", SEEN),
    ("network-inactive", "error: Requested operation is not valid: network 'asleep' is not active", SEEN),
    ("network-inactive", "error: Network not found: no network with matching name 'lab'", "libvirt's source"),
    (
        "sandbox-denied",
        "[617100180193229] [ID: 00000001] mount(/, MS_REC|MS_SLAVE): Permission denied",
        "kubevirt#4290",
    ),
    (
        "sandbox-denied",
        'Error entering sandbox: DropSupplementalGroups(Os { code: 1, kind: PermissionDenied, message: "Operation" })',
        "Docker Desktop's virtiofsd",
    ),
    (
        "missing-capability",
        "ERROR virtiofsd] can't apply the child capabilities: failed to sync capabilities with the kernel",
        SEEN,
    ),
    (
        "invalid-param",
        "[2023-08-02T19:33:01Z ERROR virtiofsd] Waiting for daemon failed: HandleRequest(InvalidParam)",
        "kvm-guest-drivers-windows#875",
    ),
    (
        "kernel-unreadable",
        "qemu: could not open kernel file '/var/lib/libvirt/boot/virtroot.web/kernel': Permission denied",
        SEEN,
    ),
    ("kernel-unreadable", "qemu: could not load kernel '/root/vmlinuz': Permission denied')", "kubic/automation#557"),
    (
        "kernel-unreadable",
        "qemu: error reading initrd /boot/initrd: Failed to open file “/boot/initrd”: Permission denied",
        "QEMU's source",
    ),
    ("virtiofsd-died", "error: internal error: virtiofsd died unexpectedly", "virt-manager#1124"),
    ("virtiofsd-died", "error: internal error: Could not start 'virtiofsd'", "libvirt's source"),
    (
        "virtiofsd-died",
        "qemu-system-x86_64: Failed to connect to '/var/lib/libvirt/qemu/domain-6-web/fs0-fs.sock': Connection refused",
        SEEN,
    ),
    ("too-many-files", "find: ‘/nix/store/wn3w-source/pkgs/by-name/mf’: Too many open files", "libkrun#505"),
    ("too-many-files", "Too many open files in system", "lxd#18628"),
    ("too-many-files", "accept tcp [::]:80: accept4: too many open files", "Go's words for EMFILE"),
    (
        "virtiofsd-gone",
        "no virtiofsd serves /var/lib/libvirt/filesystems/root.web any more",
        "pipelines/guest/virtiofsd.py",
    ),
    ("virtiofsd-gone", "[  242.1]  request_wait_answer+0x12f/0x210", "fs/fuse/dev.c, in a hung task's trace"),
    ("tag-not-found", "[    0.740641] virtio-fs: tag <root> not found", "mkosi#2371, dracut#2357"),
    (
        "tag-not-found",
        "mount: /sysroot: wrong fs type, bad option, bad superblock on root, missing codepage or helper program",
        "mkosi#2371",
    ),
    ("tag-not-found", "virtroot: no virtiofs root with the tag 'root' could be mounted", "tests/e2e/test_booster.py"),
    ("no-virtiofs", "mount: No such device\r\nFailed to mount root as root file system.", SEEN),
    ("no-virtiofs", "mount: mounting root on /root failed: No such device", "busybox' words"),
    ("no-virtiofs", "[   27.303682] request_module fs-virtiofs succeeded, but still no fs?", SEEN),
    ("no-virtiofs", "mount: /new_root: unknown filesystem type 'virtiofs'.", "util-linux's words"),
    ("no-virtiofs", "VFS: Unable to mount root fs on unknown-block(0,0)", "init/do_mounts.c"),
    ("waits-for-device", "[ TIME ] Timed out waiting for device /dev/root.", "systemd#16288"),
    ("waits-for-device", "systemd[1]: dev-vdb.device: Timed out waiting for device dev-vdb.device - /dev/vdb.", SEEN),
    ("waits-for-device", "ALERT!  /dev/vda1 does not exist.  Dropping to a shell!", "initramfs-tools' scripts"),
    ("waits-for-device", "Gave up waiting for root file system device.  Common problems:", "initramfs-tools' scripts"),
    ("waits-for-device", "Waiting for root device /dev/vda1...", "init/do_mounts.c"),
    ("posix-acl", "switch_root: can't change directory to '/newroot': Connection refused", "virtme-ng#475"),
    ("stale-handle", "ls: reading directory '.': Stale file handle", "virtme-ng#187"),
    ("stale-handle", "stat: Stale NFS file handle", "bcvk#157"),
    ("stale-handle", "open /srv/data/db: stale NFS file handle", "Go's words for ESTALE"),
    ("no-init", "No init found. Try passing init= bootarg.", "initramfs-tools' init"),
    ("no-init", "Target filesystem doesn't have requested /sbin/init.", "tests/e2e/test_golden_root.py"),
    (
        "no-init",
        "Kernel panic - not syncing: No working init found.  Try passing init= option to kernel.",
        "init/main.c",
    ),
    ("no-init", "Kernel panic - not syncing: Requested init /bin/sh failed (error -2).", "init/main.c"),
    ("no-init", "switch_root: can't execute '/sbin/init': No such file or directory", "busybox"),
    ("root-mode", "sshd[9592]: Authentication refused: bad ownership or modes for directory /", "openmediavault#418"),
    (
        "root-mode",
        "systemd-tmpfiles[7]: Detected unsafe path transition / (owned by me) → /var (owned by root) during",
        "systemd's source",
    ),
    ("overlayfs", "[   30.905764] overlayfs: upper fs missing required features.", SEEN),
    ("overlayfs", "[   30.905221] overlayfs: failed to set xattr on upper", SEEN),
    ("overlayfs", 'level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2', SEEN),
    ("overlayfs", "failed to start daemon: error initializing graphdriver: driver not supported: overlay2", SEEN),
    ("nested-overlay", "[  201.205045] overlayfs: overlapping lowerdir path", "fs/overlayfs/super.c"),
    ("nested-overlay", "mount: mount overlay on mnt failed: Too many levels of symbolic links", "bcvk, eca7719"),
    ("nested-overlay", "mount: mounting overlay on /mnt failed: Too many levels of symbolic links", "busybox' words"),
    ("nested-overlay", "mount: /mnt: mount(2) system call failed: Too many levels of symbolic links.", "util-linux"),
    (
        "nested-overlay",
        "error creating overlay mount to /var/lib/docker/overlay2/1f/merged: too many levels of symbolic links",
        "Docker's overlay2",
    ),
    (
        "nested-overlay",
        "failed to mount /tmp/containerd-mount12: too many levels of symbolic links",
        "containerd's mount",
    ),
    ("object-is-remote", "xargs: rm: Object is remote", "virtme-ng#50"),
    ("object-is-remote", "mkdir /var/lib/x/merged/data: object is remote", "Go's words for EREMOTE"),
    ("filesystem-loop", "find: File system loop detected; ‘/srv/b’ is part of the same file system loop", "zfs#14932"),
    ("filesystem-loop", "du: WARNING: Circular directory structure.", "zfs#140"),
    ("mmap-refused", "fatal: mmap failed: No such device", "git's words for ENODEV"),
    ("mmap-refused", "error: No such device (os error 19)", "cargo#13570"),
    ("mmap-refused", "OSError: [Errno 19] No such device", "Python's words for ENODEV"),
    ("mmap-refused", "mmap /srv/data/db: no such device", "Go's words for ENODEV"),
    ("host-key", "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @", "kairos#3370"),
    ("timers-stopped", "rcu: rcu_preempt kthread starved for 5247 jiffies! g-1043 f0x0 RCU_GP_WAIT_FQS(5)", SEEN),
    ("timers-stopped", "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", "kernel/rcu/tree_stall.h"),
    ("timers-stopped", "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]", "kernel/watchdog.c"),
    ("timers-stopped", "..MP-BIOS bug: 8254 timer doesn't work", SEEN),
    (
        "message-header",
        "qemu-kvm: Failed to read msg header. Read 0 instead of 12. Original request 1.",
        "kubevirt#4290",
    ),
    ("message-header", "qemu-kvm: Failed to write msg. Wrote -1 instead of 20.", "mkosi#1910"),
    ("message-header", "qemu-kvm: vhost_dev_init failed: Operation not permitted", "kubevirt#4290"),
    ("message-header", "qemu-system-x86_64: Unexpected end-of-file before all data were read", SEEN),
    ("root-locked", "Cannot open access to console, the root account is locked.", "forge#1022"),
    ("root-locked", 'You are in emergency mode. After logging in, type "journalctl -xb" to view', SEEN),
    ("root-locked", "dracut Warning: Entering emergency mode. Exit the shell to continue.", "dracut"),
]

#: What a guest that comes up prints, and what looks like a symptom.
GOOD_BOOT = CHECKOUT / "tests" / "unit" / "good_boot.txt"
SERVED_WELL = """\
[2026-11-28T03:58:01Z WARN  virtiofsd::limits] Failure when trying to set the limit to 1000000, \
the hard limit (20000) of open file descriptors is used instead.
[2026-11-28T03:58:01Z INFO  virtiofsd] Waiting for vhost-user socket connection...
[2026-11-28T03:58:01Z INFO  virtiofsd] Client connected, servicing requests
[2026-11-28T04:02:31Z INFO  virtiofsd] Client disconnected, shutting down
"""
HARMLESS = [
    SERVED_WELL,
    "overlayfs: upper fs does not support tmpfile.\nevm: overlay not supported\nstorage-driver=overlay2",
    "Authentication refused: bad ownership or modes for directory /home/ann",
    "[ TIME ] Timed out waiting for device dev-ttyS0.device - /dev/ttyS0.",
    "cat: loop: Too many levels of symbolic links",
    "cat: /srv/overlay/loop: too many levels of symbolic links",
    "ls: /mnt/mount overlay: Too many levels of symbolic links",
    "OSError: [Errno 19] No such device: '/dev/ttyUSB0'",
    "open /dev/ttyUSB0: no such device\nsocket: no such device or address",
    "rcu: Hierarchical RCU implementation.\nclocksource: timer works",
    "ls: cannot access 'x': No such device or address",
    "mount: No such device or address\nsomebody's mount: No such device",
]


def by_name(name: str) -> re.Pattern[str]:
    return next(symptom.pattern for symptom in SYMPTOMS if symptom.name == name)


def alternatives(pattern: str) -> list[str]:
    """Return what a pattern's outermost bars part."""
    parts, depth, escaped, bracket = [""], 0, False, False
    for letter in pattern:
        if not escaped and not bracket:
            depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "|" and not depth and not escaped and not bracket:
            parts.append("")
            continue
        if not escaped:
            bracket = letter == "[" or (bracket and letter != "]")
        parts[-1] += letter
        escaped = letter == "\\" and not escaped
    return parts


@pytest.mark.parametrize(("name", "line", "source"), LINES)
def test_what_was_written_is_known(name: str, line: str, source: str) -> None:
    found = find_symptom([f"before\n{line}\nafter"])
    assert found is not None, source
    assert found.name == name


def test_each_part_of_each_pattern_finds_something_that_was_written() -> None:
    for symptom in SYMPTOMS:
        lines = [line for name, line, _ in LINES if name == symptom.name]
        for part in alternatives(symptom.pattern.pattern):
            assert any(re.search(part, plain(line), symptom.pattern.flags) for line in lines), part


def test_a_good_boot_shows_nothing() -> None:
    console = GOOD_BOOT.read_bytes().decode()
    assert "root=root rootfstype=virtiofs" in console
    assert "\x1b[" in console
    assert find_symptoms([console]) == []


@pytest.mark.parametrize("text", ["", *HARMLESS])
def test_what_is_harmless_shows_nothing(text: str) -> None:
    assert find_symptoms([text]) == []


def test_the_refusals_of_the_payload_are_known() -> None:
    """The messages and the pattern are apart, since the payload can import nothing from the symptoms."""
    modules = (beneath, guest_files)
    written = "".join(inspect.getsource(module) for module in modules)
    current = by_name("refused-path").pattern.partition("|: is no regular file")[0]
    for part in alternatives(current):
        assert part.removeprefix(": ") in written, part


@pytest.mark.parametrize(
    ("cause", "consequence"),
    [
        ("waits-for-device", "root-locked"),
        ("tag-not-found", "no-virtiofs"),
        ("tag-not-found", "root-locked"),
        ("posix-acl", "no-init"),
        ("sandbox-denied", "message-header"),
        ("sandbox-denied", "virtiofsd-died"),
        ("invalid-param", "message-header"),
        ("kernel-unreadable", "message-header"),
        ("too-many-files", "virtiofsd-gone"),
        ("virtiofsd-gone", "message-header"),
        ("virtiofsd-gone", "timers-stopped"),
        ("no-virtiofs", "timers-stopped"),
    ],
)
def test_a_cause_comes_before_what_follows_from_it(cause: str, consequence: str) -> None:
    lines = {name: line for name, line, _ in LINES}
    both = [lines[consequence], lines[cause]]
    for texts in (both, both[::-1], ["\n".join(both)]):
        found = find_symptom(texts)
        assert found is not None
        assert found.name == cause


def test_a_whole_console_of_a_root_that_was_not_found_says_the_cause() -> None:
    """As dracut's without virtio_pci, with all that it prints after it."""
    console = (
        "[    0.737892] fuse: init (API version 7.37)\r\n[    0.740641] virtio-fs: tag <root> not found\r\n"
        "[    0.740955] dracut: mount: /sysroot: wrong fs type, bad option, bad superblock on root, missing code\r\n"
        "[    0.742611] dracut: FATAL: virtiofs: failed to mount root fs\r\n"
        "dracut Warning: Entering emergency mode. Exit the shell to continue.\r\n"
        "Cannot open access to console, the root account is locked.\r\n"
        "Kernel panic - not syncing: Attempted to kill init!"
    )
    assert [symptom.name for symptom in find_symptoms([console])] == ["tag-not-found", "root-locked"]


@pytest.mark.parametrize(
    "hostile",
    [
        "virtio-fs: \x1b[1;31mtag <ro\x1b[0mot> not\x1b[K found",
        "virtio-fs: tag <root>\x1b]0;title\x07 not found",
        "\x1b]0;never closed\nvirtio-fs: tag <root> not found",
        "\x9b31mvirtio-fs: tag <\u202eroot> n\u200bot found\x00",
        "x" * (1 << 20) + "virtio-fs: tag <root> not found" + "y" * (1 << 20),
        "\x1b[" * 5000 + "\nvirtio-fs: tag <root> not found",
    ],
)
def test_escapes_and_long_lines_hide_nothing(hostile: str) -> None:
    found = find_symptom([hostile])
    assert found is not None
    assert found.name == "tag-not-found"


def test_what_lies_far_apart_is_not_one_message() -> None:
    assert find_symptoms(["switch_root" + "x" * (1 << 20) + "Connection refused"]) == []
    assert find_symptoms(["switch_root\nConnection refused"]) == []


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=NAMES)
def test_no_repetition_is_without_a_bound(symptom: Symptom) -> None:
    """What a guest writes may be long and made for it: the work for each letter has to have an end."""
    pattern = symptom.pattern.pattern
    assert not re.search(r"(?<!\\)[*+]", pattern)
    assert all(int(most) <= 400 for most in re.findall(r"\{\d+,(\d+)\}", pattern))
    assert not re.search(r"\{\d+,\}", pattern)


def test_only_the_last_start_counts_in_a_log_that_is_never_emptied() -> None:
    refused = "qemu: could not open kernel file '/k': Permission denied\n2026-11-28 04:02:31.292+0000: shutting down\n"
    begun = "2026-11-28 04:10:00.000+0000: starting up libvirt version: 11.3.0, package: 11.3.0-3\n"
    assert find_symptoms([get_last_start(refused)])
    assert find_symptoms([get_last_start(refused + begun)]) == []
    assert find_symptoms([get_last_start(begun + refused)])


def test_causes_and_remedies_are_lines_of_an_error() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 20
    for symptom in SYMPTOMS:
        assert re.fullmatch(r"[a-z][a-z-]+[a-z]", symptom.name)
        for text in (symptom.cause, symptom.remedy):
            assert "\n" not in text
            assert not text.endswith(".")
        assert "{name}" not in symptom.cause
        # As `error: CAUSE`: a name may begin with a capital.
        assert symptom.cause[0].islower() or symptom.cause.startswith(("QEMU", "AppArmor"))
        assert len(symptom.cause) < 110
        assert "{name}" not in symptom.format_hint("web")
        assert symptom.format_hint("web").endswith(f"; more: ./inv help {symptom.name}")


def test_no_cause_reads_like_what_software_emulation_does() -> None:
    """A night tries a boot again where its error does; what is said of a symptom must not decide that."""
    for symptom in SYMPTOMS:
        assert not candidate._EMULATION.search(f"{symptom.format_error('')} {symptom.format_hint('web')}"), symptom.name


def test_what_a_guest_shows_that_is_up_is_no_reason_for_one_that_is_not() -> None:
    late = {symptom.name for symptom in SYMPTOMS if symptom.comes_up}
    assert {"overlayfs", "root-mode", "host-key"} <= late
    assert not {GONE.name, TIMERS.name, "tag-not-found", "no-init", "root-locked"} & late
    assert OVERLAYFS.comes_up


BOOK = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"(?ms)^## (.*?) \{ #([\w-]+) \}\n(.*?)(?=^## |\Z)", BOOK)


def test_the_book_has_a_section_for_each_symptom_and_no_other() -> None:
    assert [(heading.strip("`"), name) for heading, name, _ in SECTIONS] == [
        (symptom.heading, symptom.name) for symptom in sorted(SYMPTOMS, key=lambda each: BOOK.find(f"#{each.name} }}"))
    ]
    assert len(re.findall(r"(?m)^## ", BOOK)) == len(SYMPTOMS)


@pytest.mark.parametrize(("heading", "name", "text"), SECTIONS, ids=[name for _, name, _ in SECTIONS])
def test_a_section_says_what_to_do_and_how_it_is_known(heading: str, name: str, text: str) -> None:
    # Angle brackets outside of code are HTML to Markdown.
    assert heading.startswith("`")
    assert "\n```sh\n" in text, "no command"
    tried = text.strip().split("\n\n")[-1]
    assert tried.startswith(("*Tried*: `tests/", "*Read*: "))
    for file, test in re.findall(r"`(tests/[\w/.]+)::(test_\w+)`", tried):
        functions = [node.name for node in ast.parse((CHECKOUT / file).read_text()).body if hasattr(node, "name")]
        assert test in functions, f"{file}::{test}"


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=NAMES)
def test_help_shows_the_section_that_an_error_names(symptom: Symptom) -> None:
    part = pages.get_page(symptom.name)
    assert part.title == f"`{symptom.heading}`"
    assert pages.as_text(part).rstrip("\n").split("\n\n")[-1].startswith(("*Tried*", "*Read*"))


@pytest.mark.parametrize(("name", "line", "source"), LINES)
def test_help_finds_a_section_by_what_was_written(name: str, line: str, source: str) -> None:
    assert explaining.find_parts(line)[0].name == name, source


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=NAMES)
def test_help_finds_a_section_by_its_heading_however_it_is_typed(symptom: Symptom) -> None:
    typed = symptom.heading
    for text in (typed, typed.lower(), f"`{typed}`", f"Nov 28 07:41:16 web prog[7]: {typed.upper()}!"):
        assert symptom.name in [part.name for part in explaining.find_parts(text)][:2], text


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("failed to set msg fds", "message-header"),
        ("system loop", "filesystem-loop"),
        ("gave up waiting for root", "waits-for-device"),
    ],
)
def test_help_finds_a_section_by_words_that_stand_in_it(typed: str, name: str) -> None:
    assert explaining.find_parts(typed)[0].name == name


def test_help_names_what_else_a_text_shows(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {name: line for name, line, _ in LINES}
    explaining.show_topic(f"{lines['root-locked']}\n{lines['tag-not-found']}")
    said = capsys.readouterr()
    assert said.out.startswith("## `virtio-fs: tag <root> not found`\n")
    assert said.err == "also: ./inv help root-locked\n"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("the dog ate it", "run ./inv help troubleshooting for the known errors"),
        ("handle", "run ./inv help stale-handle, or ./inv help"),
        ("", "run ./inv help for the pages"),
        ("\x1b[31m", "run ./inv help for the pages"),
    ],
)
def test_what_help_does_not_know_is_refused_with_where_to_look(typed: str, hint: str) -> None:
    with pytest.raises(VirtrootError, match="no page") as refused:
        explaining.find_parts(typed)
    assert refused.value.hint == hint


def test_links_between_sections_lead_somewhere() -> None:
    for anchor in re.findall(r"\]\(#([\w-]+)\)", BOOK):
        assert anchor in re.findall(r"\{ #([\w-]+) \}", BOOK)


def test_a_symptom_says_of_itself_what_its_docstring_says() -> None:
    assert [field.name for field in fields(SYMPTOMS[0])] == [
        "name",
        "heading",
        "pattern",
        "cause",
        "remedy",
        "comes_up",
    ]

"""Known symptoms: which messages show them, and which of them is the cause."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

from pipelines import candidate
from pipelines.settings import CHECKOUT
from pipelines.symptom.known import GONE, OVERLAYFS, SYMPTOMS, TIMERS
from pipelines.symptom.recognise import find_symptom, find_symptoms, get_last_start
from pipelines.symptom.symptom import Symptom
from pipelines.target.payload import beneath, guest_files
from pipelines.text import plain
from tests.support.messages import MESSAGES

NAMES = [symptom.name for symptom in SYMPTOMS]

#: What a guest prints that boots, and harmless messages that look like a symptom.
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


@pytest.mark.parametrize(("name", "line", "source"), MESSAGES)
def test_a_message_is_recognised(name: str, line: str, source: str) -> None:
    found = find_symptom([f"before\n{line}\nafter"])
    assert found is not None, source
    assert found.name == name


def test_each_part_of_each_pattern_matches_a_message() -> None:
    for symptom in SYMPTOMS:
        lines = [line for name, line, _ in MESSAGES if name == symptom.name]
        for part in alternatives(symptom.pattern.pattern):
            assert any(re.search(part, plain(line), symptom.pattern.flags) for line in lines), part


def test_a_good_boot_has_no_symptom() -> None:
    console = GOOD_BOOT.read_bytes().decode()
    assert "root=root rootfstype=virtiofs" in console
    assert "\x1b[" in console
    assert find_symptoms([console]) == []


@pytest.mark.parametrize("text", ["", *HARMLESS])
def test_a_harmless_message_is_not_a_symptom(text: str) -> None:
    assert find_symptoms([text]) == []


def test_the_refusals_of_the_payload_are_known() -> None:
    """The payload cannot import the pattern of the symptom, so the messages are written twice."""
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
def test_a_cause_is_reported_before_its_consequence(cause: str, consequence: str) -> None:
    lines = {name: line for name, line, _ in MESSAGES}
    both = [lines[consequence], lines[cause]]
    for texts in (both, both[::-1], ["\n".join(both)]):
        found = find_symptom(texts)
        assert found is not None
        assert found.name == cause


def test_the_console_of_a_root_that_was_not_found_has_the_cause_first() -> None:
    """The console is that of dracut without virtio_pci, with what it prints afterwards."""
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


def test_distant_words_are_not_one_message() -> None:
    assert find_symptoms(["switch_root" + "x" * (1 << 20) + "Connection refused"]) == []
    assert find_symptoms(["switch_root\nConnection refused"]) == []


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=NAMES)
def test_every_repetition_is_bounded(symptom: Symptom) -> None:
    """A guest chooses how long its output is, so the work for each letter must have a limit."""
    pattern = symptom.pattern.pattern
    assert not re.search(r"(?<!\\)[*+]", pattern)
    assert all(int(most) <= 400 for most in re.findall(r"\{\d+,(\d+)\}", pattern))
    assert not re.search(r"\{\d+,\}", pattern)


def test_only_the_last_start_in_a_log_counts() -> None:
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
        # It is printed as `error: CAUSE`. Only a name begins with a capital.
        assert symptom.cause[0].islower() or symptom.cause.startswith(("QEMU", "AppArmor"))
        assert len(symptom.cause) < 110
        assert "{name}" not in symptom.format_hint("web")
        assert symptom.format_hint("web").endswith(f"; more: ./inv help {symptom.name}")


def test_no_cause_matches_a_failure_of_emulation() -> None:
    """A nightly run boots again after an error of emulation. The text of a symptom must not cause that."""
    for symptom in SYMPTOMS:
        assert not candidate._EMULATION.search(f"{symptom.format_error('')} {symptom.format_hint('web')}"), symptom.name


def test_symptoms_of_running_guests_do_not_explain_a_failed_boot() -> None:
    late = {symptom.name for symptom in SYMPTOMS if symptom.comes_up}
    assert {"overlayfs", "root-mode", "host-key"} <= late
    assert not {GONE.name, TIMERS.name, "tag-not-found", "no-init", "root-locked"} & late
    assert OVERLAYFS.comes_up


def test_a_symptom_has_the_documented_fields() -> None:
    assert [field.name for field in fields(SYMPTOMS[0])] == [
        "name",
        "heading",
        "pattern",
        "cause",
        "remedy",
        "comes_up",
    ]

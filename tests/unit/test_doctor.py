"""The doctor looks and touches nothing; what it mends it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import doctor
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.health import guest_checks, libvirt
from pipelines.health.finding import Finding, Fix, fault, fine
from pipelines.host import process
from pipelines.host.process import Completed
from pipelines.settings import Settings
from tests.support.sound import DEFINITION, POOL, SEEN, WEB

#: All that it may ask of an engine, and of virsh.
READS = {"refuse_foreign", "memory", "registry_has", "images", "container"}
ASKS = {"uri", "list", "dumpxml", "version", "domcapabilities", "domstate", "pool-dumpxml", "pool-info"}

VIRSH = {
    "uri": "qemu:///system\n",
    "list": f"{WEB} web\n",
    "dumpxml": DEFINITION,
    "domstate": "running\n",
    "version": "Running against daemon: 11.3.0\n",
    "domcapabilities": "<domainCapabilities/>",
    "pool-dumpxml": f"<pool type='dir'><target><path>{POOL}</path></target></pool>",
    "pool-info": "State: running\nAutostart: yes\n",
}


class ReadOnly:
    """An engine that fails the test when it is asked for anything but its state."""

    def __getattr__(self, name: str) -> Any:
        assert name in READS, name
        answers = {"memory": 8 << 30, "registry_has": True, "images": {}, "container": None}
        return lambda *_: answers.get(name)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A machine whose libvirt answers, and what is run there."""
    ran: list[list[str]] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        ran.append(list(argv))
        if "virsh" in argv:
            line = argv[list(argv).index("--connect") + 2]
            # One virsh runs several commands, and prints a mark after each.
            answers = [VIRSH.get(each.split(" ")[0], each.removeprefix("echo ")) for each in line.split("; ")]
            return Completed(tuple(argv), 0, "".join(answers).encode(), b"")
        said = json.dumps(SEEN) if argv[1:3] == ["-I", "-c"] else "virtiofsd 1.13.2 --shared-dir --modcaps"
        return Completed(tuple(argv), 0, said.encode(), b"")

    monkeypatch.setattr("pipelines.engine.engine.is_available", lambda: True)
    monkeypatch.setattr("pipelines.engine.engine.connect", ReadOnly)
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "is_installed", lambda _: True)
    monkeypatch.setattr("pipelines.guest.agent.Agent.is_answering", lambda _: True)
    for forbidden in ("attach", "start_daemon", "stop_daemon", "hold"):
        monkeypatch.delattr(process, forbidden)
    return ran


@pytest.mark.parametrize("connect", ["auto", "embedded", "qemu:///system"])
def test_nothing_is_started_or_defined(ran: list[list[str]], connect: str) -> None:
    findings = doctor.examine(CommandContext(Settings(connect=connect)))
    names = {(each.of, each.name) for each in findings}
    assert {("this machine", "Docker engine"), ("this machine", "KVM"), ("libvirt's machine", "libvirt")} <= names
    assert (("web", "root") in names) == (connect != "embedded"), findings
    for argv in ran:
        if "virsh" in argv:
            commands = argv[argv.index("--connect") + 2].split("; ")
            assert {each.split(" ")[0] for each in commands} - {"echo"} <= {*ASKS}, argv
        elif argv[1:3] != ["-I", "-c"]:
            # The programs that read, the probe of KVM, and virtiofsd, asked what it is and started for a moment.
            probe = "q35,accel=kvm" in argv and "isa-debug-exit,iobase=0xf4,iosize=4" in argv
            asked = argv[1:] in (["--version"], ["--help"])
            tried = argv[:3] == ["sh", "-s", "--"] and argv[4] == "virtiofsd-acl"
            assert probe or asked or tried or (argv[:2] == ["sh", "-c"] and argv[3] == "installed"), argv


def test_a_guest_that_is_as_it_should_be_has_no_fault(ran: list[list[str]]) -> None:
    assert [each for each in doctor.examine(CommandContext(Settings()), "web") if not each.ok] == []
    with pytest.raises(VirtrootError, match="no guest ghost"):
        doctor.examine(CommandContext(Settings()), "ghost")


def test_who_is_not_root_is_told_so_and_not_that_roots_are_gone(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SEEN, "user", 1000)
    with pytest.raises(VirtrootError, match="requires root"):
        doctor.examine(CommandContext(Settings()), "web")
    (last,) = [each for each in doctor.examine(CommandContext(Settings())) if each.of == libvirt.OF]
    assert (last.ok, last.do) == (False, "run it with sudo")


def test_where_no_hypervisor_runs_a_guest_is_an_error_and_the_rest_is_looked_at(ran: list[list[str]]) -> None:
    with pytest.raises(VirtrootError, match="is not running"):
        doctor.examine(CommandContext(Settings(connect="embedded")), "web")
    (last,) = [each for each in doctor.examine(CommandContext(Settings(connect="embedded"))) if each.of == libvirt.OF]
    assert last.ok
    assert "is not running" in last.says


def test_each_fix_is_said_and_one_that_fails_keeps_no_other_from_being_done(capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def fail() -> None:
        raise VirtrootError("another task works on web", "wait for it")

    faults = [
        fault("web", "a", "is broken", "mend it", fix=Fix("mend a", fail)),
        fault("web", "b", "is broken", "mend it", needed=False, fix=Fix("mend b", lambda: done.append("b"))),
        fault("web", "c", "is broken", "mend it"),
        fine("web", "d", "is fine"),
    ]
    doctor.apply_fixes(faults)
    assert done == ["b"]
    assert capsys.readouterr().err.splitlines() == [
        "web: mend a",
        "warning: another task works on web; wait for it",
        "web: mend b",
    ]


def test_only_what_is_needed_makes_it_fail() -> None:
    optional = fault("web", "a", "is broken", "mend it", needed=False)
    assert doctor.compute_status([fine("web", "b", "fine"), optional]) == 0
    assert doctor.compute_status([optional, fault("web", "c", "is broken", "mend it")]) == 1


def test_people_read_faults_under_what_they_are_of_and_what_to_do_below() -> None:
    findings = [
        fine("this machine", "engine", "answers"),
        fault("web", "fstab", "it mounts /dev/x\x1b[2J at /\nok  root", "mend it"),
        fault("web", "kernel", "is old", "restart it", needed=False),
    ]
    assert doctor.as_text(findings).splitlines() == [
        "this machine",
        "  ok  engine  answers",
        "",
        "web",
        "  NO  fstab   it mounts /dev/x at / ok  root",
        "              do: mend it",
        "  -   kernel  is old",
        "              do: restart it",
    ]


def test_programs_read_what_is_whether_it_can_be_mended_and_what_to_do() -> None:
    (data,) = doctor.as_data([fault("web", "a", "is broken", "mend it", fix=Fix("mend a", lambda: None))])
    assert data == {
        "of": "web",
        "name": "a",
        "ok": False,
        "needed": True,
        "says": "is broken",
        "do": "mend it",
        "fix": "mend a",
    }
    assert isinstance(fine("a", "b", "c"), Finding)


def test_a_guest_that_cannot_be_looked_at_is_a_finding_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(guest: SimpleNamespace, seen: object, *, running: bool, handles: bool) -> list[Finding]:
        raise VirtrootError("what it wrote", "look at it")

    monkeypatch.setattr(guest_checks, "examine", examine)
    [found] = doctor._examine_guest(SimpleNamespace(name="web"), {}, handles=False, running=False)  # type: ignore[arg-type]
    assert (found.of, found.ok, found.do) == ("web", False, "look at it")
    assert found.says == "cannot be checked: what it wrote"

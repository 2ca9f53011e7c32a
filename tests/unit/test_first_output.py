"""An error of a guest that did not come up, of logs and of a suite that said no begins with the cause."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from pipelines import logs, verify
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import place
from pipelines.settings import Settings
from pipelines.symptom.known import GONE, OVERLAYFS, SYMPTOMS
from pipelines.target.target import Local
from pipelines.verify import SuiteContext
from tests.support.artifacts import made
from tests.support.guests import make_guest

TAG = next(symptom for symptom in SYMPTOMS if symptom.name == "tag-not-found")
DIED = "[2026-11-28T04:00:00Z ERROR virtiofsd] Waiting for daemon failed: HandleRequest(InvalidParam)\n"
STARTS = "2026-11-28 04:10:00.000+0000: starting up libvirt version: 11.3.0\n/usr/bin/qemu-system-x86_64 \\\n"
REFUSED = "error: Failed to start domain 'web'\nerror: operation failed: Unable to find a satisfying virtiofsd\n"


class Machine(Local):
    """Its files are below a directory; of libvirt it has what a test says."""

    root: Path
    started: tuple[int, str] = (0, "")
    state = "running"
    watched = "off"

    def run(self, argv: Sequence[str], **options: object) -> Completed:
        line = " ".join(argv)
        if "guest-ping" in line:
            return Completed(tuple(argv), 0, self.watched.encode(), b"")
        if "virsh" in argv:
            status, said = self.started if "start" in argv else (0, self.state)
            return Completed(tuple(argv), status, b"" if status else said.encode(), said.encode() if status else b"")
        moved = [word.replace(place.LOGS, str(self.root)) for word in argv]
        return super().run(moved, **options)  # type: ignore[arg-type] # they are passed on


@pytest.fixture
def machine(tmp_path: Path) -> type[Machine]:
    return type("Here", (Machine,), {"root": tmp_path})


def guest(machine: type[Machine], *, overlayfs: bool = False) -> Guest:
    return make_guest(Hypervisor(machine()), overlayfs=overlayfs)


def write(machine: type[Machine], path: str, text: str) -> None:
    file = machine.root / Path(path).name
    file.write_text((file.read_text() if file.exists() else "") + text)


def start(of: Guest) -> VirtrootError:
    with (
        patch.object(Guest, "refuse_shared_root"),
        patch.object(Guest, "copy_kernel"),
        patch.object(Guest, "find_unserved", return_value=""),
        pytest.raises(VirtrootError) as told,
    ):
        of.start(1)
    return told.value


def test_what_the_console_shows_comes_first(machine: type[Machine]) -> None:
    write(machine, place.console_log("web"), "[    0.74] virtio-fs: tag <root> not found\n(initramfs) \n")
    error = start(guest(machine))
    assert error.what == f"{TAG.cause}: the guest web did not come up: libvirt says running"
    assert error.hint.endswith("; more: ./inv help tag-not-found")
    assert "the console:\n[    0.74] virtio-fs: tag <root> not found" in error.detail
    assert error.where == "boot"


def test_what_is_not_known_is_said_as_it_is(machine: type[Machine]) -> None:
    write(machine, place.console_log("web"), "something new\n")
    error = start(guest(machine))
    assert error.what == "the guest web did not come up: libvirt says running"
    assert error.hint.startswith("read the logs above, or run ./inv logs web")


def test_what_libvirt_answers_is_read_whole(machine: type[Machine]) -> None:
    machine.started = (1, REFUSED + "error: and something else")
    error = start(guest(machine))
    assert error.what.startswith("libvirt finds no virtiofsd on its host: the guest web did not come up: error: and")
    assert "libvirt:\nerror: Failed to start domain 'web'" in error.detail


def test_what_was_in_the_logs_before_is_of_another_start(machine: type[Machine]) -> None:
    write(machine, place.virtiofsd_log("web"), DIED)
    write(machine, place.qemu_log("web"), STARTS + "qemu: could not open kernel file '/k': Permission denied\n")
    machine.started = (1, "error: something new")
    assert start(guest(machine)).what == "the guest web did not come up: error: something new"


def test_what_qemu_says_is_shown_without_the_command_that_started_it(machine: type[Machine]) -> None:
    write(
        machine, place.qemu_log("web"), STARTS + "2026-11-28T04:01:38.6Z qemu-system-x86_64: Unexpected end-of-file\n"
    )
    with patch.object(Guest, "find_unserved", return_value=""), pytest.raises(VirtrootError) as told:
        guest(machine).wait(1)
    assert "QEMU's log:\n2026-11-28T04:01:38.6Z qemu-system-x86_64: Unexpected end-of-file" in told.value.detail
    assert "/usr/bin/qemu" not in told.value.detail


def test_a_guest_that_hangs_since_nobody_serves_it_is_not_waited_for(machine: type[Machine]) -> None:
    machine.watched = "neither"
    said = "no virtiofsd serves /pool/root.web any more"
    with patch.object(Guest, "find_unserved", return_value=said), pytest.raises(VirtrootError) as told:
        guest(machine).wait(300)
    assert told.value.what == f"{GONE.cause}: the guest web did not come up: {said}"


def test_what_guests_show_that_are_up_is_no_reason(machine: type[Machine]) -> None:
    write(machine, place.console_log("web"), "overlayfs: upper fs missing required features.\n")
    assert start(guest(machine)).what.startswith("the guest web did not come up")


@pytest.mark.parametrize(("overlayfs", "told"), [(False, True), (True, False)])
def test_logs_warns_of_what_it_shows(
    machine: type[Machine], capsys: pytest.CaptureFixture[str], overlayfs: bool, told: bool
) -> None:
    write(machine, place.console_log("web"), "overlayfs: upper fs missing required features.\nhello\n")
    with (
        patch.object(guests, "get", return_value=guest(machine, overlayfs=overlayfs)),
        patch("pipelines.libvirt.connect.connect"),
    ):
        assert "hello" in "".join(logs.read_log("web", CommandContext(Settings())))
    said = " ".join(capsys.readouterr().err.split())
    assert (said == f"warning: web: {OVERLAYFS.cause}: {OVERLAYFS.format_hint('web')}") is told
    assert bool(said) is told


def test_logs_warns_of_the_last_start_alone(machine: type[Machine], capsys: pytest.CaptureFixture[str]) -> None:
    write(machine, place.qemu_log("web"), "qemu: could not open kernel file '/k': Permission denied\n" + STARTS)
    with patch.object(guests, "get", return_value=guest(machine)), patch("pipelines.libvirt.connect.connect"):
        assert "could not open" in "".join(logs.read_log("web", CommandContext(Settings()), which="qemu"))
    assert capsys.readouterr().err == ""


def test_a_suite_that_says_no_says_why_first(tmp_path: Path, machine: type[Machine]) -> None:
    artifact = made(tmp_path, "web", "1")
    junit = (
        '<testsuites><testsuite><testcase name="test_a"/><testcase name="test_b"><failure message="AssertionError">'
        "bad ownership or modes for directory /: it is root's, and its mode is 700</failure></testcase></testsuite>"
        "</testsuites>"
    )

    def suite(*_: object, **__: object) -> int:
        artifact.report("root", "web").write_text(junit)
        return 1

    context = SuiteContext(str(artifact.directory), {}, guest="web")
    machine.state = "shut off"
    with patch("pipelines.host.process.run_by_line", suite), pytest.raises(CheckFailed) as told:
        verify._run_suite("root", context, artifact, guest(machine))
    assert told.value.what.startswith("the root directory does not belong to root with mode 0755: 1 of 2 checks failed")
    assert told.value.what.endswith(": test_b")
    assert "more: ./inv help root-mode; see the reasons above, or " in told.value.hint

"""How a night treats the guest that it boots and throws away; libvirt and the guest are stood in for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from pipelines import candidate, nightly
from pipelines import verify as verifying
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Verdict
from pipelines.builder.mirror_state import Asker
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed, Phase, VirtrootError
from pipelines.guest import host_requests
from pipelines.guest.guest import Guest
from pipelines.guest.install_options import InstallOptions
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor, ListedDomain
from pipelines.settings import Settings
from pipelines.target.lock import Busy
from pipelines.target.target import Local
from tests.support.artifacts import made
from tests.support.guests import make_guest

PASSED = Verdict(passed=True, tests=10, time="2026-11-01T00:00:00Z", seconds=1, boot_seconds=12.5)


def hangs(why: str, where: Phase = Phase.BOOT) -> VirtrootError:
    return VirtrootError(f"the guest night-web did not come up: {why}", "look", where=where)


@dataclass
class Machine(Hypervisor):
    """libvirt with the domains that a test puts there: name to whose throw-away guest it is, None for no guest."""

    target: Any = field(default_factory=Local)
    there: dict[str, str | None] = field(default_factory=dict)
    verdicts: list[Verdict | VirtrootError] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    emulates: bool = True

    @property
    def kvm(self) -> bool:
        return not self.emulates

    def domains(self, *, active: bool = False) -> list[ListedDomain]:
        return [ListedDomain(name, name) for name in self.there]

    def virsh(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Completed:
        self.said.append(" ".join(arguments))
        return Completed(arguments, 0, b"running", b"")

    def guests(self) -> list[Guest]:
        return [
            make_guest(self, name, "web/1", uuid=name, transient=owner)
            for name, owner in self.there.items()
            if owner is not None
        ]


@pytest.fixture
def run(tmp_path: Path) -> candidate.Run:
    return candidate.Run(
        Settings(output=str(tmp_path)), 3, "", dirty=False, asker=VirtrootError("no mirror is asked here", "")
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, run: candidate.Run) -> Machine:
    machine = Machine()

    def install(name: str, artifact: Artifact, options: InstallOptions, settings: Settings) -> None:
        assert options == InstallOptions(cache="always", transient=run.owner, clone="copy", consent=host_requests.grant)
        assert name not in machine.there
        machine.there[name] = options.transient
        machine.said.append(f"install {name}")

    def verify(name: str, settings: Settings, *, boot: bool) -> Verdict:
        machine.said.append(f"verify {name}")
        verdict = machine.verdicts.pop(0)
        if isinstance(verdict, VirtrootError):
            raise verdict
        return verdict

    def remove(name: str, settings: Settings, ask: object) -> None:
        machine.said.append(f"remove {name}")
        del machine.there[name]

    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda settings: machine)
    monkeypatch.setattr("pipelines.libvirt.connect.find", lambda settings: machine)
    monkeypatch.setattr(candidate, "install", install)
    monkeypatch.setattr(candidate, "verify_guest", verify)
    monkeypatch.setattr("pipelines.remove.remove", remove)
    monkeypatch.setattr("pipelines.guest.guest.list_guests", lambda hypervisor: machine.guests())
    monkeypatch.setattr(
        "pipelines.guest.guest.get", lambda _, name: next(guest for guest in machine.guests() if guest.name == name)
    )
    return machine


def prove(run: candidate.Run, machine: Machine, verdicts: Sequence[Verdict | VirtrootError]) -> dict[str, Any]:
    machine.verdicts = list(verdicts)
    facts: dict[str, Any] = {}
    artifact = made(run.settings.output_dir, "web", str(len(machine.said)), good=None)
    candidate.verify_in_guest(artifact, run, facts)
    return facts


def test_a_guest_is_booted_checked_and_gone(run: candidate.Run, machine: Machine) -> None:
    assert prove(run, machine, [PASSED]) == {"boot_seconds": 12.5}
    assert [word for word in machine.said if word.split()[0] in {"install", "verify", "remove"}] == [
        "install night-web",
        "verify night-web",
        "remove night-web",
    ]
    assert machine.there == {}


@pytest.mark.parametrize("why", ["no agent answered within 300 s", "libvirt says shut off (crashed)"])
def test_a_boot_that_emulation_is_known_to_spoil_is_tried_once_more(
    run: candidate.Run, machine: Machine, why: str
) -> None:
    assert prove(run, machine, [hangs(why), PASSED])["retried"].endswith(why)
    assert machine.said.count("verify night-web") == 2
    with pytest.raises(VirtrootError, match="did not come up"):
        prove(run, machine, [hangs(why), hangs(why), PASSED])
    assert machine.there == {}


@pytest.mark.parametrize(
    ("error", "emulates"),
    [
        (hangs("its console says 'Kernel panic - not syncing'"), True),
        (hangs("no agent answered within 300 s"), False),
        (CheckFailed("1 of 10 checks failed: no agent answered within 300 s", "look"), True),
    ],
)
def test_what_else_fails_is_not_tried_again(
    run: candidate.Run, machine: Machine, error: VirtrootError, emulates: bool
) -> None:
    machine.emulates = emulates
    with pytest.raises(VirtrootError) as raised:
        prove(run, machine, [error, PASSED])
    assert raised.value is error
    assert machine.there == {}


def test_only_what_this_outputs_nights_left_is_taken_for_a_left_over(run: candidate.Run, machine: Machine) -> None:
    machine.there = {"night-web": run.owner, "mine": ""}
    prove(run, machine, [PASSED])
    assert machine.said.count("remove night-web") == 2
    assert machine.there == {"mine": ""}
    for owner in ("", None, "nightly elsewhere:/output"):
        machine.there = {"night-web": owner}
        prove(run, machine, [PASSED])
        assert machine.there == {"night-web": owner}
        assert machine.said[-1] == "remove night-web-2"


def test_two_checkouts_that_want_one_name_at_once_get_two(
    run: candidate.Run, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = vars(candidate)["install"]

    def busy(name: str, *arguments: Any) -> None:
        if name == "night-web":
            raise Busy(f"the guest {name}")
        install(name, *arguments)

    monkeypatch.setattr(candidate, "install", busy)
    prove(run, machine, [PASSED])
    assert "install night-web-2" in machine.said


def test_a_night_begins_by_removing_what_killed_ones_left(run: candidate.Run, machine: Machine) -> None:
    machine.there = {"night-gone": run.owner, "night-web": "nightly elsewhere:/output", "mine": ""}
    candidate.clear_leftovers(run)
    assert list(machine.there) == ["night-web", "mine"]


def test_a_night_begins_by_removing_what_killed_builds_left(
    run: candidate.Run, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = MagicMock()
    run = replace(run, asker=Asker(engine, run.settings))
    output = run.settings.output_dir
    for name in ("gone", "busy", "odd"):
        made(output, name, "1")
        (output / name / ".partial-2").mkdir()
    (output / ".locks" / "recipe-odd").mkdir(parents=True)
    with run.store.lock("busy"):
        candidate.clear_leftovers(run)
    assert {name for name in ("gone", "busy", "odd") if (output / name / ".partial-2").exists()} == {"busy", "odd"}
    removed = [call.args[0] for call in engine.remove_containers.call_args_list]
    assert {(each["virtroot.recipe"], each["virtroot.purpose"]) for each in removed if "virtroot.recipe" in each} == {
        ("gone", "build"),
        ("gone", "apart"),
    }
    assert "cannot delete what a killed build of odd left" in " ".join(capsys.readouterr().err.split())


def test_a_night_that_is_ended_takes_only_what_is_its_own(
    run: candidate.Run, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MagicMock()
    monkeypatch.setattr("pipelines.engine.engine.connect", lambda: engine)
    machine.there = {"night-web": run.owner, "mine": ""}
    nightly._end_work(run)
    (labels,) = engine.remove_containers.call_args.args
    assert labels["virtroot.owner"] == "night"
    assert labels["virtroot.key"] == run.settings.key
    assert [said for said in machine.said if said.startswith("destroy")] == ["destroy night-web"]


def test_a_long_recipes_guest_has_a_name_that_libvirt_takes(run: candidate.Run, machine: Machine) -> None:
    names = {candidate._choose_name(f"{'a' * 61}{end}", run, run.open()) for end in "bc"}
    assert len(names) == 2
    assert all(len(name) <= 63 for name in names)


class Stubborn(SimpleNamespace):
    """A guest that is shut off, boots, and does not shut down."""

    name = "web"
    root = "/r"
    artifact = "web/1"
    boots = 0

    @property
    def running(self) -> bool:
        return self.boots > 0

    def mount_layers(self) -> None:
        """Its root is of one layer."""

    def stop(self, timeout: float) -> None:
        raise VirtrootError("the guest web did not shut down", "look", where=Phase.BOOT)


@pytest.mark.parametrize(
    ("found", "ends"),
    [(CheckFailed("1 of 14 checks failed: test_sshd", "look"), "test_sshd"), (None, "did not shut down")],
)
def test_what_the_suite_found_is_not_hidden_by_a_shutdown_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: CheckFailed | None, ends: str
) -> None:
    guest = Stubborn()

    def start(*_: object) -> float:
        guest.boots += 1
        return 1.0

    def judge(*_: object, **__: object) -> Verdict:
        if found:
            raise found
        return PASSED

    monkeypatch.setattr("pipelines.libvirt.connect.connect", lambda settings: None)
    monkeypatch.setattr("pipelines.guest.guest.get", lambda *_: guest)
    monkeypatch.setattr("pipelines.guest.hold.hold", lambda *_: nullcontext(guest))
    monkeypatch.setattr("pipelines.guest.publication.start", start)
    monkeypatch.setattr(verifying, "_get_artifact", lambda *_: made(tmp_path, "web", "1"))
    monkeypatch.setattr(verifying, "_run_suite", judge)
    with pytest.raises(VirtrootError, match=ends):
        verifying.verify_guest("web", CommandContext(Settings()), boot=True)

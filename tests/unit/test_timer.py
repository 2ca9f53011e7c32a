"""The schedule: what its units and crontab lines say, and that they are there whole or not at all."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.night import calendar, timer, units
from pipelines.night.timer import Systemd
from pipelines.night.units import Schedule
from pipelines.settings import CHECKOUT, Settings

NIGHT = Schedule(Path("/srv/virtroot"), Path("/srv/virtroot/output"), units.ON_CALENDAR)


def setting(unit: str, name: str) -> list[str]:
    """Return the values of a unit's setting, in their order."""
    return [line.partition("=")[2] for line in unit.splitlines() if line.partition("=")[0] == name]


@dataclass(frozen=True)
class Recorded(Systemd):
    """A systemd that runs, takes every unit, and does not do what ``refuses`` says."""

    refuses: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        return True

    def ctl(self, *arguments: str, check: bool = True) -> str:
        self.asked.append(" ".join(arguments))
        if arguments[0] == self.refuses and check:
            raise VirtrootError(f"systemctl {self.refuses} failed", "ask systemd why")
        return ""

    def verify(self, files: Mapping[str, str]) -> None:
        self.asked.append("verify")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    # Whether a time is one, systemd-analyze says: tests/integration asks it.
    monkeypatch.setattr(calendar, "check_event", str)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return Recorded(tmp_path / "units")


@pytest.fixture
def night(tmp_path: Path) -> Schedule:
    return replace(NIGHT, project=CHECKOUT, output=tmp_path / "output")


def there(systemd: Systemd) -> list[str]:
    return sorted(path.name for path in systemd.directory.iterdir()) if systemd.directory.exists() else []


def test_each_checkout_has_units_of_its_own() -> None:
    assert units.make_name(Path("/srv/a")) != units.make_name(Path("/srv/b"))
    assert NIGHT.name == units.make_name(NIGHT.project)


def test_the_service_runs_this_checkouts_night() -> None:
    service = replace(NIGHT, arguments=("--recipe", "/srv/two words.yaml", "--jobs", "2")).format_service()
    assert setting(service, "ExecStart") == [
        ':/srv/virtroot/inv nightly --recipe "/srv/two words.yaml" --jobs 2',
    ]
    assert setting(service, "KillMode") == ["mixed"]
    assert setting(service, "ProtectSystem") == ["strict"]


@pytest.mark.parametrize(
    ("checkout", "command", "writable"),
    [
        ("/srv/two words", '"/srv/two words/inv"', '"/srv/two words"'),
        ("/srv/100%h", '"/srv/100%%h/inv"', '"/srv/100%%h"'),
        ("/srv/$HOME", '"/srv/$HOME/inv"', '"/srv/$HOME"'),
        (
            '/srv/say "hi"',
            '/bin/sh -c "exec \\"$0\\" \\"$@\\"" "/srv/say \\"hi\\"/inv"',
            '"/srv/say "\'"\'"hi"\'"\'""',
        ),
    ],
)
def test_paths_of_any_characters_are_quoted(checkout: str, command: str, writable: str) -> None:
    service = replace(NIGHT, project=Path(checkout), output=Path(checkout, "output")).format_service()
    assert setting(service, "ExecStart") == [f":{command} nightly"]
    assert setting(service, "ReadWritePaths") == [writable]


@pytest.mark.parametrize("name", ["two\nlines", "a\ttab", "\x1b[0m", "right\u202eleft", "\udcff", "back\\slash"])
def test_what_no_unit_can_name_is_refused(name: str) -> None:
    with pytest.raises(VirtrootError, match="a unit file cannot contain"):
        replace(NIGHT, project=Path("/srv", name))


def test_output_elsewhere_and_libvirts_places_are_writable() -> None:
    service = replace(NIGHT, output=Path("/data/out"), writable=("/var/lib/libvirt",)).format_service()
    assert setting(service, "ReadWritePaths") == ["/srv/virtroot -/data/out -/var/lib/libvirt"]


@pytest.mark.parametrize(
    "night",
    [
        replace(NIGHT, project=Path("/tmp/virtroot")),
        replace(NIGHT, output=Path("/var/tmp/out")),
        replace(NIGHT, arguments=("--recipe", "/tmp/web.yaml")),
        replace(NIGHT, environment={"DOCKER_HOST": "unix:///tmp/engine.sock"}),
    ],
)
def test_tmp_is_not_hidden_from_a_night_that_works_there(night: Schedule) -> None:
    assert setting(NIGHT.format_service(), "PrivateTmp") == ["yes"]
    assert setting(night.format_service(), "PrivateTmp") == ["no"]
    assert setting(night.format_service(), "ReadWritePaths")[0].endswith(" -/tmp -/var/tmp")


def test_a_users_systemd_is_asked_for_nothing_that_only_root_may() -> None:
    service = replace(NIGHT, user=True).format_service()
    assert setting(service, "NoNewPrivileges") == ["yes"]
    for name in ("ProtectSystem", "CapabilityBoundingSet", "PrivateTmp", "DevicePolicy"):
        assert setting(NIGHT.format_service(), name)
        assert setting(service, name) == []


def test_the_timer_makes_up_for_missed_nights() -> None:
    unit = replace(NIGHT, on_calendar="Mon..Fri 04:30").format_timer()
    assert setting(unit, "OnCalendar") == ["Mon..Fri 04:30"]
    assert setting(unit, "Persistent") == ["true"]
    assert setting(unit, "RandomizedDelaySec") == ["15min"]


def test_the_environment_that_settings_and_engine_are_read_from_goes_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in timer._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INVOKE_VIRTROOT_CONNECT", "embedded")
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    made = timer.make_schedule(Settings(), "", ["debian"], keep="3", jobs=2, user=False)
    assert made.arguments == ("--recipe", "debian", "--keep", "3", "--jobs", "2")
    environment = setting(made.format_service(), "Environment")
    assert "INVOKE_VIRTROOT_CONNECT=embedded" in environment
    assert "http_proxy=http://proxy.example:3128" in environment
    assert "secret" not in made.format_service()
    assert "https_proxy contains a password" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("*-*-* 03:00:00", "0 3 * * *"),
        ("daily", "0 0 * * *"),
        ("hourly", "0 * * * *"),
        ("weekly", "0 0 * * 1"),
        ("Monthly", "0 0 1 * *"),
        ("4:05", "5 4 * * *"),
        ("Mon..Fri 04:30", "30 4 * * 1-5"),
        ("Fri..Sun *-*-* 04:30", "30 4 * * 5-7"),
        ("sun,Wed 04:30", "30 4 * * 0,3"),
        ("*-12-01 00:30", "30 0 1 12 *"),
    ],
)
def test_times_of_day_can_be_said_in_a_crontab(event: str, fields: str) -> None:
    assert calendar.format_cron(event) == fields


@pytest.mark.parametrize(
    "event", ["", "03:00:30", "*:0/10", "25:00", "Fri..Mon 03:00", "Mon *-*-13 03:00", "Foo 03:00", "*-13-01 03:00"]
)
def test_other_times_cannot(event: str) -> None:
    with pytest.raises(VirtrootError, match="--on-calendar"):
        calendar.format_cron(event)


def test_a_crontabs_command_reaches_the_shell_as_it_was(tmp_path: Path) -> None:
    checkout = tmp_path / "it's 100%s $HOME"
    checkout.mkdir()
    (checkout / "inv").write_text('#!/bin/sh\nprintf "%s|" "$@" "$MINE"\n')
    (checkout / "inv").chmod(0o755)
    night = replace(NIGHT, project=checkout, arguments=("--recipe", "/a b%"), environment={"MINE": "x y%z"})
    line = night.format_crontab("0 3 * * *")
    # As cron takes it apart: five fields, a command up to the first % that has no backslash before it.
    *fields, command = line.split(" ", 5)
    assert fields == ["0", "3", "*", "*", "*"]
    assert command.count("%") == command.count("\\%") == 3
    done = subprocess.run(["/bin/sh", "-c", command.replace("\\%", "%")], capture_output=True, text=True, check=True)
    assert done.stdout == "nightly|--recipe|/a b%|x y%z|"
    assert shlex.split(command)[0] == "env"


@pytest.mark.parametrize("recipe", ["/srv/back\\slash.yaml", f"/srv/{'long/' * 200}"])
def test_what_no_crontab_can_name_is_refused(recipe: str) -> None:
    with pytest.raises(VirtrootError, match="crontab"):
        replace(NIGHT, arguments=("--recipe", recipe)).format_crontab("0 3 * * *")


def test_install_writes_both_units_and_starts_the_timer(systemd: Recorded, night: Schedule) -> None:
    timer.install(night, systemd)
    name = units.make_name(CHECKOUT)
    assert there(systemd) == [f"{name}.service", f"{name}.timer"]
    assert {path.stat().st_mode & 0o777 for path in systemd.directory.iterdir()} == {0o644}
    assert systemd.asked == ["verify", "daemon-reload", f"enable {name}.timer", f"restart {name}.timer"]
    assert night.output.is_dir()
    assert timer.format_units(night, systemd, preview=False).startswith(
        f"# {systemd.directory}/{name}.service\n{units.MARK}"
    )

    timer.install(replace(night, on_calendar="daily"), systemd)
    assert "OnCalendar=daily" in timer.format_units(night, systemd, preview=False)
    assert timer.remove(systemd, CHECKOUT)
    assert there(systemd) == []
    assert f"disable --now {name}.timer" in systemd.asked
    assert not timer.remove(systemd, CHECKOUT)


def test_a_timer_that_does_not_start_leaves_nothing(systemd: Recorded, night: Schedule) -> None:
    with pytest.raises(VirtrootError, match="restart failed"):
        timer.install(night, replace(systemd, refuses="restart"))
    assert there(systemd) == []

    timer.install(night, systemd)
    before = timer.format_units(night, systemd, preview=False)
    with pytest.raises(VirtrootError, match="enable failed"):
        timer.install(replace(night, on_calendar="daily"), replace(systemd, refuses="enable"))
    assert timer.format_units(night, systemd, preview=False) == before


@pytest.mark.parametrize("ending", ["service", "timer"])
@pytest.mark.parametrize("link", [False, True])
def test_units_that_somebody_else_wrote_are_left_alone(
    systemd: Recorded, night: Schedule, ending: str, link: bool
) -> None:
    systemd.directory.mkdir()
    unit = systemd.directory / f"{night.name}.{ending}"
    if link:
        unit.symlink_to("/dev/null")
    else:
        unit.write_text("[Unit]\n")
    for act in (lambda: timer.install(night, systemd), lambda: timer.remove(systemd, CHECKOUT)):
        with pytest.raises(VirtrootError, match="virtroot"):
            act()
    assert there(systemd) == [unit.name]
    assert systemd.asked == []


def test_a_full_disk_leaves_the_units_as_they_were(
    systemd: Recorded, night: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer.install(night, systemd)
    before = timer.format_units(night, systemd, preview=False)

    def full(path: Path, *_: object, **__: object) -> int:
        if path.name.endswith(".timer.partial"):
            raise OSError(28, "No space left on device", str(path))
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        patched.setattr(Path, "chmod", lambda *_: None)
        with pytest.raises(OSError, match="No space left"):
            timer.install(replace(night, on_calendar="daily"), systemd)
    assert timer.format_units(night, systemd, preview=False) == before
    assert len(there(systemd)) == 2


def test_without_root_only_a_users_units_are_written(
    systemd: Recorded, night: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(VirtrootError, match="only root can write"):
        timer.install(night, systemd)
    assert there(systemd) == []
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(VirtrootError, match="cannot reach"):
        timer.install(replace(night, user=True), replace(systemd, user=True))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    timer.install(replace(night, user=True), replace(systemd, user=True))
    assert len(there(systemd)) == 2


@pytest.mark.parametrize(
    ("said", "next_run"),
    [
        (
            "ActiveState=active\nSubState=waiting\nNextElapseUSecRealtime=Tue 2026-11-24 03:04:05 UTC",
            "Tue 2026-11-24 03:04:05 UTC",
        ),
        ("ActiveState=active\nSubState=running\nNextElapseUSecRealtime=", "now"),
        ("ActiveState=active\nSubState=elapsed\nNextElapseUSecRealtime=n/a", None),
        ("ActiveState=inactive\nSubState=dead\nNextElapseUSecRealtime=", None),
        ("", None),
    ],
)
def test_when_the_next_night_begins(
    systemd: Recorded, night: Schedule, monkeypatch: pytest.MonkeyPatch, said: str, next_run: str | None
) -> None:
    monkeypatch.setattr(timer, "get_systemd", lambda *, user: replace(systemd, user=user))
    assert timer.find_next_run(CHECKOUT) is None
    timer.install(night, systemd)
    monkeypatch.setattr(Recorded, "ctl", lambda *_, **__: said)
    assert timer.find_next_run(CHECKOUT) == next_run

"""systemd's own word on the units, and what ./inv nightly-timer says to its user."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.host.trees import archive
from pipelines.libvirt.connect import connect
from pipelines.night import calendar, timer, units
from pipelines.night.units import Schedule
from pipelines.pool import mount_units
from pipelines.target import durable
from pipelines.target.target import Local, Target
from tasks import program
from tests.conftest import Virtroot
from tests.support.refusals import refused

#: The exposure that systemd-analyze may find, of 100: a service without any confinement has 96.
THRESHOLD = 45

VERIFY = """
export XDG_RUNTIME_DIR="$2"
mkdir -p "$1" "$2"; tar --extract --directory "$2"
printf '#!/bin/sh\\n' > "$1/inv"; chmod 755 "$1/inv"
systemd-analyze --man=no --recursive-errors=no $4 verify "$2/$3.service" "$2/$3.timer"
[ -n "$4" ] || systemd-analyze --no-pager --offline=yes --threshold="$5" security "$2/$3.service" > "$2/said" || {
    cat "$2/said" >&2; exit 1
}
"""


@pytest.fixture(scope="module")
def places(inv: Virtroot) -> list[Target]:
    """Where systemd-analyze is: in the embedded hypervisor and, on most machines, here."""
    return [connect(inv.settings).target, *([Local()] if shutil.which("systemd-analyze") else [])]


def verified(target: Target, night: Schedule, scratch: str) -> str:
    """Return what systemd has against the units of ``night``, whose checkout is made with a stand-in for ./inv."""
    units = {
        f"{night.name}.service": night.format_service().encode(),
        f"{night.name}.timer": night.format_timer().encode(),
    }
    argv = ["verify", str(night.project), scratch, night.name, "--user" if night.user else "", str(THRESHOLD)]
    try:
        done = target.run(["sh", "-ec", VERIFY, *argv], stdin=archive(units), check=False)
    finally:
        target.run(["rm", "-rf", scratch])
    # A setting that systemd does not know is a complaint, and no failure.
    return done.complaint or ("" if done.returncode == 0 else f"exit status {done.returncode}")


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(
    "name", ["plain", "two words", "100%n", "$HOME;#", 'say "hi"', "it's", "both \"'", "a=b", "ünïcode"]
)
def test_systemd_takes_the_units_of_any_checkout(places: list[Target], tmp_path: Path, name: str, user: bool) -> None:
    checkout = tmp_path / name
    # Beneath /tmp, which a service would not have to itself.
    night = Schedule(
        checkout,
        Path("/srv/out put"),
        units.ON_CALENDAR,
        ("--recipe", "/srv/back\\slash.yaml"),
        {"A": 'x "y" %h \\'},
        user=user,
    )
    for target in places:
        assert verified(target, night, str(tmp_path / "units")) == ""
        target.run(["rm", "-rf", str(tmp_path / name)])


def test_a_service_that_is_less_confined_would_be_noticed(places: list[Target], tmp_path: Path) -> None:
    night = Schedule(Path("/opt/virtroot"), Path("/opt/virtroot/output"), units.ON_CALENDAR)
    assert "PrivateTmp=yes" in night.format_service()
    open_to_all = night.format_service().partition("ProtectSystem=")[0]
    (target, *_) = places
    assert verified(target, night, str(tmp_path / "units")) == ""

    class Less(Schedule):
        def format_service(self) -> str:
            return open_to_all

    less = Less(night.project, night.output, night.on_calendar)
    assert "ProtectSystem=" in verified(target, less, str(tmp_path / "units"))
    target.run(["rm", "-rf", "/opt/virtroot"])


@pytest.fixture
def analyze(inv: Virtroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure of a systemd-analyze: this machine's or, where it has none, the embedded hypervisor's."""
    if shutil.which("systemd-analyze") is None:
        connect(inv.settings)
        placeholder = tmp_path / "systemd-analyze"
        placeholder.write_text(f'#!/bin/sh\nexec docker exec {inv.embedded} systemd-analyze "$@"\n')
        placeholder.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.usefixtures("analyze")
def test_systemd_says_what_a_time_is() -> None:
    for event in (units.ON_CALENDAR, "daily", "Mon..Fri 04:30", "*:0/10", "*-*-* 03:00 Europe/Berlin"):
        assert calendar.check_event(event) == event
    for event in ("", "nonsense", "-h", "--version", "25:00", "*-*-* 03:00 Mars/Base"):
        with pytest.raises(VirtrootError, match="invalid calendar event"):
            calendar.check_event(event)
    with pytest.raises(VirtrootError, match="the event never recurs"):
        calendar.check_event("2020-01-01 03:00")


def test_without_systemd_the_line_for_a_crontab_is_printed(
    inv: Virtroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Also on a machine that systemd runs.
    monkeypatch.setattr(timer.Systemd, "is_running", False)
    monkeypatch.setattr(timer, "get_systemd", lambda *, user: timer.Systemd(tmp_path, user=user))
    for name, value in inv.environment.items():
        monkeypatch.setenv(name, value)
    schedule = ["--recipe", "debian", "--on-calendar", "Mon..Fri 04:30"]
    program.run(["inv", "nightly-timer", "--show", *schedule])
    shown = capsys.readouterr().out
    assert shown.startswith("30 4 * * 1-5 env PATH=")
    assert shown.rstrip("\n").endswith("/inv nightly --recipe debian")
    assert f"INVOKE_VIRTROOT_OUTPUT={inv.output}" in shown
    with pytest.raises(VirtrootError) as refused:
        program.run(["inv", "nightly-timer", "--install", *schedule])
    assert capsys.readouterr().out == shown
    assert refused.value.what == "systemd is not running"
    assert refused.value.hint == "add the line above with crontab -e, as the user who builds"
    assert list(tmp_path.iterdir()) == []
    program.run(["inv", "nightly-timer", "--remove"])
    assert "has no timer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "no action or several actions"),
        ("--install --remove", "no action or several actions"),
        ("--remove --jobs 2", "--remove takes no options"),
        ("--show --jobs 0", "--jobs: less than 1: '0'"),
        ("--show --keep none", "setting virtroot.keep"),
        ("--show --recipe nowhere.yaml", "no recipe"),
        ("--show --on-calendar nonsense", "--on-calendar 'nonsense'"),
    ],
)
def test_what_is_no_schedule_is_refused(inv: Virtroot, line: str, what: str) -> None:
    assert what in refused(inv, "nightly-timer", *line.split())


@pytest.mark.parametrize("pool", ["/var/lib/libvirt/filesystems", "/srv/100%n", "/srv/two words"])
def test_systemd_takes_the_unit_that_mounts_layers(places: list[Target], tmp_path: Path, pool: str) -> None:
    """systemctl is replaced, since systemd does not run here, by a function that prints its arguments."""
    root, golden = f"{pool}/root.web", f"{pool}/golden.web.0"
    naming = mount_units._NAME_UNIT.replace("[ ! -d /run/systemd/system ] || ", "")
    enabling = f'systemctl() {{ echo "$*"; }}; {mount_units._ENABLE}'
    verifying = 'cd "$1"; ls -A; SYSTEMD_UNIT_PATH="$1" systemd-analyze --man=no --recursive-errors=no verify "./$2"'
    for place in places:
        scratch = f"/tmp/units-{tmp_path.name}"
        unit = place.run(["sh", "-ec", naming, "name", root]).text.strip()
        place.run(["mkdir", "-p", scratch])
        durable.put(place, f"{scratch}/{unit}", mount_units.render_unit(root, golden).encode(), 0o644)
        assert place.run(["sh", "-ec", enabling, "enable", unit]).text.split("\n") == [
            "daemon-reload",
            f"--quiet enable {unit}",
        ]
        done = place.run(["sh", "-ec", verifying, "verify", scratch, unit])
        assert (done.text, done.stderr) == (unit, b"")
        place.run(["rm", "-r", scratch])

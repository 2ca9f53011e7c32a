"""The schedule: systemd's timer that runs ``./inv nightly`` of this checkout, or the line for a crontab."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import environment, process
from pipelines.log import say, warn
from pipelines.night import calendar, units
from pipelines.night.units import MARK, Schedule
from pipelines.settings import CHECKOUT, Settings
from pipelines.target import durable
from pipelines.text import split_lines

#: Seconds that systemd may take to answer.
_TIMEOUT = 60

#: What virtroot and docker's client read of the environment, which systemd and cron start a night without.
_PASSED_ON = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", *environment.NAMES)


@dataclass(frozen=True)
class Systemd:
    """One systemd: the machine's or, with ``user``, the caller's own; unit files are in ``directory``."""

    directory: Path
    user: bool = False

    @property
    def runs(self) -> bool:
        """Say whether systemd is what runs this machine."""
        return Path("/run/systemd/system").is_dir()

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl, and return what it printed."""
        argv = ["systemctl", *(["--user"] if self.user else []), *arguments]
        return process.run(argv, env={"LC_ALL": "C"}, check=check, timeout=_TIMEOUT).text

    def verify(self, files: Mapping[str, str]) -> None:
        """Raise `VirtrootError` where systemd does not take unit files: name to content."""
        with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
            paths = []
            for name, content in files.items():
                paths.append(Path(scratch) / name)
                paths[-1].write_text(content, encoding="utf-8")
            # Units that others wrote are none of our business.
            argv = [
                "systemd-analyze",
                *(["--user"] if self.user else []),
                "--recursive-errors=no",
                "--man=no",
                "verify",
            ]
            done = process.run([*argv, *map(str, paths)], env={"LC_ALL": "C"}, check=False, timeout=_TIMEOUT)
        if done.returncode:
            raise VirtrootError(
                "this systemd does not take the units", "report it with the lines above", done.complaint
            )


def systemd(*, user: bool) -> Systemd:
    """Return the machine's systemd or, with ``user``, the caller's own."""
    if not user:
        return Systemd(Path("/etc/systemd/system"))
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Systemd(Path(home) / "systemd" / "user", user=True)


def schedule(
    settings: Settings,
    on_calendar: str,
    recipes: Sequence[str],
    *,
    keep: str,
    jobs: int,
    user: bool,
    accept: bool = False,
    writable: Sequence[str] = (),
) -> Schedule:
    """Return the schedule that options of the command line ask for; ``recipes`` are names or absolute files.

    ``writable`` is what a night writes to beside output and pool.
    """
    arguments = [word for recipe in recipes for word in ("--recipe", recipe)]
    arguments += ["--keep", keep] if keep else []
    arguments += ["--jobs", str(jobs)] if jobs != 1 else []
    arguments += ["--accept"] if accept else []
    pool = [] if any(Path(settings.pool_path).is_relative_to(path) for path in writable) else [settings.pool_path]
    return Schedule(
        checkout=CHECKOUT,
        output=settings.output_dir.resolve(),
        on_calendar=on_calendar or units.ON_CALENDAR,
        arguments=tuple(arguments),
        environment=_passed_on(),
        writable=(*writable, *pool),
        user=user,
    )


def _passed_on() -> dict[str, str]:
    chosen = {
        name: value
        for name, value in os.environ.items()
        if value and (name in _PASSED_ON or name.startswith("INVOKE_VIRTROOT_"))
    }
    # Every user of the machine can read a unit, and ask systemd for a service's environment.
    for variable in units.exposed(f"{name}={value}" for name, value in chosen.items()):
        name = variable.partition("=")[0]
        del chosen[name]
        warn(f"{name} has a password in it, and is left out: give it to the night by EnvironmentFile= in a drop-in")
    return chosen


def install(wanted: Schedule, where: Systemd) -> None:
    """Write the units and start the timer: both units and the timer, or nothing.

    Raises `VirtrootError` before anything is written for a time that is none, for units of the same name that somebody
    else wrote, and where no systemd runs.
    """
    if not where.runs:
        raise VirtrootError("no systemd runs here", "add the line above by crontab -e, as the user who builds")
    calendar.checked(wanted.on_calendar)
    if not where.user and os.geteuid() != 0:
        raise VirtrootError("the machine's units are root's to write", "run it as root, or give --user")
    if where.user and not os.environ.get("XDG_RUNTIME_DIR"):
        raise VirtrootError("your own systemd is out of reach: XDG_RUNTIME_DIR is not set", "log in, not by su or sudo")
    files = {f"{wanted.name}.service": wanted.service(), f"{wanted.name}.timer": wanted.timer()}
    before = {name: _ours(where.directory / name) for name in files}
    where.verify(files)
    # The night itself could not make it: beside it nothing is writable.
    wanted.output.mkdir(parents=True, exist_ok=True)
    _put(where.directory, files)
    timer = f"{wanted.name}.timer"
    try:
        where.ctl("daemon-reload")
        where.ctl("enable", timer)
        # A timer that runs already goes by what it read when it was started.
        where.ctl("restart", timer)
    except BaseException:
        # As it was before, as far as systemd lets it be.
        if not any(before.values()):
            where.ctl("disable", "--now", timer, check=False)
        _put(where.directory, before)
        where.ctl("daemon-reload", check=False)
        raise
    _say_what_is_missing(where)


def remove(where: Systemd) -> bool:
    """Stop the timer and delete the units, where this checkout has them; a night at work comes to its end.

    Raises `VirtrootError` for units of their name that virtroot did not write.
    """
    name = units.name(CHECKOUT)
    paths = [where.directory / f"{name}{ending}" for ending in (".timer", ".service")]
    if not [path for path in paths if _ours(path) is not None]:
        return False
    if where.runs:
        where.ctl("disable", "--now", f"{name}.timer", check=False)
        # When it ran last, by which one that is installed later would have a night to make up for.
        where.ctl("clean", "--what=state", f"{name}.timer", check=False)
    for path in paths:
        path.unlink(missing_ok=True)
    if where.runs:
        where.ctl("daemon-reload")
    return True


def show(wanted: Schedule, where: Systemd, *, preview: bool) -> str:
    """Return the units of this checkout and when they run next or, with ``preview``, the units that are ``wanted``.

    Raises `VirtrootError` for a wanted time that is none.
    """
    paths = [where.directory / f"{wanted.name}{ending}" for ending in (".service", ".timer")]
    there = {str(path): path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()}
    if preview:
        calendar.checked(wanted.on_calendar)
    if preview or not there:
        say("this is what --install writes" if preview else "no timer of this checkout; this is what --install writes")
        there = dict(zip(map(str, paths), (wanted.service(), wanted.timer()), strict=True))
        return _as_text(there)
    return f"{_as_text(there)}\n# next nightly run: {next_run() or 'none, the timer is not active'}"


def crontab(wanted: Schedule) -> str:
    """Return the line for a crontab, for a machine without systemd."""
    return wanted.crontab(calendar.as_cron(wanted.on_calendar))


def _as_text(files: Mapping[str, str]) -> str:
    return "\n".join(f"# {name}\n{content}" for name, content in files.items())


def next_run() -> str | None:
    """Return when the timer of this checkout, the machine's or the caller's, runs next, in systemd's words.

    None where there is no such timer, or no systemd; ``now`` while a night is at work.
    """
    name = f"{units.name(CHECKOUT)}.timer"
    for where in (systemd(user=False), systemd(user=True)):
        if not (where.runs and (where.directory / name).is_file()):
            continue
        properties = "--property=ActiveState,SubState,NextElapseUSecRealtime"
        try:
            answer = where.ctl("show", properties, name, check=False)
        except VirtrootError:
            continue
        said = dict(line.partition("=")[::2] for line in split_lines(answer))
        if said.get("ActiveState") != "active":
            continue
        if said.get("SubState") == "running":
            return "now"
        # Without one, a timer has elapsed for good.
        if said.get("NextElapseUSecRealtime", "n/a") not in {"", "n/a"}:
            return said["NextElapseUSecRealtime"]
    return None


def _ours(path: Path) -> str | None:
    """Return the content of a unit that virtroot wrote, None where there is none; raises `VirtrootError` for others."""
    if path.is_symlink():
        raise VirtrootError(f"{path} is a link, which virtroot did not make", "a masked unit? systemctl unmask it")
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    if not content.startswith(MARK):
        raise VirtrootError(f"{path} is not virtroot's: its first line does not say so", "move it elsewhere first")
    return content


def _put(directory: Path, files: Mapping[str, str | None]) -> None:
    """Give a directory all of ``files``, name to content, or leave it as it was; None deletes one."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = {name: directory / f".{name}.partial" for name, content in files.items() if content is not None}
    try:
        for name, path in partial.items():
            path.write_text(files[name] or "", encoding="utf-8")
            # Whatever the umask: systemd warns of units that it cannot show.
            path.chmod(0o644)
        for name, path in partial.items():
            durable.publish(path, directory / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    for name in files.keys() - partial.keys():
        (directory / name).unlink(missing_ok=True)


def _say_what_is_missing(where: Systemd) -> None:
    if where.user and not Path("/var/lib/systemd/linger", str(os.getuid())).exists():
        say("while you are not logged in, your timers run only after: loginctl enable-linger")
    owner = CHECKOUT.stat().st_uid
    if not where.user and owner != 0:
        warn(f"{CHECKOUT} belongs to user {owner}, whose files root runs at night from now on")

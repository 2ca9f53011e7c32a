"""The schedule: systemd's timer that runs ``./inv nightly`` of a project, or a line for a crontab."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines import invocation
from pipelines.errors import VirtrootError
from pipelines.host import environment, process
from pipelines.log import say, warn
from pipelines.night import calendar, units
from pipelines.night.units import MARK, Schedule
from pipelines.project import PROGRAM
from pipelines.settings import Settings
from pipelines.target import durable
from pipelines.text import split_lines

#: Seconds that systemd may take to answer.
_TIMEOUT = 60

#: Environment variables that virtroot and docker's client read, and that systemd and cron do not pass on by themselves.
_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", *environment.NAMES)


@dataclass(frozen=True)
class Systemd:
    """A systemd instance: the system's or, with ``user``, the caller's own; unit files are in ``directory``."""

    directory: Path
    user: bool = False

    @property
    def is_running(self) -> bool:
        """Whether systemd is running on this machine."""
        return Path("/run/systemd/system").is_dir()

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl, and return its output."""
        argv = ["systemctl", *(["--user"] if self.user else []), *arguments]
        return process.run(argv, env={"LC_ALL": "C"}, check=check, timeout=_TIMEOUT).text

    def verify(self, files: Mapping[str, str]) -> None:
        """Raise `VirtrootError` if systemd does not accept the unit files, given as name to content."""
        with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
            paths = []
            for name, content in files.items():
                paths.append(Path(scratch) / name)
                paths[-1].write_text(content, encoding="utf-8")
            # Errors in units that virtroot did not write are ignored.
            argv = [
                "systemd-analyze",
                *(["--user"] if self.user else []),
                "--recursive-errors=no",
                "--man=no",
                "verify",
            ]
            done = process.run([*argv, *map(str, paths)], env={"LC_ALL": "C"}, check=False, timeout=_TIMEOUT)
        if done.returncode:
            raise VirtrootError("systemd does not accept the units", "report this with the lines above", done.complaint)


def get_systemd(*, user: bool) -> Systemd:
    """Return the system's systemd or, with ``user``, the caller's own."""
    if not user:
        return Systemd(Path("/etc/systemd/system"))
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Systemd(Path(home) / "systemd" / "user", user=True)


def make_schedule(
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
    """Return the schedule for the options of the command line; ``recipes`` are names or absolute files.

    ``writable`` are the paths that a nightly run writes to in addition to output and pool.
    """
    arguments = [word for recipe in recipes for word in ("--recipe", recipe)]
    arguments += ["--keep", keep] if keep else []
    arguments += ["--jobs", str(jobs)] if jobs != 1 else []
    arguments += ["--accept"] if accept else []
    pool = [] if any(Path(settings.pool_path).is_relative_to(path) for path in writable) else [settings.pool_path]
    return Schedule(
        project=Path(settings.project),
        program=tuple(invocation.make_command(settings.project)),
        output=settings.output_dir.resolve(),
        on_calendar=on_calendar or units.ON_CALENDAR,
        arguments=tuple(arguments),
        environment=_collect_variables(),
        writable=(*writable, *pool),
        user=user,
    )


def _collect_variables() -> dict[str, str]:
    chosen = {
        name: value
        for name, value in os.environ.items()
        if value and (name in _VARIABLES or name.startswith("INVOKE_VIRTROOT_"))
    }
    # Every user of the machine can read a unit, and can query a service's environment.
    for variable in units.find_passwords(f"{name}={value}" for name, value in chosen.items()):
        name = variable.partition("=")[0]
        del chosen[name]
        warn(f"{name} contains a password and is left out: set it by EnvironmentFile= in a drop-in of the service")
    return chosen


def install(wanted: Schedule, where: Systemd) -> None:
    """Write the units and start the timer; on an error, leave everything as it was.

    Raises `VirtrootError` before anything is written for an invalid time, for units of the same name that virtroot did
    not write, and if systemd is not running.
    """
    if not where.is_running:
        raise VirtrootError("systemd is not running", "add the line above with crontab -e, as the user who builds")
    calendar.check_event(wanted.on_calendar)
    if not where.user and os.geteuid() != 0:
        raise VirtrootError("only root can write the system's units", "run this as root, or use --user")
    if where.user and not os.environ.get("XDG_RUNTIME_DIR"):
        raise VirtrootError("cannot reach your own systemd: XDG_RUNTIME_DIR is not set", "log in without su or sudo")
    files = {f"{wanted.name}.service": wanted.format_service(), f"{wanted.name}.timer": wanted.format_timer()}
    before = {name: _read_own_unit(where.directory / name) for name in files}
    where.verify(files)
    # The nightly run could not make it: it can write to the directory itself, but not to its parent.
    wanted.output.mkdir(parents=True, exist_ok=True)
    _replace_files(where.directory, files)
    timer = f"{wanted.name}.timer"
    try:
        where.ctl("daemon-reload")
        where.ctl("enable", timer)
        # A running timer keeps the settings that it was started with.
        where.ctl("restart", timer)
    except BaseException:
        # Restore the earlier state as far as systemd allows.
        if not any(before.values()):
            where.ctl("disable", "--now", timer, check=False)
        _replace_files(where.directory, before)
        where.ctl("daemon-reload", check=False)
        raise
    _report_missing(wanted, where)


def remove(where: Systemd, project: Path) -> bool:
    """Stop the timer and delete the units, if this project has them; a nightly run at work continues to its end.

    Raises `VirtrootError` for units of the same name that virtroot did not write.
    """
    name = units.make_name(project)
    paths = [where.directory / f"{name}{ending}" for ending in (".timer", ".service")]
    if not [path for path in paths if _read_own_unit(path) is not None]:
        return False
    if where.is_running:
        where.ctl("disable", "--now", f"{name}.timer", check=False)
        # Deletes the time of the last run: a timer that is installed later would start a missed run at once.
        where.ctl("clean", "--what=state", f"{name}.timer", check=False)
    for path in paths:
        path.unlink(missing_ok=True)
    if where.is_running:
        where.ctl("daemon-reload")
    return True


def format_units(wanted: Schedule, where: Systemd, *, preview: bool) -> str:
    """Return the units of this project and the time of the next run or, with ``preview``, the units ``wanted``.

    Raises `VirtrootError` for an invalid time.
    """
    paths = [where.directory / f"{wanted.name}{ending}" for ending in (".service", ".timer")]
    there = {str(path): path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()}
    if preview:
        calendar.check_event(wanted.on_calendar)
    if preview or not there:
        say("these are the units for --install" if preview else "no timer of this project; these are its units")
        there = dict(zip(map(str, paths), (wanted.format_service(), wanted.format_timer()), strict=True))
        return _format_files(there)
    following = find_next_run(wanted.project) or "none, the timer is not active"
    return f"{_format_files(there)}\n# next nightly run: {following}"


def format_crontab(wanted: Schedule) -> str:
    """Return the line for a crontab, for a machine without systemd."""
    return wanted.format_crontab(calendar.format_cron(wanted.on_calendar))


def _format_files(files: Mapping[str, str]) -> str:
    return "\n".join(f"# {name}\n{content}" for name, content in files.items())


def find_next_run(project: Path) -> str | None:
    """Return when the timer of this project, the system's or the caller's, runs next, in systemd's words.

    Returns None if there is no such timer, or no systemd, and ``now`` while a nightly run is at work.
    """
    name = f"{units.make_name(project)}.timer"
    for where in (get_systemd(user=False), get_systemd(user=True)):
        if not (where.is_running and (where.directory / name).is_file()):
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
        # A timer without a next time has elapsed for good.
        if said.get("NextElapseUSecRealtime", "n/a") not in {"", "n/a"}:
            return said["NextElapseUSecRealtime"]
    return None


def _read_own_unit(path: Path) -> str | None:
    """Return the content of a unit that virtroot wrote, None if it is missing; raises `VirtrootError` for others."""
    if path.is_symlink():
        raise VirtrootError(f"{path}: a link, not a unit of virtroot", "if the unit is masked, run systemctl unmask")
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    if not content.startswith(MARK):
        raise VirtrootError(f"{path}: not written by virtroot, by its first line", "move it elsewhere first")
    return content


def _replace_files(directory: Path, files: Mapping[str, str | None]) -> None:
    """Write all of ``files``, name to content, to a directory, or leave it as it was; None deletes a file."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = {name: directory / f".{name}.partial" for name, content in files.items() if content is not None}
    try:
        for name, path in partial.items():
            path.write_text(files[name] or "", encoding="utf-8")
            # Independent of the umask: systemd warns about units that other users cannot read.
            path.chmod(0o644)
        for name, path in partial.items():
            durable.publish(path, directory / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    for name in files.keys() - partial.keys():
        (directory / name).unlink(missing_ok=True)


def _report_missing(wanted: Schedule, where: Systemd) -> None:
    if where.user and not Path("/var/lib/systemd/linger", str(os.getuid())).exists():
        say("your timers run only while you are logged in, unless you run: loginctl enable-linger")
    for directory in dict.fromkeys((PROGRAM, wanted.project)):
        owner = directory.stat().st_uid
        if not where.user and owner != 0:
            warn(f"root will use the files of {directory}, which belongs to user {owner}")

"""The text of the systemd units for nightly runs, and of the line for a crontab."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.text import plain, without_logins

#: When nightly runs start by default.
ON_CALENDAR = "*-*-* 03:00:00"

#: The beginning of every unit file that virtroot writes; files without it are not touched.
MARK = "# Written by ./inv nightly-timer"

#: Where a service with PrivateTmp= sees an empty directory.
_PRIVATE = ("/tmp", "/var/tmp")  # noqa: S108 - named, not used

#: systemd refuses a program whose path has one of these; its arguments may have them.
_NO_PROGRAM = frozenset("\"'")

#: Bytes of a command that Vixie's cron and its descendants read.
_CRON_LONGEST = 998

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@:,./+=-]+")

# This protects against mistakes only: a process with access to Docker's or libvirt's socket could undo it.
_CONFINED = """\
# Read-only, except for the project, the output and, with the host's own libvirt, what install writes to.
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
PrivateTmp={private}
PrivateMounts=yes
# For the locks of guests, which other tasks use, too.
RuntimeDirectory=virtroot
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
# For the downloads of pip and uv after a change of requirements.lock.
CacheDirectory=virtroot
Environment=XDG_CACHE_HOME=%C/virtroot
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# No PrivateDevices=, since tar makes the devices of a root; they can be made, but only harmless ones can be used.
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=char-* m
DeviceAllow=block-* m
# Unpacking a root sets owners, modes and file capabilities. mmdebstrap and bubblewrap mount; bubblewrap drops them all.
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT
# Needed by bubblewrap, which checks roots that guests have written to.
RestrictNamespaces=ipc mnt net pid uts
"""

_SERVICE = """\
{mark} of {project}; ./inv nightly-timer --remove deletes it.
# Make changes in a drop-in: systemctl{user} edit {name}.service
[Unit]
Description=Golden roots of {project}, built and verified
After=network-online.target docker.service libvirtd.service virtqemud.service time-sync.target
{wants}
[Service]
Type=oneshot
ExecStart=:{command}
{environment}StandardOutput=journal
StandardError=journal
SyslogIdentifier=virtroot-nightly
# A run that hangs must not prevent the next one.
TimeoutStartSec=20h
# Only ./inv gets the signal: it removes its builders and guests itself, which takes a moment.
KillMode=mixed
TimeoutStopSec=5min
SuccessExitStatus=130
Nice=10
CPUWeight=20
IOWeight=20
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallErrorNumber=EPERM
{confined}"""

_TIMER = """\
{mark} of {project}; ./inv nightly-timer --remove deletes it.
[Unit]
Description=Nightly runs of {project}

[Timer]
OnCalendar={on_calendar}
# A run that was missed because the machine was off is started later.
Persistent=true
# Machines that share a mirror do not all query it at once, and each keeps its own time.
RandomizedDelaySec=15min
FixedRandomDelay=true

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True)
class Schedule:
    """When and how nightly runs of ``project`` start: ``arguments`` follow ``nightly``.

    ``environment`` are variables for the command, ``output`` is where builds go, ``writable`` are other paths that the
    command writes to. ``user`` says that the user's systemd runs it, which has fewer ways to confine it.
    ``program`` is the command in front of ``nightly``; by default the ``inv`` of the project, a checkout.

    Raises `VirtrootError` for text that a unit file or terminal cannot contain.
    """

    project: Path
    output: Path
    on_calendar: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    writable: tuple[str, ...] = ()
    user: bool = False
    program: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (
            *map(str, (self.project, self.output)),
            self.on_calendar,
            *self.program,
            *self.arguments,
            *self.writable,
            *self._variables,
        ):
            if plain(text) != text or "\n" in text or "\t" in text:
                raise VirtrootError(
                    f"{text!r}: has characters that a unit file cannot contain",
                    "use ordinary characters in the names of the project, its output and its recipes",
                )
        # systemd-analyze accepts a backslash in ReadWritePaths=, but systemd 257 then uses a different path.
        for path in (str(self.project), str(self.output), *self.writable):
            if "\\" in path:
                raise VirtrootError(f"{path}: has a backslash, which a unit file cannot contain", "use another name")

    @property
    def name(self) -> str:
        """The units' name without its suffix; each project of a machine has its own."""
        return make_name(self.project)

    @property
    def _command(self) -> list[str]:
        return [*(self.program or (str(self.project / "inv"),)), "nightly", *self.arguments]

    @property
    def _variables(self) -> list[str]:
        return [f"{key}={value}" for key, value in sorted((self.environment or {}).items())]

    def format_service(self) -> str:
        """Return the service unit."""
        command = self._command
        if _NO_PROGRAM & set(command[0]):
            # Not env, which would take a path that contains = for a variable.
            command = ["/bin/sh", "-c", 'exec "$0" "$@"', *command]
        outside = [] if self.output.is_relative_to(self.project) else [str(self.output)]
        engine = (self.environment or {}).get("DOCKER_HOST", "").removeprefix("unix://")
        used = [Path(path) for path in (str(self.project), *outside, *self.writable, *command, engine)]
        shared = any(path.is_relative_to(private) for path in used for private in _PRIVATE)
        writable = [
            str(self.project),
            *(f"-{path}" for path in (*outside, *self.writable, *(_PRIVATE if shared else ()))),
        ]
        confined = _CONFINED.format(
            writable=" ".join(_quote_path(path) for path in writable), private="no" if shared else "yes"
        )
        return _SERVICE.format(
            mark=MARK,
            name=self.name,
            project=_escape_specifiers(str(self.project)),
            user=" --user" if self.user else "",
            # A user's systemd does not have this target.
            wants="" if self.user else "Wants=network-online.target\n",
            command=" ".join(_quote_word(word) for word in command),
            environment="".join(f"Environment={_quote_word(variable)}\n" for variable in self._variables),
            confined="" if self.user else confined,
        )

    def format_timer(self) -> str:
        """Return the timer unit."""
        project = _escape_specifiers(str(self.project))
        return _TIMER.format(mark=MARK, project=project, on_calendar=_escape_specifiers(self.on_calendar))

    def format_crontab(self, fields: str) -> str:
        """Return the line for a crontab; the five ``fields`` say when.

        Raises `VirtrootError` if it contains a backslash, as in a recipe's name, which some versions of cron change,
        and if it is too long.
        """
        words = [*self._variables, "nice", "-n", "10", *self._command]
        # The PATH of cron does not include sbin, where chroot is.
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        line = f"env {path} {shlex.join(words)}"
        if "\\" in line:
            raise VirtrootError(
                "a crontab cannot contain a backslash", "use other names for the project and its recipes"
            )
        # For cron, a % ends the command and begins its input.
        line = line.replace("%", "\\%")
        if len(line.encode()) > _CRON_LONGEST:
            raise VirtrootError(
                f"command too long for a crontab: {len(line)} characters",
                "put settings into virtroot.yaml or invoke.yaml instead",
            )
        return f"{fields} {line}"


def make_name(project: Path) -> str:
    """Return the name, without suffix, of the units of ``project``; it is unique to the project."""
    return f"virtroot-nightly-{hashlib.sha256(bytes(project)).hexdigest()[:8]}"


def find_passwords(environment: Iterable[str]) -> list[str]:
    """Return the entries of ``environment``, as ``NAME=VALUE``, that contain a password, like a URL with a login."""
    return [variable for variable in environment if without_logins(variable) != variable]


def _escape_specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _quote_word(text: str) -> str:
    """Quote for ExecStart= and Environment=, where a backslash begins an escape; see systemd.syntax(7)."""
    if _PLAIN_WORD.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escape_specifiers(quoted)}"'


def _quote_path(text: str) -> str:
    """Quote for ReadWritePaths=, where a quote has to be inside quotes of the other kind."""
    if _PLAIN_WORD.fullmatch(text):
        return text
    prefix, path = ("-", text[1:]) if text.startswith("-") else ("", text)
    quoted = path.replace('"', '"\'"\'"')
    return f'{prefix}"{_escape_specifiers(quoted)}"'

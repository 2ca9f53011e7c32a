"""The text of a night's systemd units and of its line in a crontab."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.text import plain, without_logins

#: When nights run unless somebody says otherwise.
ON_CALENDAR = "*-*-* 03:00:00"

#: What a unit file of ours begins with: any other file is somebody else's.
MARK = "# Written by ./inv nightly-timer"

#: Where systemd's PrivateTmp= shows a service an empty directory.
_PRIVATE = ("/tmp", "/var/tmp")  # noqa: S108 - named, not used

#: systemd refuses a program whose path has one of these; its arguments may.
_NO_PROGRAM = frozenset("\"'")

#: Bytes of a command that Vixie's cron, and those made from it, read.
_CRON_LONGEST = 998

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@:,./+=-]+")

# Who reaches Docker's socket or libvirt's could undo any of this: it is there against mistakes.
_CONFINED = """\
# Read-only but for the checkout, where builds go and, with the host's own libvirt, what install writes beside it.
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
PrivateTmp={private}
PrivateMounts=yes
# Locks of guests, which other tasks hold too.
RuntimeDirectory=virtroot
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
# Where pip and uv may keep what they download, when requirements.lock has changed.
CacheDirectory=virtroot
Environment=XDG_CACHE_HOME=%C/virtroot
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# tar makes the devices of a root, so PrivateDevices= is too much: they may be made, and only harmless ones be used.
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=char-* m
DeviceAllow=block-* m
# Unpacking a root sets owners, modes and file capabilities; mmdebstrap and bubblewrap mount, and the latter drops all.
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT
# Those of bubblewrap, which checks roots that guests have written to.
RestrictNamespaces=ipc mnt net pid uts
"""

_SERVICE = """\
{mark} of {checkout}, whose ./inv nightly-timer --remove deletes it.
# What is to differ goes into a drop-in: systemctl{user} edit {name}.service
[Unit]
Description=Golden roots of {checkout}, built and verified
After=network-online.target docker.service libvirtd.service virtqemud.service time-sync.target
{wants}
[Service]
Type=oneshot
ExecStart=:{command}
{environment}StandardOutput=journal
StandardError=journal
SyslogIdentifier=virtroot-nightly
# A night that hangs must not stand in the way of the next.
TimeoutStartSec=20h
# ./inv alone is told to end: it removes its builders and guests itself, which takes a moment.
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
{mark} of {checkout}, whose ./inv nightly-timer --remove deletes it.
[Unit]
Description=Nights of {checkout}

[Timer]
OnCalendar={on_calendar}
# A night that the machine slept through is made up for.
Persistent=true
# Machines that share a mirror do not all ask at once, and each keeps its own time.
RandomizedDelaySec=15min
FixedRandomDelay=true

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True)
class Schedule:
    """When and how nights of ``checkout`` run: ``arguments`` follow ``./inv nightly``.

    ``environment`` is what the command gets of its caller's, ``output`` where builds go, ``writable`` what else the
    command writes to. ``user`` says that a user's systemd runs it, which can confine it less.

    Raises `VirtrootError` for what no unit file or terminal can name.
    """

    checkout: Path
    output: Path
    on_calendar: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    writable: tuple[str, ...] = ()
    user: bool = False

    def __post_init__(self) -> None:
        for text in (
            *map(str, (self.checkout, self.output)),
            self.on_calendar,
            *self.arguments,
            *self.writable,
            *self._variables,
        ):
            if plain(text) != text or "\n" in text or "\t" in text:
                raise VirtrootError(
                    f"{text!r} has characters that no unit file takes",
                    "give the checkout, its output and its recipes names of ordinary characters",
                )
        # systemd-analyze finds nothing wrong with one in ReadWritePaths=, and systemd 257 then looks for another path.
        for path in (str(self.checkout), str(self.output), *self.writable):
            if "\\" in path:
                raise VirtrootError(f"{path} has a backslash in it, which no unit file takes", "give it another name")

    @property
    def name(self) -> str:
        """The units' name without its ending; each checkout of a machine has its own."""
        return name(self.checkout)

    @property
    def _command(self) -> list[str]:
        return [str(self.checkout / "inv"), "nightly", *self.arguments]

    @property
    def _variables(self) -> list[str]:
        return [f"{key}={value}" for key, value in sorted((self.environment or {}).items())]

    def service(self) -> str:
        """Return the service unit."""
        command = self._command
        if _NO_PROGRAM & set(command[0]):
            # Not env, which takes a path with = in it for a variable.
            command = ["/bin/sh", "-c", 'exec "$0" "$@"', *command]
        outside = [] if self.output.is_relative_to(self.checkout) else [str(self.output)]
        engine = (self.environment or {}).get("DOCKER_HOST", "").removeprefix("unix://")
        used = [Path(path) for path in (str(self.checkout), *outside, *self.writable, *self.arguments, engine)]
        shared = any(path.is_relative_to(private) for path in used for private in _PRIVATE)
        writable = [
            str(self.checkout),
            *(f"-{path}" for path in (*outside, *self.writable, *(_PRIVATE if shared else ()))),
        ]
        confined = _CONFINED.format(
            writable=" ".join(_path(path) for path in writable), private="no" if shared else "yes"
        )
        return _SERVICE.format(
            mark=MARK,
            name=self.name,
            checkout=_specifiers(str(self.checkout)),
            user=" --user" if self.user else "",
            # A user's systemd has no such target.
            wants="" if self.user else "Wants=network-online.target\n",
            command=" ".join(_word(word) for word in command),
            environment="".join(f"Environment={_word(variable)}\n" for variable in self._variables),
            confined="" if self.user else confined,
        )

    def timer(self) -> str:
        """Return the timer unit."""
        checkout = _specifiers(str(self.checkout))
        return _TIMER.format(mark=MARK, checkout=checkout, on_calendar=_specifiers(self.on_calendar))

    def crontab(self, fields: str) -> str:
        """Return the line of a crontab, for the five ``fields`` that say when.

        Raises `VirtrootError` for a backslash in it, as a recipe's name may have, which not every cron leaves as it is,
        and where it is too long.
        """
        words = [*self._variables, "nice", "-n", "10", *self._command]
        # cron's own path has no sbin, where chroot is.
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        line = f"env {path} {shlex.join(words)}"
        if "\\" in line:
            raise VirtrootError(
                "a crontab cannot name what has a backslash in it", "give the checkout and its recipes other names"
            )
        # To cron a % ends the command, and begins its input.
        line = line.replace("%", "\\%")
        if len(line.encode()) > _CRON_LONGEST:
            raise VirtrootError(
                f"no crontab takes a command of {len(line)} characters", "put settings into invoke.yaml instead"
            )
        return f"{fields} {line}"


def name(checkout: Path) -> str:
    """Return the name, without its ending, of the units of ``checkout``: no other checkout's is the same."""
    return f"virtroot-nightly-{hashlib.sha256(bytes(checkout)).hexdigest()[:8]}"


def exposed(environment: Iterable[str]) -> list[str]:
    """Return those values of ``environment``, as ``NAME=VALUE``, that have a password in them, as a URL has."""
    return [variable for variable in environment if without_logins(variable) != variable]


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """Quote for ExecStart= and Environment=, where a backslash begins an escape; see systemd.syntax(7)."""
    if _PLAIN_WORD.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_specifiers(quoted)}"'


def _path(text: str) -> str:
    """Quote for ReadWritePaths=, where a quote needs the other kind around it."""
    if _PLAIN_WORD.fullmatch(text):
        return text
    prefix, path = ("-", text[1:]) if text.startswith("-") else ("", text)
    quoted = path.replace('"', '"\'"\'"')
    return f'{prefix}"{_specifiers(quoted)}"'

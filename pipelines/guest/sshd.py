"""What the sshd of a guest does, by the configuration in the guest's root."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.target import programs
from pipelines.target.target import Target

#: Where sshd listens unless its configuration says otherwise.
PORT = 22

#: Where sshd looks for root's keys unless its configuration says otherwise, relative to the root.
AUTHORIZED_KEYS = "root/.ssh/authorized_keys"

_HOME = "/root"


@dataclass(frozen=True)
class Sshd:
    """The settings that matter to those who log in as root.

    ``public_keys`` maps a host key's path, without a slash before it, to the text of its public key, empty where that
    is missing. ``authorized_keys`` is where root's keys are looked for; empty where no file is. ``refuses`` is the
    setting that keeps root from logging in with a key, empty where none does.
    """

    public_keys: Mapping[str, str]
    port: int = PORT
    authorized_keys: str = AUTHORIZED_KEYS
    refuses: str = ""


def read(target: Target, root: str) -> Sshd:
    """Return what the sshd in a guest's root does; the defaults where it has no readable configuration."""
    return parse(programs.read_sshd(target, root))


def parse(told: Mapping[str, Any]) -> Sshd:
    """Interpret what `programs.read_sshd` returned. What depends on the connection is not taken into account."""
    every: dict[str, list[list[str]]] = {}
    conditional = set()
    for name, arguments, depends in told["settings"]:
        if depends:
            conditional.add(name)
        elif arguments:
            every.setdefault(name, []).append(arguments)
    # Of most settings sshd takes the first.
    first = {name: found[0] for name, found in every.items()}
    return Sshd(
        public_keys={path.lstrip("/"): text for path, text in told["public"].items()},
        port=_port(every),
        authorized_keys=_authorized_keys(first.get("authorizedkeysfile", [])),
        refuses=_refuses(first, conditional),
    )


def _port(every: Mapping[str, Sequence[Sequence[str]]]) -> int:
    given = [arguments[0] for arguments in every.get("port", [])] or [str(PORT)]
    ports: list[str] = []
    for arguments in every.get("listenaddress", []):
        # An IPv6 address has a port only behind brackets.
        match = re.fullmatch(r"(?:\[[^]]*\]|[^:]*):(\d+)", arguments[0])
        ports += [match[1]] if match else given
    usable = [int(each) for each in ports or given if re.fullmatch(r"\d{1,5}", each) and 0 < int(each) < 1 << 16]
    return PORT if PORT in usable or not usable else usable[0]


def _authorized_keys(patterns: Sequence[str]) -> str:
    if not patterns:
        return AUTHORIZED_KEYS
    tokens = {"%%": "%", "%h": _HOME, "%u": "root", "%U": "0"}
    paths = []
    for pattern in (each for each in patterns if each.lower() != "none"):
        expanded = re.sub("%.", lambda token: tokens.get(token[0], token[0]), pattern)
        paths.append(posixpath.normpath(posixpath.join(_HOME, expanded)).lstrip("/"))
    return AUTHORIZED_KEYS if AUTHORIZED_KEYS in paths else next(iter(paths), "")


def _refuses(first: Mapping[str, Sequence[str]], conditional: Iterable[str]) -> str:
    there = {*conditional}
    refusing = {"permitrootlogin": ("no", "forced-commands-only"), "pubkeyauthentication": ("no",)}
    names = {"permitrootlogin": "PermitRootLogin", "pubkeyauthentication": "PubkeyAuthentication"}
    for name, values in refusing.items():
        value = first.get(name, [""])[0].lower()
        # A Match block may let root in after all.
        if value in values and name not in there:
            return f"{names[name]} {value}"
    return ""

"""The settings of a guest's sshd, read from the configuration in the guest's root."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.target import programs
from pipelines.target.target import Target

#: The port of sshd unless its configuration sets another one.
PORT = 22

#: Root's file of keys unless sshd's configuration sets another one, relative to the root.
AUTHORIZED_KEYS = "root/.ssh/authorized_keys"

_HOME = "/root"


@dataclass(frozen=True)
class Sshd:
    """The settings that matter for logins of root.

    ``public_keys`` maps the path of a host key, without the leading slash, to the text of its public key, which is
    empty if that is missing. ``authorized_keys`` is the file of root's keys, or empty if sshd reads none. ``refuses``
    is the setting that prevents root from logging in with a key, or empty.
    """

    public_keys: Mapping[str, str]
    port: int = PORT
    authorized_keys: str = AUTHORIZED_KEYS
    refuses: str = ""


def read(target: Target, root: str) -> Sshd:
    """Return the settings of the sshd in a guest's root; the defaults if it has no readable configuration."""
    return parse(programs.read_sshd(target, root))


def parse(answer: Mapping[str, Any]) -> Sshd:
    """Interpret the result of `programs.read_sshd`. Settings that depend on the connection are ignored."""
    every: dict[str, list[list[str]]] = {}
    conditional = set()
    for name, arguments, depends in answer["settings"]:
        if depends:
            conditional.add(name)
        elif arguments:
            every.setdefault(name, []).append(arguments)
    # For most settings, sshd uses the first value.
    first = {name: found[0] for name, found in every.items()}
    return Sshd(
        public_keys={path.lstrip("/"): text for path, text in answer["public"].items()},
        port=_choose_port(every),
        authorized_keys=_choose_keys_file(first.get("authorizedkeysfile", [])),
        refuses=_find_refusal(first, conditional),
    )


def _choose_port(every: Mapping[str, Sequence[Sequence[str]]]) -> int:
    given = [arguments[0] for arguments in every.get("port", [])] or [str(PORT)]
    ports: list[str] = []
    for arguments in every.get("listenaddress", []):
        # An IPv6 address has a port only if it is in brackets.
        match = re.fullmatch(r"(?:\[[^]]*\]|[^:]*):(\d+)", arguments[0])
        ports += [match[1]] if match else given
    usable = [int(each) for each in ports or given if re.fullmatch(r"\d{1,5}", each) and 0 < int(each) < 1 << 16]
    return PORT if PORT in usable or not usable else usable[0]


def _choose_keys_file(patterns: Sequence[str]) -> str:
    if not patterns:
        return AUTHORIZED_KEYS
    tokens = {"%%": "%", "%h": _HOME, "%u": "root", "%U": "0"}
    paths = []
    for pattern in (each for each in patterns if each.lower() != "none"):
        expanded = re.sub("%.", lambda token: tokens.get(token[0], token[0]), pattern)
        paths.append(posixpath.normpath(posixpath.join(_HOME, expanded)).lstrip("/"))
    return AUTHORIZED_KEYS if AUTHORIZED_KEYS in paths else next(iter(paths), "")


def _find_refusal(first: Mapping[str, Sequence[str]], conditional: Iterable[str]) -> str:
    there = {*conditional}
    refusing = {"permitrootlogin": ("no", "forced-commands-only"), "pubkeyauthentication": ("no",)}
    names = {"permitrootlogin": "PermitRootLogin", "pubkeyauthentication": "PubkeyAuthentication"}
    for name, values in refusing.items():
        value = first.get(name, [""])[0].lower()
        # A Match block may still allow root to log in.
        if value in values and name not in there:
            return f"{names[name]} {value}"
    return ""

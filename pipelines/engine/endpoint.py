"""The engine's endpoint: ``DOCKER_HOST``, ``DOCKER_CONTEXT`` or Docker's current context, as for the docker client."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import VirtrootError

_DEFAULT = "unix:///var/run/docker.sock"

_FORWARD = (
    "forward the engine's socket: "
    "ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock HOST, then DOCKER_HOST=unix:///tmp/engine.sock"
)


@dataclass(frozen=True)
class Endpoint:
    """An engine's address, and its source (``DOCKER_HOST`` or a context) for messages."""

    url: str
    named_by: str

    def __str__(self) -> str:
        return f"({self.url}, from {self.named_by})" if self.named_by else f"({self.url})"


def get_endpoint() -> Endpoint:
    """Return the engine's endpoint. Raises VirtrootError for an unknown context, and for ssh and TLS.

    To end a command's input, one direction of its connection is closed. Python's TLS sockets and docker-py's ssh cannot
    do that.
    """
    host = os.environ.get("DOCKER_HOST", "")
    context = (
        "" if host else os.environ.get("DOCKER_CONTEXT") or _read_configuration().get("currentContext") or "default"
    )
    if host:
        found, tls = Endpoint(host, "DOCKER_HOST"), _has_tls_variables()
    elif context == "default":
        found, tls = Endpoint(_DEFAULT, ""), False
    else:
        found, tls = _get_context(context)
    scheme = found.url.partition("://")[0]
    if scheme == "ssh":
        raise VirtrootError(f"an engine over ssh is not supported {found}", _FORWARD)
    if scheme == "https" or (tls and scheme not in {"unix", "http+unix"}):
        raise VirtrootError(f"an engine behind TLS is not supported {found}", _FORWARD)
    return found


def is_forbidden(endpoint: Endpoint) -> bool:
    """Return whether this user may not connect to the socket of ``endpoint``, which exists."""
    scheme, _, path = endpoint.url.partition("://")
    try:
        return scheme in {"unix", "http+unix"} and Path(path).is_socket() and not os.access(path, os.R_OK | os.W_OK)
    except PermissionError:
        return True


class Forbidden(VirtrootError):
    """This user may not use the engine."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(
            f"the user {_get_user()} may not use the Docker engine {endpoint}",
            "run this with sudo; or as root: usermod --append --groups docker USER, then log in again",
        )


def _get_user() -> str:
    """Return the name of the user that this process runs as, or the number of one without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _has_tls_variables() -> bool:
    return any(os.environ.get(name) for name in ("DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"))


def _get_directory() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _read_configuration() -> dict[str, Any]:
    return _read(_get_directory() / "config.json")


def _get_context(name: str) -> tuple[Endpoint, bool]:
    """Return a context's endpoint, and whether it uses TLS."""
    contexts = _get_directory() / "contexts"
    key = hashlib.sha256(name.encode()).hexdigest()
    described = _read(contexts / "meta" / key / "meta.json")
    if not described:
        known = sorted(str(_read(path).get("Name")) for path in contexts.glob("meta/*/meta.json"))
        raise VirtrootError(
            f"no Docker context {name}", f"set DOCKER_CONTEXT to one of: {', '.join(['default', *known])}"
        )
    docker = (described.get("Endpoints") or {}).get("docker") or {}
    tls = bool(docker.get("SkipTLSVerify")) or (contexts / "tls" / key / "docker").is_dir()
    return Endpoint(docker.get("Host") or _DEFAULT, f"the Docker context {name}"), tls


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of Docker's; empty if the file is missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise VirtrootError(f"cannot read {path}: {error}", "fix or remove it; docker reads it, too") from error
    return content if isinstance(content, dict) else {}

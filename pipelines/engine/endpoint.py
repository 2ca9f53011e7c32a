"""Where the engine is: ``DOCKER_HOST``, ``DOCKER_CONTEXT`` or Docker's current context, as for docker's own client."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import VirtrootError

_DEFAULT = "unix:///var/run/docker.sock"

_FORWARD = (
    "forward the engine's socket and use that: "
    "ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock HOST, then DOCKER_HOST=unix:///tmp/engine.sock"
)


@dataclass(frozen=True)
class Endpoint:
    """An engine's address, and what names it (``DOCKER_HOST`` or a context), for messages."""

    url: str
    named_by: str

    def __str__(self) -> str:
        return f"({self.url}), which {self.named_by} names" if self.named_by else f"({self.url})"


def endpoint() -> Endpoint:
    """Return where the engine is; raises `VirtrootError` for an unknown context and for what cannot half-close.

    A command's input ends by closing one direction of its connection. TLS has no such thing in Python's library, and
    docker-py's ssh none either.
    """
    host = os.environ.get("DOCKER_HOST", "")
    context = "" if host else os.environ.get("DOCKER_CONTEXT") or _configuration().get("currentContext") or "default"
    if host:
        found, tls = Endpoint(host, "DOCKER_HOST"), _tls_in_environment()
    elif context == "default":
        found, tls = Endpoint(_DEFAULT, ""), False
    else:
        found, tls = _context(context)
    scheme = found.url.partition("://")[0]
    if scheme == "ssh":
        raise VirtrootError(f"an engine over ssh cannot be used {found}", _FORWARD)
    if scheme == "https" or (tls and scheme not in {"unix", "http+unix"}):
        raise VirtrootError(f"an engine behind TLS cannot be used {found}", _FORWARD)
    return found


def _tls_in_environment() -> bool:
    return any(os.environ.get(name) for name in ("DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"))


def _directory() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _configuration() -> dict[str, Any]:
    return _read(_directory() / "config.json")


def _context(name: str) -> tuple[Endpoint, bool]:
    """Return a context's endpoint and whether it is behind TLS."""
    contexts = _directory() / "contexts"
    key = hashlib.sha256(name.encode()).hexdigest()
    described = _read(contexts / "meta" / key / "meta.json")
    if not described:
        known = sorted(str(_read(path).get("Name")) for path in contexts.glob("meta/*/meta.json"))
        raise VirtrootError(
            f"no Docker context {name}", f"contexts here: {', '.join(['default', *known])}; choose by DOCKER_CONTEXT"
        )
    docker = (described.get("Endpoints") or {}).get("docker") or {}
    tls = bool(docker.get("SkipTLSVerify")) or (contexts / "tls" / key / "docker").is_dir()
    return Endpoint(docker.get("Host") or _DEFAULT, f"the Docker context {name}"), tls


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of Docker's, empty where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise VirtrootError(f"cannot read {path}: {error}", "mend or remove it; docker itself needs it too") from error
    return content if isinstance(content, dict) else {}

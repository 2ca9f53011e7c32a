"""docker-py's client for the engine, and the errors that `engine` makes of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import docker
import requests
from docker.errors import APIError
from docker.types import DriverConfig

from pipelines.engine.endpoint import get_endpoint
from pipelines.errors import Phase, VirtrootError
from pipelines.text import trim

#: The label of containers, volumes and images that virtroot made.
LABEL = "virtroot"


def make_tmpfs_driver(options: str | None) -> DriverConfig | None:
    """Return the driver for a volume in memory; None without ``options``."""
    if options is None:
        return None
    return DriverConfig("local", {"type": "tmpfs", "device": "tmpfs", "o": options})


def refuse_foreign(kind: str, name: str, carried: Mapping[str, str] | None, labels: Mapping[str, str]) -> None:
    """Raise `VirtrootError` if an object of the engine does not have virtroot's labels and ``labels``."""
    has = dict(carried or {})
    if LABEL not in has or not labels.items() <= has.items():
        raise VirtrootError(
            f"{kind} {name} on this engine does not have virtroot's labels",
            f"rename or remove it, or use another name; run docker {kind} inspect {name} for details",
            where=Phase.ENGINE,
        )


def make_start_error(image: str, error: APIError) -> VirtrootError:
    """Return the error for a container that does not start."""
    return VirtrootError(f"cannot start a container from {image}: {error.explanation}", "check the engine's log")


def make_import_error(reason: str) -> VirtrootError:
    """Return the error for a root that the engine does not import."""
    return VirtrootError(f"the engine cannot import the root: {reason}", "check the engine's log")


def make_build_error(tag: str, reason: str, lines: Sequence[str]) -> VirtrootError:
    """Return the error for an image that cannot be built, with the last lines of its output."""
    return VirtrootError(
        f"cannot build the image {tag}: {trim(reason)}",
        "check whether the distribution's mirror answers, then run the task again",
        "\n".join(lines[-15:]),
    )


class Api(docker.APIClient):
    """docker-py's client, with a VirtrootError if the engine no longer answers."""

    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request."""
        try:
            return super().send(*arguments, **options)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise VirtrootError(
                f"the Docker engine no longer answers {get_endpoint()}",
                "check the engine's log, then run the task again",
                str(error),
                where=Phase.ENGINE,
            ) from error


def make_client(timeout: int = 120) -> docker.DockerClient:
    """Return a client of docker-py; ``timeout`` is in seconds."""
    return docker.DockerClient(base_url=get_endpoint().url, timeout=timeout)

"""The only door to the Docker engine, local or remote (``DOCKER_HOST``, contexts)."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container as DockerContainer
from docker.types import Mount

from pipelines.errors import VirtrootError
from pipelines.host import exec_stream
from pipelines.host.process import Completed, failed

#: Takes a chunk of a command's output as it comes.
Sink = Callable[[bytes], object]

#: Containers, volumes and images that virtroot made carry this label.
LABEL = "virtroot"

#: A registry that has not answered by then, in seconds, counts as one that does not.
REGISTRY_TIMEOUT = 8

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CA_PATH = "/etc/ssl/certs/ca-certificates.crt"


def proxy_environment() -> dict[str, str]:
    """Return the proxy variables of this process: what runs in a container needs them as much."""
    return {name: os.environ[name] for name in _PROXY_VARIABLES if os.environ.get(name)}


def ca_bundle() -> bytes | None:
    """Return the CA bundle that the environment names, if any: an intercepting proxy has a CA of its own."""
    for name in _CA_VARIABLES:
        path = Path(os.environ.get(name) or "/nonexistent")
        if path.is_file():
            return path.read_bytes()
    return None


def archive(files: Mapping[str, bytes], modes: Mapping[str, int] | None = None) -> bytes:
    """Make an uncompressed tar of ``files`` (path to content), owned by root, with fixed times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            entry.mode = (modes or {}).get(name, 0o644)
            tar.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


class NameTaken(VirtrootError):
    """x."""


class NoSuchDevice(VirtrootError):
    """x."""


@dataclass(frozen=True)
class Container:
    """A running container, as far as virtroot needs one: commands run in it."""

    _container: DockerContainer = field(repr=False)
    _api: docker.APIClient = field(repr=False)

    @property
    def id(self) -> str:
        """The engine's id of the container."""
        return str(self._container.id)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> Completed:
        """Run ``argv`` in the container; output goes to the sinks where given, else into the result.

        Raises `VirtrootError` when the engine goes away and, with ``check``, when the command exits non-zero.
        """
        kept_out, kept_err = bytearray(), bytearray()
        sinks = {1: stdout or kept_out.extend, 2: stderr or kept_err.extend}
        api = self._api
        try:
            exec_id = api.exec_create(self.id, list(argv), stdin=stdin is not None, environment=dict(env or {}))["Id"]
            with exec_stream.connection(api.exec_start(exec_id, socket=True)) as connection:
                feeder = exec_stream.feed(connection, stdin)
                for stream, chunk in exec_stream.frames(connection):
                    sinks[stream](chunk)
                if feeder:
                    feeder.join()
            status = api.exec_inspect(exec_id)["ExitCode"]
        except (DockerException, requests.RequestException, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, (requests.RequestException, ConnectionError)):
                raise
            raise VirtrootError(
                f"the container that ran {argv[0]} went away: {error}", "see the engine's log, then run the task again"
            ) from error
        completed = Completed(tuple(argv), -1 if status is None else status, bytes(kept_out), bytes(kept_err))
        if check and completed.returncode:
            raise failed(completed)
        return completed

    @contextmanager
    def terminal(self, argv: Sequence[str]) -> Iterator[tuple[socket.socket, Callable[[int, int], None]]]:
        """Run ``argv`` on a terminal in the container; yield its connection and a call that resizes it."""
        api = self._api
        exec_id = api.exec_create(self.id, list(argv), stdin=True, tty=True)["Id"]
        with exec_stream.connection(api.exec_start(exec_id, tty=True, socket=True)) as connection:
            yield connection, lambda rows, columns: api.exec_resize(exec_id, height=rows, width=columns)

    @contextmanager
    def holding(self, argv: Sequence[str]) -> Iterator[str]:
        """Run ``argv`` until the block ends, which ends its input; yield the first line it prints."""
        api = self._api
        exec_id = api.exec_create(self.id, list(argv), stdin=True)["Id"]
        with exec_stream.connection(api.exec_start(exec_id, socket=True)) as connection:
            said = next((chunk for _, chunk in exec_stream.frames(connection)), b"")
            yield said.decode(errors="replace").partition("\n")[0]

    def stop(self, timeout: int) -> None:
        """X."""
        self._container.stop(timeout=timeout)

    def remove(self) -> None:
        """Kill and remove the container; one that is gone already is fine."""
        with suppress(NotFound, APIError):
            self._container.remove(force=True, v=True)


class Engine:
    """A Docker engine that answers."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def memory(self) -> int:
        """Return how many bytes of memory a build may count on: what is available here, else half of what is there."""
        if self._client.api.base_url.startswith("http+docker") and not os.environ.get("DOCKER_HOST"):
            for line in Path("/proc/meminfo").read_text().splitlines():
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return int(self._client.info()["MemTotal"]) // 2

    def registry_has(self, reference: str) -> bool:
        """Say whether the image's registry answers, within seconds, that it has ``reference``."""
        probe = _client(timeout=REGISTRY_TIMEOUT)
        try:
            probe.images.get_registry_data(reference)
        except (APIError, requests.RequestException):
            return False
        finally:
            probe.close()
        return True

    def image_id(self, tag: str) -> str | None:
        """Return the content digest of a local image, or None."""
        try:
            return str(self._client.images.get(tag).id)
        except ImageNotFound:
            return None

    def pull(self, reference: str, tag: str) -> None:
        """Pull ``reference`` and tag it as ``tag``."""
        try:
            self._client.images.pull(reference).tag(tag)
        except APIError as error:
            raise VirtrootError(
                f"cannot pull {reference}: {error.explanation}",
                "set base: mirror in invoke.yaml to do without a registry",
            ) from error

    def import_image(self, tarball: Path, tag: str) -> None:
        """Make an image of one layer from a root filesystem's tarball."""
        repository, _, version = tag.partition(":")
        with tarball.open("rb") as data:
            self._client.api.import_image_from_data(data, repository=repository, tag=version)

    def build_image(self, context: bytes, tag: str, arguments: Mapping[str, str]) -> None:
        """Build ``Containerfile`` in the tar ``context``; on failure the builder's last lines are in the error."""
        lines: list[str] = []
        for event in self._client.api.build(
            fileobj=io.BytesIO(context),
            custom_context=True,
            dockerfile="Containerfile",
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            buildargs={**proxy_environment(), **arguments},
            labels={LABEL: "image"},
        ):
            lines += str(event.get("stream", "")).splitlines()
            if "error" in event:
                raise VirtrootError(
                    f"cannot build the image {tag}: {event['error'].strip()}",
                    "see whether the distribution's mirror answers, then run the task again",
                    "\n".join(lines[-15:]),
                )

    def start(
        self,
        image: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str],
        argv: Sequence[str] | None = None,
        volumes: Mapping[str, str] | None = None,
        tmpfs: Mapping[str, str] | None = None,
        capabilities: Sequence[str] = (),
        seccomp: bool = True,
        devices: Sequence[str] = (),
        hostname: str | None = None,
        stop_timeout: int = 10,
    ) -> Container:
        """Start a container: ``volumes`` maps named volumes to paths, ``tmpfs`` paths to mount options."""
        security = [] if seccomp else ["seccomp=unconfined"]
        if "SYS_ADMIN" in capabilities:
            # Docker's AppArmor profile denies mounts even to those who have the capability for them.
            security.append("apparmor=unconfined")
        try:
            started = self._client.containers.run(
                image,
                list(argv) if argv else None,
                name=name,
                detach=True,
                init=True,
                labels={LABEL: "container", **labels},
                mounts=[
                    Mount(path, volume, type="volume", labels={LABEL: "volume"})
                    for volume, path in (volumes or {}).items()
                ],
                tmpfs=dict(tmpfs or {}),
                cap_add=list(capabilities),
                security_opt=security,
                devices=list(devices),
                environment=proxy_environment(),
                hostname=hostname,
            )
        except APIError as error:
            if error.status_code == HTTPStatus.CONFLICT:
                raise NameTaken(
                    f"a container {name} is at work on this engine, for another checkout or user",
                    f"wait for it; if nobody uses it any more: docker rm --force {name}",
                ) from error
            if "gathering device" in str(error):
                raise NoSuchDevice("no", "no") from error
            raise VirtrootError(
                f"the engine cannot start a container from {image}: {error.explanation}", "see the engine's log"
            ) from error
        bundle = ca_bundle()
        if bundle:
            started.put_archive("/", archive({_CA_PATH.lstrip("/"): bundle}))
        return Container(started, self._client.api)

    def container(self, name: str) -> Container | None:
        """Return the running container of that name or id, or None."""
        try:
            found: DockerContainer = self._client.containers.get(name)
        except NotFound:
            return None
        return Container(found, self._client.api) if found.status == "running" else None

    def container_state(self, name: str) -> str:
        """X."""
        try:
            return str(self._client.containers.get(name).status)
        except NotFound:
            return ""

    def remove_containers(self, labels: Mapping[str, str]) -> None:
        """Kill and remove every container that carries all of ``labels``."""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        for stale in self._client.containers.list(all=True, filters={"label": wanted}):
            Container(stale, self._client.api).remove()

    def remove_container(self, name: str) -> None:
        """Kill and remove the container of that name, running or not; none is fine."""
        with suppress(NotFound):
            Container(self._client.containers.get(name), self._client.api).remove()

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; none is fine."""
        with suppress(NotFound):
            self._client.volumes.get(name).remove(force=True)


def _client(timeout: int = 120) -> docker.DockerClient:
    """Make a client for ``DOCKER_HOST`` where set, else for the current context; docker-py knows only the first."""
    if os.environ.get("DOCKER_HOST"):
        return docker.from_env(timeout=timeout)
    context = ContextAPI.get_current_context()
    if context is None or context.name == "default" or not context.Host:
        return docker.from_env(timeout=timeout)
    return docker.DockerClient(base_url=context.Host, tls=context.TLSConfig, timeout=timeout)


def connect() -> Engine:
    """Reach the engine, or raise `VirtrootError` saying how to get one."""
    try:
        client = _client()
        client.ping()
    except (DockerException, requests.RequestException) as error:
        where = os.environ.get("DOCKER_HOST", "here")
        raise VirtrootError(
            f"no Docker engine answers ({where})", "run ./inv setup to install and start one, or set DOCKER_HOST"
        ) from error
    return Engine(client)


def answers() -> bool:
    """Say whether an engine answers."""
    try:
        connect()
    except VirtrootError:
        return False
    return True

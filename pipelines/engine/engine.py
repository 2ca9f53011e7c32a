"""The Docker engine, local or remote. Only this module and `docker_client` import docker-py."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import Mount

from pipelines.engine import docker_client, endpoint, exec_stream, this_machine
from pipelines.engine.container import Container, NameTaken, NoSuchDevice
from pipelines.engine.docker_client import LABEL
from pipelines.engine.exec_stream import Sink
from pipelines.engine.image import Image, read_image
from pipelines.errors import Phase, VirtrootError
from pipelines.host import environment
from pipelines.host.trees import archive
from pipelines.text import split_lines, trim

__all__ = ["LABEL", "Container", "Engine", "Image", "NameTaken", "NoSuchDevice", "Sink", "connect", "is_available"]

#: Seconds to wait for an answer of a registry.
REGISTRY_TIMEOUT = 8


class Engine:
    """A connection to a Docker engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def memory(self) -> int:
        """Return the memory in bytes for a build: what is available on this machine, or half of another machine's."""
        info = self._client.info()
        if this_machine.is_engine_host(info):
            return this_machine.read_memory("MemAvailable")
        return int(info["MemTotal"]) // 2

    def registry_has(self, reference: str) -> bool:
        """Return whether the image's registry confirms, in time, that it has ``reference``."""
        probe = docker_client.make_client(timeout=REGISTRY_TIMEOUT)
        try:
            probe.images.get_registry_data(reference)
        except (APIError, requests.RequestException):
            return False
        finally:
            probe.close()
        return True

    def image(self, tag: str) -> Image | None:
        """Return the image with the tag ``tag``, or None."""
        try:
            return read_image(self._client.images.get(tag).attrs)
        except ImageNotFound:
            return None

    def image_id(self, tag: str) -> str | None:
        """Return the content digest of a local image, or None."""
        found = self.image(tag)
        return found.id if found else None

    def images(self, repositories: str) -> dict[str, Image]:
        """Return the images, by tag, whose repository matches the pattern ``repositories``."""
        listed = self._client.api.images(filters={"reference": repositories})
        tags = {tag for each in listed for tag in each["RepoTags"] or () if tag != "<none>:<none>"}
        return {tag: found for tag in sorted(tags) if (found := self.image(tag))}

    def pull(self, reference: str, tag: str) -> None:
        """Pull ``reference`` and tag it as ``tag``."""
        try:
            self._client.images.pull(reference).tag(tag)
        except APIError as error:
            raise VirtrootError(
                f"cannot pull {reference}: {error.explanation}",
                "set base: mirror in virtroot.yaml to build without a registry",
            ) from error

    def import_image(self, tarball: Path, tag: str) -> None:
        """Import the tarball of a root file system as an image with one layer."""
        repository, _, version = tag.partition(":")
        with tarball.open("rb") as data:
            self._client.api.import_image_from_data(data, repository=repository, tag=version)

    def import_root(self, content: IO[bytes], labels: Mapping[str, str]) -> str:
        """Import the tar stream of a root as an untagged image with one layer; return its digest.

        ``labels`` must not contain spaces. Raises VirtrootError if the engine rejects it.
        """
        chunks = iter(lambda: content.read(1 << 20), b"")
        changes = [f"LABEL {key}={value}" for key, value in {LABEL: "image", **labels}.items()]
        try:
            answer = self._client.api.import_image_from_data(chunks, changes=changes)
        except APIError as error:
            raise docker_client.make_import_error(str(error.explanation)) from error
        said = json.loads(split_lines(trim(answer))[-1])
        if "status" not in said:
            raise docker_client.make_import_error(str(said.get("error")))
        return str(said["status"])

    def build_image(
        self, context: bytes, tag: str, arguments: Mapping[str, str], labels: Mapping[str, str] | None = None
    ) -> None:
        """Build ``Containerfile`` in the tar ``context``. Raises VirtrootError with the last lines of the build."""
        lines: list[str] = []
        try:
            for event in self._client.api.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                dockerfile="Containerfile",
                tag=tag,
                rm=True,
                forcerm=True,
                # A cached layer has old packages, but the image would count as new.
                nocache=True,
                decode=True,
                buildargs={**environment.get_proxies(), **arguments},
                labels={LABEL: "image", **(labels or {})},
            ):
                lines += split_lines(str(event.get("stream", "")))
                if "error" in event:
                    raise docker_client.make_build_error(tag, event["error"], lines)
        except APIError as error:
            raise docker_client.make_build_error(tag, str(error.explanation), lines) from error

    def remove_untagged(self, identity: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        """Remove the image ``identity``, or all images with ``labels``, if they have no tag and are not used."""
        if identity is None:
            carried = [f"{key}={value}" for key, value in (labels or {}).items()]
            stale = [each["Id"] for each in self._client.api.images(filters={"dangling": True, "label": carried})]
        else:
            stale = [identity]
        for each in stale:
            # The engine refuses while a container or another image uses it.
            with suppress(APIError):
                if not self._client.images.get(each).tags:
                    self._client.images.remove(each)

    def start(
        self,
        image: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str],
        argv: Sequence[str] | None = None,
        volumes: Mapping[str, str] | None = None,
        tmpfs: Mapping[str, str] | None = None,
        in_memory: Mapping[str, str] | None = None,
        capabilities: Sequence[str] = (),
        seccomp: bool = True,
        devices: Sequence[str] = (),
        hostname: str | None = None,
        stop_timeout: int | None = None,
        transient: bool = False,
        niced: bool = False,
        routing: bool = False,
        tied: bool = False,
        proxied: bool = True,
    ) -> Container:
        """Start a container.

        ``volumes`` maps named volumes to paths, ``tmpfs`` maps paths to mount options. ``in_memory`` maps volumes to
        mount options; they are created as a tmpfs if they do not exist.

        ``stop_timeout`` is the time in seconds between the engine's stop and its kill. The engine removes a
        ``transient`` container when it ends. A ``niced`` container gets as little CPU as this process's niceness says.
        A ``routing`` container forwards packets. The input of a ``tied`` container is a connection of this process: the
        container ends, and is removed, when this process ends for any reason. Without ``proxied`` it does not get the
        variables of proxies, which may contain a password.

        Raises NameTaken, NoSuchDevice or, for other errors, VirtrootError, and leaves no container behind.
        """
        api = self._client.api
        security = [] if seccomp else ["seccomp=unconfined"]
        if "SYS_ADMIN" in capabilities:
            # Docker's AppArmor profile denies mounts even with the capability for them.
            security.append("apparmor=unconfined")
        mounts = [
            Mount(
                path,
                volume,
                type="volume",
                labels={**labels, LABEL: "volume"},
                driver_config=docker_client.make_tmpfs_driver((in_memory or {}).get(volume)),
            )
            for volume, path in (volumes or {}).items()
        ]
        files = environment.get_files()
        try:
            made = api.create_container(
                image,
                # cat exits at the end of its input.
                ["cat"] if tied else list(argv) if argv else None,
                name=name,
                stdin_open=tied,
                labels={LABEL: "container", **labels},
                environment=environment.get_proxies() if proxied else {},
                hostname=hostname,
                stop_timeout=stop_timeout,
                host_config=api.create_host_config(
                    init=True,
                    auto_remove=transient or tied,
                    mounts=mounts,
                    tmpfs=dict(tmpfs or {}),
                    cap_add=list(capabilities),
                    security_opt=security,
                    devices=list(devices),
                    sysctls={"net.ipv4.ip_forward": "1"} if routing else None,
                    cpu_shares=this_machine.compute_cpu_shares() if niced else None,
                ),
            )
        except APIError as error:
            if error.status_code == HTTPStatus.CONFLICT:
                raise NameTaken(
                    f"a container {name} of another task exists on this engine",
                    f"wait for that task; if it no longer runs: docker rm --force {name}",
                    where=Phase.ENGINE,
                ) from error
            raise docker_client.make_start_error(image, error) from error
        container = Container(str(made["Id"]), api)
        try:
            if tied:
                # Attach before the start, so that the container always ends with this process.
                container = Container(container.id, api, self._tie(container.id))
            if files:
                api.put_archive(container.id, "/", archive(files))
            api.start(container.id)
        except BaseException as error:
            container.remove()
            if not isinstance(error, APIError):
                raise
            missing = next((device for device in devices if device.partition(":")[0] in str(error.explanation)), None)
            if missing:
                raise NoSuchDevice(
                    f"the engine cannot give {missing} to a container: {error.explanation}",
                    f"check {missing} on the engine's machine",
                ) from error
            raise docker_client.make_start_error(image, error) from error
        return container

    def _tie(self, container: str) -> Any:
        """Connect to a container's input; the engine closes that input when this connection ends."""
        stream = self._client.api.attach_socket(container, params={"stdin": 1, "stream": 1})
        exec_stream.keep_alive(getattr(stream, "_sock", stream))
        return stream

    def container(self, name: str) -> Container | None:
        """Return the running container with the name or id ``name``, or None."""
        found = self._inspect(name)
        return Container(found["Id"], self._client.api) if found and found["State"]["Status"] == "running" else None

    def container_state(self, name: str) -> str:
        """Return a container's state (``running``, ``paused``, ``exited``, …); empty if it does not exist."""
        found = self._inspect(name)
        return str(found["State"]["Status"]) if found else ""

    def remove_containers(self, labels: Mapping[str, str]) -> None:
        """Kill and remove all containers with all of ``labels``."""
        carried = [f"{key}={value}" for key, value in labels.items()]
        for stale in self._client.api.containers(all=True, filters={"label": carried}):
            Container(stale["Id"], self._client.api).remove()

    def refuse_foreign(self, name: str, labels: Mapping[str, str]) -> None:
        """Raise VirtrootError if the container ``name`` exists without ``labels``: it is not virtroot's."""
        found = self._inspect(name)
        if found:
            docker_client.refuse_foreign("container", name, found["Config"]["Labels"], labels)

    def remove_container(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Kill and remove the container ``name``, running or not; ignore a missing one.

        Raises VirtrootError for one that virtroot did not make, or without ``labels``.
        """
        found = self._inspect(name)
        if found:
            docker_client.refuse_foreign("container", name, found["Config"]["Labels"], labels or {})
            Container(found["Id"], self._client.api).remove()

    def remove_ended(self, name: str, labels: Mapping[str, str]) -> None:
        """Remove the container ``name`` if it has ended, but not a new one that has its name meanwhile.

        Raises VirtrootError for one without ``labels``.
        """
        found = self._inspect(name)
        if found and found["State"]["Status"] in {"exited", "dead"}:
            docker_client.refuse_foreign("container", name, found["Config"]["Labels"], labels)
            Container(found["Id"], self._client.api).remove()

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; ignore a missing one.

        Raises VirtrootError for one that a container uses, or that virtroot did not make.
        """
        try:
            with suppress(NotFound):
                found = self._client.volumes.get(name)
                docker_client.refuse_foreign("volume", name, found.attrs.get("Labels"), {})
                found.remove(force=True)
        except APIError as error:
            raise VirtrootError(
                f"cannot remove volume {name}: {error.explanation}", f"run docker ps --filter volume={name}"
            ) from error

    def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._client.api.inspect_container(name))
        except NotFound:
            return None


def connect() -> Engine:
    """Connect to the engine. Raises VirtrootError if none answers, `endpoint.Forbidden` if this user may not use it."""
    where = endpoint.get_endpoint()
    try:
        client = docker_client.make_client()
        client.ping()
        client.close()
        client.api = docker_client.Api(base_url=where.url, timeout=client.api.timeout, version=client.api.api_version)
    except (DockerException, requests.RequestException) as error:
        if endpoint.is_forbidden(where):
            raise endpoint.Forbidden(where) from error
        raise VirtrootError(
            f"no Docker engine answers {where}", "run ./inv setup to install and start one, or set DOCKER_HOST"
        ) from error
    return Engine(client)


def is_available() -> bool:
    """Return whether an engine answers."""
    try:
        connect()
    except VirtrootError:
        return False
    return True

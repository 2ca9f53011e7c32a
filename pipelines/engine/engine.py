"""The only door to the Docker engine, local or remote."""

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
from docker.types import DriverConfig, Mount

from pipelines.engine import exec_stream, this_machine
from pipelines.engine.container import Container, NameTaken, NoSuchDevice
from pipelines.engine.endpoint import endpoint
from pipelines.engine.exec_stream import Sink
from pipelines.engine.image import Image, read_image
from pipelines.errors import Phase, VirtrootError
from pipelines.host import environment
from pipelines.host.trees import archive
from pipelines.text import split_lines, trim

__all__ = ["LABEL", "Container", "Engine", "Image", "NameTaken", "NoSuchDevice", "Sink", "answers", "connect"]

#: Containers, volumes and images that virtroot made carry this label.
LABEL = "virtroot"

#: A registry that has not answered by then, in seconds, counts as one that does not.
REGISTRY_TIMEOUT = 8


class Engine:
    """A Docker engine that answers."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def memory(self) -> int:
        """Return how many bytes of memory a build may count on: what is available here, else half of what is there."""
        info = self._client.info()
        if this_machine.is_the_one(info):
            return this_machine.memory("MemAvailable")
        return int(info["MemTotal"]) // 2

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

    def image(self, tag: str) -> Image | None:
        """Return the image of that tag, or None."""
        try:
            return read_image(self._client.images.get(tag).attrs)
        except ImageNotFound:
            return None

    def image_id(self, tag: str) -> str | None:
        """Return the content digest of a local image, or None."""
        found = self.image(tag)
        return found.id if found else None

    def images(self, repositories: str) -> dict[str, Image]:
        """Return the images by tag whose repository matches the pattern ``repositories``."""
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
                "set base: mirror in invoke.yaml to do without a registry",
            ) from error

    def import_image(self, tarball: Path, tag: str) -> None:
        """Make an image of one layer from a root filesystem's tarball."""
        repository, _, version = tag.partition(":")
        with tarball.open("rb") as data:
            self._client.api.import_image_from_data(data, repository=repository, tag=version)

    def import_root(self, content: IO[bytes], labels: Mapping[str, str]) -> str:
        """Make an untagged image of one layer from the tar stream of a root; return its digest.

        ``labels`` are words without a blank. Raises `VirtrootError` where the engine does not take it.
        """
        chunks = iter(lambda: content.read(1 << 20), b"")
        changes = [f"LABEL {key}={value}" for key, value in {LABEL: "image", **labels}.items()]
        try:
            answer = self._client.api.import_image_from_data(chunks, changes=changes)
        except APIError as error:
            raise _cannot_take_root(str(error.explanation)) from error
        said = json.loads(split_lines(trim(answer))[-1])
        if "status" not in said:
            raise _cannot_take_root(str(said.get("error")))
        return str(said["status"])

    def build_image(
        self, context: bytes, tag: str, arguments: Mapping[str, str], labels: Mapping[str, str] | None = None
    ) -> None:
        """Build ``Containerfile`` in the tar ``context``; on failure the builder's last lines are in the error."""
        lines: list[str] = []
        try:
            for event in self._client.api.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                dockerfile="Containerfile",
                tag=tag,
                rm=True,
                forcerm=True,
                # A layer that the engine kept has the packages of its own day, and the image would pass for new.
                nocache=True,
                decode=True,
                buildargs={**environment.get_proxies(), **arguments},
                labels={LABEL: "image", **(labels or {})},
            ):
                lines += split_lines(str(event.get("stream", "")))
                if "error" in event:
                    raise _cannot_build(tag, event["error"], lines)
        except APIError as error:
            raise _cannot_build(tag, str(error.explanation), lines) from error

    def remove_untagged(self, identity: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        """Remove the image ``identity``, or all with ``labels``, where it has no tag and nothing there uses it."""
        if identity is None:
            carried = [f"{key}={value}" for key, value in (labels or {}).items()]
            stale = [each["Id"] for each in self._client.api.images(filters={"dangling": True, "label": carried})]
        else:
            stale = [identity]
        for each in stale:
            # The engine refuses for as long as a container or another image is made of it.
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
        """Start a container: ``volumes`` maps named volumes to paths, ``tmpfs`` paths to mount options.

        Volumes in ``in_memory``, with their mount options, are made as a tmpfs where they are not there yet.

        ``stop_timeout`` is how many seconds the engine itself, when it ends or is told to stop the container, waits
        before it kills. The engine removes a ``transient`` container as soon as it ends. A ``niced`` one gets as much
        less of the CPU as this process does, and a ``routing`` one passes packets on. The input of a ``tied`` one is
        this process': it ends, and is removed, when this process does, however that is. One that is not ``proxied``
        needs nothing from outside, and does not get to know the password of a proxy.

        Raises `NameTaken`, `NoSuchDevice` or, for anything else, `VirtrootError`, and leaves nothing.
        """
        api = self._client.api
        security = [] if seccomp else ["seccomp=unconfined"]
        if "SYS_ADMIN" in capabilities:
            # Docker's AppArmor profile denies mounts even to those who have the capability for them.
            security.append("apparmor=unconfined")
        mounts = [
            Mount(
                path,
                volume,
                type="volume",
                labels={**labels, LABEL: "volume"},
                driver_config=_tmpfs((in_memory or {}).get(volume)),
            )
            for volume, path in (volumes or {}).items()
        ]
        files = environment.get_files()
        try:
            made = api.create_container(
                image,
                # It reads until its input ends.
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
                    cpu_shares=this_machine.cpu_shares() if niced else None,
                ),
            )
        except APIError as error:
            if error.status_code == HTTPStatus.CONFLICT:
                raise NameTaken(
                    f"a container {name} is at work on this engine, and is not this task's",
                    f"wait for it; if nobody uses it any more: docker rm --force {name}",
                    where=Phase.ENGINE,
                ) from error
            raise _cannot_start(image, error) from error
        container = Container(str(made["Id"]), api)
        try:
            if tied:
                # Before it runs: from its first moment on it ends with us.
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
                    f"the engine's machine does not give {missing} to a container: {error.explanation}",
                    f"look for {missing} on the engine's machine",
                ) from error
            raise _cannot_start(image, error) from error
        return container

    def _tie(self, container: str) -> Any:
        """Return a connection to a container's input, which the engine ends when this end of the connection is gone."""
        stream = self._client.api.attach_socket(container, params={"stdin": 1, "stream": 1})
        exec_stream.keep_alive(getattr(stream, "_sock", stream))
        return stream

    def container(self, name: str) -> Container | None:
        """Return the running container of that name or id, or None."""
        found = self._inspect(name)
        return Container(found["Id"], self._client.api) if found and found["State"]["Status"] == "running" else None

    def container_state(self, name: str) -> str:
        """Return the engine's word for a container's state: ``running``, ``paused``, ``exited``, …; empty for none."""
        found = self._inspect(name)
        return str(found["State"]["Status"]) if found else ""

    def remove_containers(self, labels: Mapping[str, str]) -> None:
        """Kill and remove every container that carries all of ``labels``."""
        carried = [f"{key}={value}" for key, value in labels.items()]
        for stale in self._client.api.containers(all=True, filters={"label": carried}):
            Container(stale["Id"], self._client.api).remove()

    def refuse_foreign(self, name: str, labels: Mapping[str, str]) -> None:
        """Raise `VirtrootError` where the container of that name does not carry ``labels``: it is foreign."""
        found = self._inspect(name)
        if found:
            _refuse_foreign("container", name, found["Config"]["Labels"], labels)

    def remove_container(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Kill and remove the container of that name, running or not; none is fine.

        Raises `VirtrootError` for one that virtroot did not make, or that does not carry ``labels``.
        """
        found = self._inspect(name)
        if found:
            _refuse_foreign("container", name, found["Config"]["Labels"], labels or {})
            Container(found["Id"], self._client.api).remove()

    def remove_ended(self, name: str, labels: Mapping[str, str]) -> None:
        """Remove the container of that name if it has ended, and never one that took its name meanwhile.

        Raises `VirtrootError` for one that does not carry ``labels``.
        """
        found = self._inspect(name)
        if found and found["State"]["Status"] in {"exited", "dead"}:
            _refuse_foreign("container", name, found["Config"]["Labels"], labels)
            Container(found["Id"], self._client.api).remove()

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; none is fine.

        Raises `VirtrootError` for one that a container uses, or that virtroot did not make.
        """
        try:
            with suppress(NotFound):
                found = self._client.volumes.get(name)
                _refuse_foreign("volume", name, found.attrs.get("Labels"), {})
                found.remove(force=True)
        except APIError as error:
            raise VirtrootError(
                f"the volume {name} stays: {error.explanation}", f"docker ps --filter volume={name}"
            ) from error

    def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._client.api.inspect_container(name))
        except NotFound:
            return None


def _tmpfs(options: str | None) -> DriverConfig | None:
    if options is None:
        return None
    return DriverConfig("local", {"type": "tmpfs", "device": "tmpfs", "o": options})


def _refuse_foreign(kind: str, name: str, carried: Mapping[str, str] | None, labels: Mapping[str, str]) -> None:
    has = dict(carried or {})
    if LABEL not in has or not labels.items() <= has.items():
        raise VirtrootError(
            f"the {kind} {name} on this engine is not virtroot's: it lacks its labels",
            f"rename or remove it yourself, or use another name; look at it: docker {kind} inspect {name}",
            where=Phase.ENGINE,
        )


def _cannot_start(image: str, error: APIError) -> VirtrootError:
    return VirtrootError(
        f"the engine cannot start a container from {image}: {error.explanation}", "see the engine's log"
    )


def _cannot_take_root(reason: str) -> VirtrootError:
    return VirtrootError(f"the engine cannot take the root: {reason}", "see the engine's log")


def _cannot_build(tag: str, reason: str, lines: Sequence[str]) -> VirtrootError:
    return VirtrootError(
        f"cannot build the image {tag}: {trim(reason)}",
        "see whether the distribution's mirror answers, then run the task again",
        "\n".join(lines[-15:]),
    )


class _Api(docker.APIClient):
    """An engine that answers no more is what the user can mend, whatever it was asked for."""

    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        try:
            return super().send(*arguments, **options)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise VirtrootError(
                f"the Docker engine answers no more {endpoint()}",
                "see the engine's log, then run the task again",
                str(error),
                where=Phase.ENGINE,
            ) from error


def _client(timeout: int = 120) -> docker.DockerClient:
    return docker.DockerClient(base_url=endpoint().url, timeout=timeout)


def connect() -> Engine:
    """Reach the engine, or raise `VirtrootError` saying how to get one."""
    where = endpoint()
    try:
        client = _client()
        client.ping()
        client.close()
        client.api = _Api(base_url=where.url, timeout=client.api.timeout, version=client.api.api_version)
    except (DockerException, requests.RequestException) as error:
        raise VirtrootError(
            f"no Docker engine answers {where}", "run ./inv setup to install and start one, or set DOCKER_HOST"
        ) from error
    return Engine(client)


def answers() -> bool:
    """Say whether an engine answers."""
    try:
        connect()
    except VirtrootError:
        return False
    return True

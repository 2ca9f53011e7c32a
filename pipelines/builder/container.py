"""The builder: a container in which one root is made, and which does not outlive the task."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO

from pipelines.artifact import archive
from pipelines.builder.inputs import Inputs
from pipelines.engine import images
from pipelines.engine.engine import Container, Engine, Sink
from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.host.trees import Packed
from pipelines.recipe.distros import Distro
from pipelines.recipe.stage import CACHE, ROOT, Command, Tree
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.settings import Settings
from pipelines.target.target import InContainer

_GIB = 1 << 30

#: A root with a desktop and its packages unpacks to less than that; on a smaller machine disk is used.
_TMPFS_LEAST = 4 * _GIB

_WORK = ROOT.rpartition("/")[0]

#: What builders of a build are there for, which holds the recipe's lock: with the packages' cache, or without it.
WITH_CACHE, APART = "build", "apart"


@dataclass(frozen=True)
class Builder:
    """A running builder; ``env`` goes to every command."""

    container: Container
    env: Mapping[str, str]

    @property
    def target(self) -> InContainer:
        """The builder as a place where commands run."""
        return InContainer(self.container)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Completed:
        """Run ``argv`` in the builder; see `Container.run`."""
        return self.container.run(
            argv,
            stdin=stdin,
            env={**self.env, **(env or {})},
            check=check,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
            limit=limit,
        )

    def set_up(self, step: Command | Tree, trees: Mapping[Tree, Packed]) -> None:
        """Carry out one step of a plan's builder set-up; ``trees`` has the packed trees."""
        if isinstance(step, Tree):
            self.run(("mkdir", "-p", step.builder))
            self.run(("tar", "--extract", "--file=-", "--directory", step.builder), stdin=trees[step].open())
        else:
            self.run(step.full_argv, env=dict(step.env))


def image(engine: Engine, distro: Distro, settings: Settings, made_since: datetime | None = None) -> tuple[str, str]:
    """Return tag and digest of the builder's image, made when missing or older than ``made_since`` or the settings."""
    since = made_since or images.since(settings.image_max_age)
    base = images.base(engine, settings.base, distro.base_image, distro.base_suite, made_since=since)
    return images.built(engine, distro.containerfile, base, made_since=since)


def cache_volume(inputs: Inputs, settings: Settings) -> str:
    """Return the volume that keeps packages for ``inputs``, built by one output directory.

    Scripts of installed packages can reach it. So what was installed unchecked, or checked with other keys, has one of
    its own.
    """
    keyrings = [packed.digest for tree, packed in inputs.trees.items() if tree.kind == "keyring"]
    if inputs.recipe.siglevel == "required" and not keyrings:
        return f"virtroot-cache-{inputs.name}-{settings.key}"
    trust = hashlib.sha256("\0".join([inputs.recipe.siglevel, *keyrings]).encode()).hexdigest()
    return f"virtroot-cache-{inputs.name}-{settings.key}-{trust[:8]}"


def remove_left(engine: Engine, name: str, settings: Settings) -> None:
    """Remove the builders that a killed build of the recipe ``name`` left; the caller holds the recipe's lock."""
    for purpose in (WITH_CACHE, APART):
        engine.remove_containers(_labels(name, purpose, settings))
    remove_contained(engine, name, settings)


def remove_contained(engine: Engine, name: str, settings: Settings) -> None:
    """Remove the containers that a killed task for ``name`` made of a root, and their images."""
    mark = container_mark(name, settings)
    engine.remove_containers(mark)
    engine.remove_untagged(labels=mark)


def container_mark(name: str, settings: Settings) -> dict[str, str]:
    """Return the label of containers and images that are made of roots for ``name``."""
    return {"virtroot.root": hashlib.sha256(f"{name}\0{settings.key}".encode()).hexdigest()[:16]}


def of_output(settings: Settings) -> dict[str, str]:
    """Return the labels of all that belongs to one output directory on an engine that several of them may use."""
    return {"virtroot.key": settings.key, "virtroot.output": str(settings.output_dir)}


def _labels(name: str, purpose: str, settings: Settings) -> dict[str, str]:
    return {**of_output(settings), "virtroot.recipe": name, "virtroot.purpose": purpose}


@contextmanager
def builder(
    engine: Engine,
    image: str,
    name: str,
    settings: Settings,
    purpose: str,
    *,
    capabilities: Sequence[str] = (),
    cache: str = "",
    owner: str = "",
    shared: bool = False,
) -> Iterator[Builder]:
    """Run a builder for the recipe ``name`` and remove it afterwards, first of all one that a killed task left.

    ``cache`` is a volume to mount; what runs in the builder can write to it. The caller holds the lock for ``purpose``
    and ``name``, so a builder of the same output directory is a stale one; those of other checkouts have other names.
    ``owner`` says who else may end this one. What is in a ``shared`` one's root can be reached from an `unpacker` too.
    It ends with this process, however that does.
    """
    labels = _labels(name, purpose, settings)
    engine.remove_containers(labels)
    called = f"virtroot-{purpose}-{name}-{settings.key}"
    tmpfs = _tmpfs(engine, settings.workspace)
    workspace = _workspace(name, settings) if shared else ""
    if workspace:
        with suppress(VirtrootError):
            engine.remove_volume(workspace)
    container = engine.start(
        image,
        name=called,
        labels={**labels, "virtroot.owner": owner},
        volumes={**({cache: CACHE} if cache else {}), **({workspace: _WORK} if workspace else {})},
        capabilities=capabilities,
        # Docker's defaults for a tmpfs would keep bootstrappers from making devices and running what they unpack.
        tmpfs={} if shared or not tmpfs else {_WORK: f"rw,exec,suid,dev,{tmpfs}"},
        in_memory={workspace: tmpfs} if shared and tmpfs else {},
        hostname=BUILD_NAME,
        niced=True,
        tied=True,
    )
    try:
        container.run(["mkdir", "-p", ROOT])
        yield Builder(container, {})
    finally:
        container.remove()
        if workspace:
            engine.remove_volume(workspace)


@contextmanager
def unpacker(engine: Engine, image: str, name: str, settings: Settings) -> Iterator[Builder]:
    """Run a container with the root of the shared builder of ``name``, for which the builder lasts.

    The kernel lets only CAP_SYS_ADMIN write security labels, and read or write trusted.*; whoever has that could leave
    the container: so no program of the root ever runs in this one.
    """
    labels = _labels(name, "unpack", settings)
    engine.remove_containers(labels)
    called = f"virtroot-unpack-{name}-{settings.key}"
    container = engine.start(
        image,
        name=called,
        labels=labels,
        volumes={_workspace(name, settings): _WORK},
        capabilities=("SYS_ADMIN",),
        hostname="unpacker",
        niced=True,
        tied=True,
        proxied=False,
    )
    try:
        yield Builder(container, {})
    finally:
        container.remove()


def _workspace(name: str, settings: Settings) -> str:
    return f"virtroot-import-{name}-{settings.key}"


def copy_root(source: Builder, destination: Builder) -> None:
    """Copy the root under construction from one builder into another."""
    pack = ("tar", "--create", "--file=-", "--directory", ROOT, *archive.KEEP, ".")
    unpack = ("tar", "--extract", "--file=-", "--directory", ROOT, *archive.KEEP, "--preserve-permissions")
    piped(lambda sink: source.run(pack, stdout=sink), lambda pipe: destination.run(unpack, stdin=pipe))


def piped(write: Callable[[Sink], object], read: Callable[[IO[bytes]], object]) -> None:
    """Let ``read`` read what ``write`` hands its sink, side by side; raises what came first of what they raise."""
    read_end, write_end = os.pipe()
    failures: list[VirtrootError] = []

    def fill() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            try:
                write(pipe.write)
            except VirtrootError as error:
                failures.append(error)

    with ThreadPoolExecutor(1) as pool, os.fdopen(read_end, "rb") as pipe:
        filling = pool.submit(fill)
        try:
            read(pipe)
        except VirtrootError as error:
            failures.append(error)
            pipe.close()
        filling.result()
    if failures:
        # The one that came first is the reason of the other.
        raise failures[0]


def _tmpfs(engine: Engine, workspace: str) -> str:
    """Return the options of the tmpfs to work on: half the available memory for ``auto``, where that is enough."""
    if workspace == "disk":
        return ""
    size = workspace.partition(":")[2]
    if not size:
        half = engine.memory() // 2
        if half < _TMPFS_LEAST:
            return ""
        size = str(half)
    return f"mode=755,size={size}"

"""The builder: a container in which one root is built. It does not outlive the task."""

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

#: The minimum size of a tmpfs in bytes; a root with a desktop and its packages needs less. With less memory, the
#: builder works on disk.
_MIN_TMPFS = 4 * _GIB

_WORK = ROOT.rpartition("/")[0]

#: The purposes of builders of a build, which holds the recipe's lock: with the volume of downloads, or without it.
WITH_CACHE, APART = "build", "apart"


@dataclass(frozen=True)
class Builder:
    """A running builder; every command gets the environment variables ``env``."""

    container: Container
    env: Mapping[str, str]

    @property
    def target(self) -> InContainer:
        """The builder as a target."""
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
        """Run one step of a plan's builder set-up; ``trees`` has the packed trees."""
        if isinstance(step, Tree):
            self.run(("mkdir", "-p", step.builder))
            self.run(("tar", "--extract", "--file=-", "--directory", step.builder), stdin=trees[step].open())
        else:
            self.run(step.full_argv, env=dict(step.env))


def ensure_image(
    engine: Engine, distro: Distro, settings: Settings, made_since: datetime | None = None
) -> tuple[str, str]:
    """Return tag and digest of the builder's image; build it if it is missing or too old.

    It is too old if it was built before ``made_since`` or, without that, before the setting ``image_max_age``.
    """
    since = made_since or images.compute_oldest(settings.image_max_age)
    base = images.ensure_base(engine, settings.base, distro.base_image, distro.base_suite, made_since=since)
    return images.ensure_built(engine, distro.containerfile, base, made_since=since)


def get_cache_volume(inputs: Inputs, settings: Settings) -> str:
    """Return the name of the volume with downloaded packages for ``inputs`` and this output directory.

    Scripts of installed packages can write to it. So builds that do not check signatures, or check them with other
    keys, use volumes of their own.
    """
    keyrings = [packed.digest for tree, packed in inputs.trees.items() if tree.kind == "keyring"]
    if inputs.recipe.siglevel == "required" and not keyrings:
        return f"virtroot-cache-{inputs.name}-{settings.key}"
    trust = hashlib.sha256("\0".join([inputs.recipe.siglevel, *keyrings]).encode()).hexdigest()
    return f"virtroot-cache-{inputs.name}-{settings.key}-{trust[:8]}"


def remove_leftovers(engine: Engine, name: str, settings: Settings) -> None:
    """Remove the builders of a killed build of the recipe ``name``; the caller holds the recipe's lock."""
    for purpose in (WITH_CACHE, APART):
        engine.remove_containers(_labels(name, purpose, settings))
    remove_root_containers(engine, name, settings)


def remove_root_containers(engine: Engine, name: str, settings: Settings) -> None:
    """Remove the containers and images that a killed task for ``name`` made from a root."""
    mark = make_root_labels(name, settings)
    engine.remove_containers(mark)
    engine.remove_untagged(labels=mark)


def make_root_labels(name: str, settings: Settings) -> dict[str, str]:
    """Return the labels of containers and images that are made from roots for ``name``."""
    return {"virtroot.root": hashlib.sha256(f"{name}\0{settings.key}".encode()).hexdigest()[:16]}


def make_output_labels(settings: Settings) -> dict[str, str]:
    """Return the labels of everything that belongs to one output directory; several may share an engine."""
    return {"virtroot.key": settings.key, "virtroot.output": str(settings.output_dir)}


def _labels(name: str, purpose: str, settings: Settings) -> dict[str, str]:
    return {**make_output_labels(settings), "virtroot.recipe": name, "virtroot.purpose": purpose}


@contextmanager
def run_builder(
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
    """Run a builder for the recipe ``name``, and remove it afterwards.

    A builder that a killed task left behind is removed first. The caller holds the lock for ``purpose`` and ``name``,
    so any builder with these labels is a leftover; those of other checkouts have other labels.
    ``cache`` is a volume to mount; programs in the builder can write to it. ``owner`` is a label by which another task
    may remove the builder. With ``shared``, `run_unpacker` can access the root. The builder ends with this process,
    even if that is killed.
    """
    labels = _labels(name, purpose, settings)
    engine.remove_containers(labels)
    called = f"virtroot-{purpose}-{name}-{settings.key}"
    tmpfs = _choose_tmpfs(engine, settings.workspace)
    workspace = _name_workspace(name, settings) if shared else ""
    if workspace:
        with suppress(VirtrootError):
            engine.remove_volume(workspace)
    container = engine.start(
        image,
        name=called,
        labels={**labels, "virtroot.owner": owner},
        volumes={**({cache: CACHE} if cache else {}), **({workspace: _WORK} if workspace else {})},
        capabilities=capabilities,
        # With Docker's default options for a tmpfs, bootstrappers could not create devices and run unpacked programs.
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
def run_unpacker(engine: Engine, image: str, name: str, settings: Settings) -> Iterator[Builder]:
    """Run a container with access to the root of the shared builder of ``name``, which must be running.

    Writing security labels, and access to trusted.* attributes, requires CAP_SYS_ADMIN. A program with that capability
    could leave the container. So no program of the root runs in this one.
    """
    labels = _labels(name, "unpack", settings)
    engine.remove_containers(labels)
    called = f"virtroot-unpack-{name}-{settings.key}"
    container = engine.start(
        image,
        name=called,
        labels=labels,
        volumes={_name_workspace(name, settings): _WORK},
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


def _name_workspace(name: str, settings: Settings) -> str:
    return f"virtroot-import-{name}-{settings.key}"


def copy_root(source: Builder, destination: Builder) -> None:
    """Copy the root from one builder to another."""
    pack = ("tar", "--create", "--file=-", "--directory", ROOT, *archive.KEEP, ".")
    unpack = ("tar", "--extract", "--file=-", "--directory", ROOT, *archive.KEEP, "--preserve-permissions")
    run_piped(lambda sink: source.run(pack, stdout=sink), lambda pipe: destination.run(unpack, stdin=pipe))


def run_piped(write: Callable[[Sink], object], read: Callable[[IO[bytes]], object]) -> None:
    """Run ``write`` and ``read`` in parallel, connected by a pipe. Raises the first error of either."""
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
        # The first error caused the second one.
        raise failures[0]


def _choose_tmpfs(engine: Engine, workspace: str) -> str:
    """Return the options of the builder's tmpfs, empty for disk. ``auto`` is half of the available memory, or disk."""
    if workspace == "disk":
        return ""
    size = workspace.partition(":")[2]
    if not size:
        half = engine.memory() // 2
        if half < _MIN_TMPFS:
            return ""
        size = str(half)
    return f"mode=755,size={size}"

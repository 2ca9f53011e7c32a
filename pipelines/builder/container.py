"""The builder: a container in which one root is made, and which does not outlive the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from pipelines.host.engine import Container, Engine, Sink
from pipelines.host.process import Completed
from pipelines.host.target import InContainer
from pipelines.recipe.stage import CACHE, ROOT, Command, Tree
from pipelines.settings import Settings

_GIB = 1 << 30

#: A root with a desktop and its packages unpacks to less than that; on a smaller machine disk is used.
_TMPFS_LEAST = 4 * _GIB

_WORK = ROOT.rpartition("/")[0]


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
    ) -> Completed:
        """Run ``argv`` in the builder; see `Container.run`."""
        return self.container.run(
            argv, stdin=stdin, env={**self.env, **(env or {})}, check=check, stdout=stdout, stderr=stderr
        )

    def carry_out(self, item: Command | Tree, trees: Mapping[Tree, bytes]) -> None:
        """Carry out one step of a plan's ``prepare``; ``trees`` has the packed trees."""
        if isinstance(item, Tree):
            self.run(("mkdir", "-p", item.builder))
            self.run(("tar", "--extract", "--file=-", "--directory", item.builder), stdin=trees[item])
        else:
            self.run(item.full_argv, env=dict(item.env))


@contextmanager
def builder(
    engine: Engine, image: str, name: str, settings: Settings, purpose: str, capabilities: Sequence[str] = ()
) -> Iterator[Builder]:
    """Run a builder for the recipe ``name`` and remove it afterwards, first of all one that a killed task left.

    The caller holds the lock for ``purpose`` and ``name``, so a builder of the same output directory is a stale one. A
    builder of another checkout is at work, on the same package cache: that is an error.
    """
    labels = {"virtroot.recipe": name, "virtroot.purpose": purpose, "virtroot.output": str(settings.output_dir)}
    engine.remove_containers(labels)
    container = engine.start(
        image,
        name=f"virtroot-{purpose}-{name}",
        labels=labels,
        # Long enough for any build; a builder whose task was killed and never run again ends by itself.
        argv=["sleep", "4h"],
        volumes={f"virtroot-cache-{name}": CACHE},
        capabilities=capabilities,
        tmpfs=_tmpfs(engine, settings.workspace),
        hostname="builder",
    )
    try:
        container.run(["mkdir", "-p", ROOT])
        yield Builder(container, {})
    finally:
        container.remove()


def _tmpfs(engine: Engine, workspace: str) -> dict[str, str]:
    """Return the tmpfs to work on: half the available memory for ``auto``, where that is enough."""
    if workspace == "disk":
        return {}
    size = workspace.partition(":")[2]
    if not size:
        half = engine.memory() // 2
        if half < _TMPFS_LEAST:
            return {}
        size = str(half)
    # Docker's defaults for a tmpfs would keep bootstrappers from making devices and running what they unpack.
    return {_WORK: f"rw,exec,suid,dev,mode=755,size={size}"}

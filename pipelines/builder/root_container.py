"""A root as a container of its own, for programs that want more of a system than a chroot in a builder has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.builder.container import Builder, container_mark, piped, remove_contained
from pipelines.engine.engine import Engine
from pipelines.recipe.stage import ROOT
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.settings import Settings

#: What no program needs that deals with the system itself; the directories are there.
_LEFT_OUT = ("dev", "home", "media", "mnt", "opt", "root", "run", "srv", "tmp", "var/cache", "var/lib", "var/log")

#: What is taken back.
_KEPT = "boot"

_PACK = ("tar", "--create", "--file=-", "--directory")
_UNPACK = ("tar", "--extract", "--file=-", "--directory=/", "--keep-directory-symlink")


@contextmanager
def contained(engine: Engine, name: str, settings: Settings, builder: Builder) -> Iterator[Builder]:
    """Make a container of the root in ``builder``, with a container's /proc, /sys and /dev; take its /boot back.

    ``name`` is of the recipe or import, whose lock the caller holds. Programs run with a container's default
    capabilities: a root that mounts its own /proc would need CAP_SYS_ADMIN, which a program of a stranger's may not
    have. Raises `VirtrootError` where the root makes no container.
    """
    remove_contained(engine, name, settings)
    mark = container_mark(name, settings)
    exclude = [f"--exclude=./{path}/*" for path in _LEFT_OUT]
    pack = (*_PACK, ROOT, "--numeric-owner", "--anchored", *exclude, ".")
    images: list[str] = []
    piped(
        lambda sink: builder.run(pack, stdout=sink),
        lambda pipe: images.append(engine.import_root(pipe, mark)),
    )
    try:
        container = engine.start(images[0], labels=mark, hostname=BUILD_NAME, niced=True, tied=True, proxied=False)
        try:
            yield Builder(container, builder.env)
            piped(
                lambda sink: container.run((*_PACK, "/", "--numeric-owner", _KEPT), stdout=sink),
                # Inside the root, so that no link in it is followed out of it.
                lambda pipe: builder.run(("chroot", ROOT, *_UNPACK), stdin=pipe),
            )
        finally:
            container.remove()
    finally:
        engine.remove_untagged(images[0])

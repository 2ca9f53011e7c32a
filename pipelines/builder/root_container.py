"""A container made from a root, for programs that need more than a chroot in a builder, such as /proc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.builder.container import Builder, make_root_labels, remove_root_containers, run_piped
from pipelines.engine.engine import Engine
from pipelines.recipe.stage import ROOT
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.settings import Settings

#: Directories whose content is not copied to the container: no generator of an initramfs needs it.
_EXCLUDED = ("dev", "home", "media", "mnt", "opt", "root", "run", "srv", "tmp", "var/cache", "var/lib", "var/log")

#: The directory that is copied back to the root.
_KEPT = "boot"

_PACK = ("tar", "--create", "--file=-", "--directory")
_UNPACK = ("tar", "--extract", "--file=-", "--directory=/", "--keep-directory-symlink")


@contextmanager
def run_container(engine: Engine, name: str, settings: Settings, builder: Builder) -> Iterator[Builder]:
    """Run a container made from the root in ``builder``, with its own /proc, /sys and /dev; copy its /boot back.

    ``name`` is that of the recipe or import, whose lock the caller holds. Programs run with a container's default
    capabilities. To mount /proc in the builder would need CAP_SYS_ADMIN, which a stranger's program must not have.
    Raises VirtrootError if no container can be made from the root.
    """
    remove_root_containers(engine, name, settings)
    mark = make_root_labels(name, settings)
    exclude = [f"--exclude=./{path}/*" for path in _EXCLUDED]
    pack = (*_PACK, ROOT, "--numeric-owner", "--anchored", *exclude, ".")
    images: list[str] = []
    run_piped(
        lambda sink: builder.run(pack, stdout=sink),
        lambda pipe: images.append(engine.import_root(pipe, mark)),
    )
    try:
        container = engine.start(images[0], labels=mark, hostname=BUILD_NAME, niced=True, tied=True, proxied=False)
        try:
            yield Builder(container, builder.env)
            run_piped(
                lambda sink: container.run((*_PACK, "/", "--numeric-owner", _KEPT), stdout=sink),
                # Unpack in a chroot, so that a link in the root cannot lead out of it.
                lambda pipe: builder.run(("chroot", ROOT, *_UNPACK), stdin=pipe),
            )
        finally:
            container.remove()
    finally:
        engine.remove_untagged(images[0])

"""The pacman repository for tests; see README.md."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker

from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.engine.engine import Container
from pipelines.host.trees import archive
from pipelines.recipe.distros import DISTROS

HERE = Path(__file__).parent
NAME = "virtroot-test-mirror"

#: Files that stand in for booster's package; see README.md.
STAND_IN_BOOSTER = HERE / "booster"

#: Environment variables that may each name a pacman package file to be added to the repository; see README.md.
MKINITCPIO = "MKINITCPIO_PACKAGE"
BOOSTER = "BOOSTER_PACKAGE"


@dataclass(frozen=True)
class Repository:
    """The repository being served."""

    address: str
    container: Container

    def url(self, kind: str) -> str:
        """Return the mirror address of ``good``, ``tampered``, ``unsigned``, ``renewed`` or ``archive/Y/M/D``."""
        return f"http://{self.address}/{kind}/$repo/os/$arch"

    @contextmanager
    def without(self, kind: str) -> Iterator[None]:
        """Serve the repository ``kind`` no more, as a mirror that moved on."""
        self.container.run(["mv", f"/srv/{kind}", f"/srv/.{kind}"])
        try:
            yield
        finally:
            self.container.run(["mv", f"/srv/.{kind}", f"/srv/{kind}"])

    def file(self, name: str) -> bytes:
        """Return a file of the repository, by its path."""
        return self.container.run(["cat", f"/srv/{name}"]).stdout


@contextmanager
def serve(base: str) -> Iterator[Repository]:
    """Make the repository, where it is not made yet, and serve it to the containers of this engine."""
    engine = engines.connect()
    arch = DISTROS["arch"]
    base_tag = images.ensure_base(engine, base, arch.base_image, arch.base_suite)
    builder, identity = images.ensure_built(engine, arch.containerfile, base_tag)
    placeholder = [path for path in STAND_IN_BOOSTER.rglob("*") if path.is_file()]
    ours = (HERE / "Containerfile", HERE / "make-repository", *placeholder)
    files = {path.relative_to(HERE).as_posix(): path.read_bytes() for path in ours}
    packages = [Path(package) for variable in (MKINITCPIO, BOOSTER) if (package := os.environ.get(variable))]
    files |= {f"extra/{package.name}": package.read_bytes() for package in packages} or {"extra/none": b""}
    digest = hashlib.sha256(identity.encode() + b"".join(files[name] for name in sorted(files))).hexdigest()[:16]
    tag = f"virtroot/test-mirror:{digest}"
    if not engine.image_id(tag):
        engine.build_image(archive(files), tag, {"BASE": builder})
    engine.remove_container(NAME)
    container = engine.start(tag, name=NAME, labels={"virtroot.purpose": "test-mirror"})
    try:
        network = docker.from_env().containers.get(container.id).attrs["NetworkSettings"]
        yield Repository(network["IPAddress"] or network["Networks"]["bridge"]["IPAddress"], container)
    finally:
        container.remove()

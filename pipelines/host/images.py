"""The images virtroot runs: a base from a registry or the distribution's mirror, and what is built on it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.host.engine import Engine
from pipelines.host.trees import archive
from pipelines.log import step
from pipelines.settings import CHECKOUT

_CONTAINERFILES = CHECKOUT / "containerfiles"


def context_files(name: str, extra: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the build context of ``containerfiles/NAME.Containerfile``: it, and the folder NAME beside it."""
    files = {"Containerfile": (_CONTAINERFILES / f"{name}.Containerfile").read_bytes()}
    for path in sorted((_CONTAINERFILES / name).glob("*")):
        files[f"{name}/{path.name}"] = path.read_bytes()
    return {**files, **(extra or {})}


def base(engine: Engine, source: str, image: str, suite: str, *, max_age: int = 0, refresh: bool = False) -> str:
    """Return the tag of a base image, made when missing.

    ``source`` is ``registry`` (pull ``image``), ``mirror`` (bootstrap ``suite`` here and import it) or ``auto`` (the
    mirror where no registry answers).
    """
    tag = f"virtroot/base-{source}:{image.replace(':', '-')}"
    if engine.image_id(tag):
        return tag
    if source == "registry" or (source == "auto" and engine.registry_has(image)):
        with step(f"pulling {image}"):
            engine.pull(image, tag)
    else:
        with step(f"bootstrapping a base image of {suite}"):
            _import_from_mirror(engine, suite, tag)
    return tag


def mirror_tool_missing() -> bool:
    """Say whether a base image cannot be made from the mirror here."""
    return not process.found("mmdebstrap")


def _import_from_mirror(engine: Engine, suite: str, tag: str) -> None:
    if mirror_tool_missing():
        raise VirtrootError(
            "no image registry answers, and mmdebstrap is not here to make the base image from the mirror",
            "run ./inv setup, or install the package mmdebstrap",
        )
    with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
        tarball = Path(scratch) / "base.tar"
        process.run(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", suite, str(tarball)])
        engine.import_image(tarball, tag)


def built(
    engine: Engine,
    name: str,
    base_tag: str,
    extra: Mapping[str, bytes] | None = None,
    *,
    max_age: int = 0,
    refresh: bool = False,
) -> tuple[str, str]:
    """Return the tag and digest of ``containerfiles/NAME.Containerfile`` on ``base_tag``, built when it is not there.

    The tag carries a hash of all that goes in, so that a changed file is a new image.
    """
    files = context_files(name, extra)
    digest = hashlib.sha256((engine.image_id(base_tag) or "").encode())
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
    tag = f"virtroot/{name}:{digest.hexdigest()[:16]}"
    if not engine.image_id(tag):
        with step(f"building the image of {name}"):
            engine.build_image(archive(files), tag, {"BASE": base_tag})
    identity = engine.image_id(tag)
    if identity is None:
        raise VirtrootError(f"the image {tag} vanished while it was used", "run the task again")
    return tag, identity

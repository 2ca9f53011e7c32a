"""The images that virtroot runs: base images from a registry or the distribution's mirror, and images built on them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.engine.engine import LABEL, Engine
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.host.trees import archive
from pipelines.log import step, warn
from pipelines.project import PROGRAM

_CONTAINERFILES = PROGRAM / "containerfiles"


def context_files(name: str, extra: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the build context of ``containerfiles/NAME.Containerfile``: the file, and the folder NAME next to it."""
    files = {"Containerfile": (_CONTAINERFILES / f"{name}.Containerfile").read_bytes()}
    for path in sorted((_CONTAINERFILES / name).glob("*")):
        files[f"{name}/{path.name}"] = path.read_bytes()
    return {**files, **(extra or {})}


def compute_oldest(max_age: int) -> datetime:
    """Return the oldest allowed time of an image for a maximum age in days; 0 allows any age."""
    return datetime.now(UTC) - timedelta(days=max_age) if max_age else datetime.min.replace(tzinfo=UTC)


def get_base_tag(source: str, image: str) -> str:
    """Return the tag of the base image of `ensure_base`."""
    return f"virtroot/base-{source}:{image.replace(':', '-')}"


def ensure_base(engine: Engine, source: str, image: str, suite: str, *, made_since: datetime | None = None) -> str:
    """Return the tag of a base image; make it if it is missing or older than ``made_since``.

    ``source`` is ``registry`` (pull ``image``), ``mirror`` (bootstrap ``suite`` here and import it) or ``auto`` (the
    mirror if no registry answers). If an old image cannot be made again, it is used with a warning.
    """
    tag = get_base_tag(source, image)

    def make() -> None:
        if source == "registry" or (source == "auto" and engine.registry_has(image)):
            with step(f"pulling {image}"):
                engine.pull(image, tag)
        else:
            with step(f"bootstrapping a base image of {suite}"):
                _import_from_mirror(engine, suite, tag)

    there = engine.image(tag)
    if there is None or (made_since and there.made < made_since):
        _build(engine, tag, make)
    return tag


def _build(engine: Engine, tag: str, make: Callable[[], None]) -> None:
    """Make an image with ``make``. If that fails, keep the existing one with a warning; otherwise remove that one."""
    before = engine.image(tag)
    try:
        make()
    except VirtrootError as error:
        if before is None:
            raise
        warn(f"{error.what}; using the image {tag} of {before.made:%Y-%m-%d}")
        return
    if before and before.id != engine.image_id(tag):
        engine.remove_untagged(before.id)


def is_mirror_tool_missing() -> bool:
    """Return whether mmdebstrap, which makes base images from a mirror, is not installed."""
    return not process.is_installed("mmdebstrap")


def _import_from_mirror(engine: Engine, suite: str, tag: str) -> None:
    if is_mirror_tool_missing():
        raise VirtrootError(
            "no image registry answers, and mmdebstrap, which makes the base image from a mirror, is not installed",
            "run ./inv setup, or install the package mmdebstrap",
        )
    with tempfile.TemporaryDirectory(prefix="virtroot-") as scratch:
        tarball = Path(scratch) / "base.tar"
        process.run(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", suite, str(tarball)])
        engine.import_image(tarball, tag)


def ensure_built(
    engine: Engine,
    name: str,
    base_tag: str,
    extra: Mapping[str, bytes] | None = None,
    *,
    made_since: datetime | None = None,
) -> tuple[str, str]:
    """Return tag and digest of the image of ``containerfiles/NAME.Containerfile`` on ``base_tag``; build it if needed.

    The tag contains a hash of the files, so that a changed file gives a new image. The image is built if it is missing,
    older than ``made_since``, or based on an older ``base_tag``. If that fails, the old one is used with a warning.
    """
    files = context_files(name, extra)
    digest = hashlib.sha256(base_tag.encode())
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
    tag = f"virtroot/{name}:{digest.hexdigest()[:16]}"
    labels = {f"{LABEL}.base": engine.image_id(base_tag) or ""}

    def make() -> None:
        with step(f"building the image of {name}"):
            engine.build_image(archive(files), tag, {"BASE": base_tag}, {**labels, f"{LABEL}.tag": tag})
        # Remove earlier images that were still in use when they were replaced.
        engine.remove_untagged(labels={f"{LABEL}.tag": tag})

    there = engine.image(tag)
    if there is None or not labels.items() <= there.labels.items() or (made_since and there.made < made_since):
        _build(engine, tag, make)
    identity = engine.image_id(tag)
    if identity is None:
        raise VirtrootError(f"image {tag} was removed during its use", "run the task again")
    return tag, identity

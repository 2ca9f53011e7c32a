"""The images virtroot runs: a base from a registry or the distribution's mirror, and what is built on it."""

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
from pipelines.settings import CHECKOUT

_CONTAINERFILES = CHECKOUT / "containerfiles"


def context_files(name: str, extra: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the build context of ``containerfiles/NAME.Containerfile``: it, and the folder NAME beside it."""
    files = {"Containerfile": (_CONTAINERFILES / f"{name}.Containerfile").read_bytes()}
    for path in sorted((_CONTAINERFILES / name).glob("*")):
        files[f"{name}/{path.name}"] = path.read_bytes()
    return {**files, **(extra or {})}


def since(max_age: int) -> datetime:
    """Return when an image that is ``max_age`` days old was made; 0 days is for images of any age."""
    return datetime.now(UTC) - timedelta(days=max_age) if max_age else datetime.min.replace(tzinfo=UTC)


def base_tag(source: str, image: str) -> str:
    """Return the tag of the base image that `base` makes."""
    return f"virtroot/base-{source}:{image.replace(':', '-')}"


def base(engine: Engine, source: str, image: str, suite: str, *, made_since: datetime | None = None) -> str:
    """Return the tag of a base image, made when missing, and anew when it was made before ``made_since``.

    ``source`` is ``registry`` (pull ``image``), ``mirror`` (bootstrap ``suite`` here and import it) or ``auto`` (the
    mirror where no registry answers). What cannot be made anew is used as it is, with a warning.
    """
    tag = base_tag(source, image)

    def make() -> None:
        if source == "registry" or (source == "auto" and engine.registry_has(image)):
            with step(f"pulling {image}"):
                engine.pull(image, tag)
        else:
            with step(f"bootstrapping a base image of {suite}"):
                _import_from_mirror(engine, suite, tag)

    there = engine.image(tag)
    if there is None or (made_since and there.made < made_since):
        _make(engine, tag, make)
    return tag


def _make(engine: Engine, tag: str, make: Callable[[], None]) -> None:
    """Make an image; one that is there already serves on where that fails, and goes where that succeeds."""
    before = engine.image(tag)
    try:
        make()
    except VirtrootError as error:
        if before is None:
            raise
        warn(f"{error.what}; the image {tag} of {before.made:%Y-%m-%d} is used")
        return
    if before and before.id != engine.image_id(tag):
        engine.remove_untagged(before.id)


def mirror_tool_missing() -> bool:
    """Say whether a base image cannot be made from the mirror here."""
    return not process.is_installed("mmdebstrap")


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
    made_since: datetime | None = None,
) -> tuple[str, str]:
    """Return the tag and digest of ``containerfiles/NAME.Containerfile`` on ``base_tag``, built when it is not there.

    The tag carries a hash of the files that go in, so that a changed file is a new image. It is built anew when it was
    made before ``made_since`` or on another base than ``base_tag`` now is; where that fails the older one is used, with
    a warning.
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
        # Those before it that something still used when it was their turn.
        engine.remove_untagged(labels={f"{LABEL}.tag": tag})

    there = engine.image(tag)
    if there is None or not labels.items() <= there.labels.items() or (made_since and there.made < made_since):
        _make(engine, tag, make)
    identity = engine.image_id(tag)
    if identity is None:
        raise VirtrootError(f"the image {tag} vanished while it was used", "run the task again")
    return tag, identity

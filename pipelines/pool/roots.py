"""Making a guest's root from an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.log import step
from pipelines.pool import base_trees, clone_methods
from pipelines.pool.base_trees import BaseTree, FindGuestsOn
from pipelines.target import subvolume
from pipelines.target.target import Target


@contextmanager
def make_root(
    target: Target, pool: str, artifact: Artifact, method: str, path: str, find_guests_on: FindGuestsOn
) -> Iterator[BaseTree | None]:
    """Make the root ``path`` in ``pool`` from ``artifact`` by ``method``, a clone method other than ``auto``.

    Yields the base tree that it was cloned from, or None, and holds its lock meanwhile. An overlay root is mounted.
    """
    if method == "copy":
        with step("checking the artifact"):
            artifact.refuse_damaged()
        with step("unpacking the root"):
            subvolume.make(target, path)
            with artifact.tarball.open("rb") as content:
                target.run(archive.unpack_argv(path), stdin=content)
        yield None
        return
    with base_trees.hold(target, pool, artifact, find_guests_on) as tree:
        with step(f"making the root: {clone_methods.DESCRIPTIONS[method]} of the base tree"):
            if method == "overlay":
                clone_methods.make_layer(target, tree, path)
            else:
                clone_methods.clone(target, method, tree.tree, path)
        yield tree

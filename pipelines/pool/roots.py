"""Making a guest's root of an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.log import step
from pipelines.pool import base_trees, clone_methods
from pipelines.pool.base_trees import BaseTree, LyingOn
from pipelines.target import subvolume
from pipelines.target.target import Target


@contextmanager
def root(
    target: Target, pool: str, artifact: Artifact, way: str, path: str, lying_on: LyingOn
) -> Iterator[BaseTree | None]:
    """Make the root ``path`` in ``pool`` of ``artifact`` by ``way``, one of `roots.WAYS` but ``auto``.

    Yields the golden tree that it was made from, if any, which stays meanwhile. A root of two layers is mounted.
    """
    if way == "copy":
        with step("checking the artifact"):
            artifact.refuse_damaged()
        with step("unpacking the root"):
            subvolume.make(target, path)
            with artifact.tarball.open("rb") as content:
                target.run(archive.unpack_argv(path), stdin=content)
        yield None
        return
    with base_trees.held(target, pool, artifact, lying_on) as tree:
        with step(f"making the root: {clone_methods.WORDS[way]} of the golden tree"):
            if way == "overlay":
                clone_methods.layer(target, tree, path)
            else:
                clone_methods.make(target, way, tree.tree, path)
        yield tree

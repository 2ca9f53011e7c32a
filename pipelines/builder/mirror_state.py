"""Queries a mirror for its state, in a small container without a root."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack

from pipelines.builder import container
from pipelines.builder.container import Builder
from pipelines.builder.inputs import Inputs
from pipelines.engine.engine import Engine
from pipelines.errors import Phase, VirtrootError
from pipelines.log import warn
from pipelines.recipe import mirror as mirrors
from pipelines.recipe.distros import Distro
from pipelines.recipe.mirror import MirrorState
from pipelines.recipe.plan import Surroundings
from pipelines.recipe.stage import Command, Tree
from pipelines.settings import Settings

#: Seconds until a mirror that did not answer is queried again.
_RETRY_AFTER = 300

#: The container for a query: its image, its set-up, and the digests of the trees that the set-up copies.
_SetUp = tuple[str, tuple[Command | Tree, ...], tuple[str, ...]]


class Asker:
    """Queries mirrors for any number of recipes, from any thread, and caches the answers.

    Recipes with the same builder image and set-up share a container; recipes with the same query share the answer.
    A mirror that did not answer is not queried again for some minutes, because a query may take a minute to fail.
    Leaving the context removes the containers. The caller holds a lock for ``owner``: containers with that label are
    those of a killed task, and are removed first. All containers end with this process.
    """

    def __init__(self, engine: Engine, settings: Settings, owner: str = "") -> None:
        self.engine, self.owner = engine, owner
        self._labels = {
            **container.make_output_labels(settings), "virtroot.purpose": "asking", "virtroot.owner": owner,
        }  # fmt: skip
        self._settings = settings
        self._images: dict[str, tuple[str, str]] = {}
        self._containers: dict[_SetUp, Builder] = {}
        self._answers: dict[tuple[_SetUp, Command], MirrorState] = {}
        self._silent: dict[tuple[_SetUp, Command], tuple[float, VirtrootError]] = {}
        self._turn = threading.RLock()
        self._open = ExitStack()

    def __enter__(self) -> Asker:
        if self._labels["virtroot.owner"]:
            self.engine.remove_containers(self._labels)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._open.close()
        except VirtrootError as error:
            # The containers end with this process anyway, and the answers are known.
            warn(f"cannot remove the containers for mirror queries: {error.what}")

    def image(self, distro: Distro) -> tuple[str, str]:
        """Return tag and digest of the builder's image; they do not change during the life of this object."""
        with self._turn:
            if distro.containerfile not in self._images:
                self._images[distro.containerfile] = container.ensure_image(self.engine, distro, self._settings)
            return self._images[distro.containerfile]

    def ask(self, inputs: Inputs, *, again: bool = False) -> MirrorState:
        """Return the state of the mirror of ``inputs``, from the cache unless ``again``.

        Raises VirtrootError if the mirror does not answer.
        """
        with self._turn:
            tag, _ = self.image(inputs.plan.distro)
            trees = [step for step in inputs.plan.builder_setup if isinstance(step, Tree)]
            set_up = (tag, inputs.plan.builder_setup, tuple(inputs.digests[tree] for tree in trees))
            question = (set_up, inputs.plan.mirror_query)
            if again or question not in self._answers:
                since, silence = self._silent.get(question, (0.0, None))
                if silence and time.monotonic() - since < _RETRY_AFTER:
                    raise silence
                try:
                    self._answers[question] = _query_mirror(self._get_builder(set_up, inputs), inputs)
                except VirtrootError as error:
                    self._silent[question] = (time.monotonic(), error)
                    raise
            return self._answers[question]

    def _get_builder(self, set_up: _SetUp, inputs: Inputs) -> Builder:
        there = self._containers.get(set_up)
        if there:
            return there
        started = self.engine.start(set_up[0], labels=self._labels, tied=True)
        self._open.callback(started.remove)
        builder = Builder(started, {})
        try:
            for step in inputs.plan.builder_setup:
                builder.set_up(step, inputs.trees)
        except VirtrootError as error:
            raise _make_error(inputs, str(error)) from error
        self._containers[set_up] = builder
        return builder


def get_surroundings(inputs: Inputs, asker: Asker, *, again: bool = False) -> Surroundings:
    """Return what a build of ``inputs`` depends on, in addition to its plan; see `Asker.ask` for ``again``."""
    _, digest = asker.image(inputs.plan.distro)
    mirror = asker.ask(inputs, again=again)
    return Surroundings(inputs.digests, digest, mirror, get_epoch(mirror))


def get_epoch(mirror: MirrorState) -> int:
    """Return the upper limit of file times: SOURCE_DATE_EPOCH, or the time of the mirror's newest change."""
    given = os.environ.get("SOURCE_DATE_EPOCH") or str(mirror.date)
    if not given.isdigit():
        raise VirtrootError(f"invalid SOURCE_DATE_EPOCH {given!r}", "set it to seconds since 1970, or unset it")
    return int(given)


def _query_mirror(builder: Builder, inputs: Inputs) -> MirrorState:
    query = inputs.plan.mirror_query
    answer = builder.run(query.full_argv, env=dict(query.env), check=False)
    if answer.returncode:
        raise _make_error(inputs, answer.complaint)
    try:
        return mirrors.parse(answer.text)
    except ValueError as error:
        raise _make_error(inputs, f"cannot parse its answer: {answer.text[:200]!r}") from error


def _make_error(inputs: Inputs, complaint: str) -> VirtrootError:
    snapshot = inputs.recipe.snapshot
    hint = "check the network and mirror: in the recipe; without mirror: the bootstrapper's default is used"
    if snapshot:
        hint = f"check the address {snapshot.mirror}, which is from the settings or the recipe"
    return VirtrootError(
        f"the package mirror for {inputs.recipe.distro} {inputs.recipe.release} does not answer",
        hint,
        complaint,
        where=Phase.MIRROR,
    )

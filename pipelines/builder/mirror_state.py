"""Asking the mirror what it offers, in a light container that has no root and runs nothing else."""

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

#: Seconds for which a mirror that did not answer is left alone.
_SILENCE = 300

#: Which builder is asked: its image, and how it was set up, with the digests of what was copied into it.
_SetUp = tuple[str, tuple[Command | Tree, ...], tuple[str, ...]]


class Asker:
    """Asks mirrors for any number of recipes, from any thread, and remembers what they said.

    Recipes with one builder image and one set-up share a container, and those that ask the same share the answer.
    A mirror that did not answer is not asked again for some minutes: each question may take a minute to fail.
    Leaving the context removes the containers. ``owner`` is what the caller holds a lock for: containers of that owner
    are a killed task's, and go first. All of them end with this process.
    """

    def __init__(self, engine: Engine, settings: Settings, owner: str = "") -> None:
        self.engine, self.owner = engine, owner
        self._labels = {
            **container.of_output(settings), "virtroot.purpose": "asking", "virtroot.owner": owner,
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
            # They end by themselves, and what was asked is known.
            warn(f"the containers that asked the mirror were not removed: {error.what}")

    def image(self, distro: Distro) -> tuple[str, str]:
        """Return tag and digest of the builder's image, which stay the same for as long as this asker lives."""
        with self._turn:
            if distro.containerfile not in self._images:
                self._images[distro.containerfile] = container.image(self.engine, distro, self._settings)
            return self._images[distro.containerfile]

    def ask(self, inputs: Inputs, *, again: bool = False) -> MirrorState:
        """Return what the mirror of ``inputs`` offers: as it said before, or with ``again`` as it says now.

        Raises `VirtrootError` where it does not answer.
        """
        with self._turn:
            tag, _ = self.image(inputs.plan.distro)
            trees = [step for step in inputs.plan.builder_setup if isinstance(step, Tree)]
            set_up = (tag, inputs.plan.builder_setup, tuple(inputs.digests[tree] for tree in trees))
            question = (set_up, inputs.plan.mirror_query)
            if again or question not in self._answers:
                since, silence = self._silent.get(question, (0.0, None))
                if silence and time.monotonic() - since < _SILENCE:
                    raise silence
                try:
                    self._answers[question] = _answer(self._builder(set_up, inputs), inputs)
                except VirtrootError as error:
                    self._silent[question] = (time.monotonic(), error)
                    raise
            return self._answers[question]

    def _builder(self, set_up: _SetUp, inputs: Inputs) -> Builder:
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
            raise _no_answer(inputs, str(error)) from error
        self._containers[set_up] = builder
        return builder


def surroundings(inputs: Inputs, asker: Asker, *, again: bool = False) -> Surroundings:
    """Return what a build of ``inputs`` depends on beside its plan; see `Asker.ask`."""
    _, digest = asker.image(inputs.plan.distro)
    mirror = asker.ask(inputs, again=again)
    return Surroundings(inputs.digests, digest, mirror, epoch(mirror))


def epoch(mirror: MirrorState) -> int:
    """Return what times are clamped to: the mirror's newest date unless the environment says another."""
    given = os.environ.get("SOURCE_DATE_EPOCH") or str(mirror.date)
    if not given.isdigit():
        raise VirtrootError(f"SOURCE_DATE_EPOCH is {given!r}", "give seconds since 1970, or unset it")
    return int(given)


def _answer(builder: Builder, inputs: Inputs) -> MirrorState:
    query = inputs.plan.mirror_query
    answer = builder.run(query.full_argv, env=dict(query.env), check=False)
    if answer.returncode:
        raise _no_answer(inputs, answer.complaint)
    try:
        return mirrors.parse(answer.text)
    except ValueError as error:
        raise _no_answer(inputs, f"its answer makes no sense: {answer.text[:200]!r}") from error


def _no_answer(inputs: Inputs, complaint: str) -> VirtrootError:
    snapshot = inputs.recipe.snapshot
    hint = "check the recipe's mirror: and the network; without mirror: the bootstrapper's own default is used"
    if snapshot:
        hint = f"see whether {snapshot.mirror} is there: the address is that of the setting, or of the recipe"
    return VirtrootError(
        f"the package mirror does not answer for {inputs.recipe.distro} {inputs.recipe.release}",
        hint,
        complaint,
        where=Phase.MIRROR,
    )

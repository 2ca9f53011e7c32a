"""The plan: a recipe resolved to stages, and the ids of builds. Builds with equal ids give the same bytes."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.errors import VirtrootError
from pipelines.recipe import generators
from pipelines.recipe.distros import DISTROS, Distro
from pipelines.recipe.generators import Generator
from pipelines.recipe.mirror import MirrorState
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Command, Stage, Tree


@dataclass(frozen=True)
class Plan:
    """The steps of a build."""

    recipe: Recipe
    distro: Distro
    generator: Generator
    builder_setup: tuple[Command | Tree, ...]
    stages: tuple[Stage, ...]
    mirror_query: Command

    @property
    def cmdline(self) -> str:
        """The guest kernel's command line."""
        return self.generator.cmdline

    @property
    def trees(self) -> tuple[Tree, ...]:
        """All trees that are copied into the builder or the root."""
        steps = (*self.builder_setup, *(step for stage in self.stages for step in stage.steps))
        return tuple(step for step in steps if isinstance(step, Tree))


def make_plan(recipe: Recipe, overlay_paths: tuple[str, ...] = ()) -> Plan:
    """Make the plan of ``recipe``; ``overlay_paths`` are the files of its overlay, relative to the root.

    Raises VirtrootError if the overlay lacks a program that the generator needs and that no package has.
    """
    distro, generator = DISTROS[recipe.distro], generators.get_generator(recipe)
    missing = [path for path in generator.unpackaged if path not in overlay_paths]
    if missing:
        raise VirtrootError(
            f"generator: {recipe.generator}: no package in {recipe.distro}, and {missing[0]} is missing in the overlay",
            f"add {' and '.join(generator.unpackaged)} to the recipe's overlay, or use another generator",
        )
    return Plan(
        recipe=recipe,
        distro=distro,
        generator=generator,
        builder_setup=distro.set_up_builder(recipe),
        stages=distro.stages(recipe, overlay_paths),
        mirror_query=distro.mirror_query(recipe),
    )


@dataclass(frozen=True)
class Surroundings:
    """What a build's bytes depend on, in addition to its plan.

    ``trees`` has the digest of the content of each of the plan's trees. ``builder_image`` is the digest of the
    builder's image. ``epoch`` is the upper limit of file times, in seconds since 1970.
    """

    trees: Mapping[Tree, str]
    builder_image: str
    mirror: MirrorState
    epoch: int

    def _as_data(self, steps: Iterable[Command | Tree]) -> dict[str, object]:
        return {
            "trees": [self.trees[step] for step in steps if isinstance(step, Tree)],
            "builder": self.builder_image,
            "mirror": asdict(self.mirror),
            "epoch": self.epoch,
        }


def compute_stage_ids(plan: Plan, surroundings: Surroundings) -> tuple[str, ...]:
    """Return the id of the root after each stage of the plan: a hash of everything that decides its bytes.

    Each id includes the one before it, so plans with the same first stages share their ids. The set-up of the builder
    is included: a root whose packages were installed without checking signatures must not serve a recipe that
    requires them.
    """
    setup = [asdict(step) for step in plan.builder_setup]
    before = _hash({"setup": setup, **surroundings._as_data(plan.builder_setup)})
    ids = []
    for stage in plan.stages:
        trees = [surroundings.trees[step] for step in stage.steps if isinstance(step, Tree)]
        before = _hash({"before": before, "stage": asdict(stage), "trees": trees})
        ids.append(before)
    return tuple(ids)


def compute_plan_id(plan: Plan, surroundings: Surroundings) -> str:
    """Return the id of a build: a hash of everything that decides the root's bytes.

    The keys ``guest`` and ``nightly`` are excluded because they do not change the root. ``snapshot`` is excluded
    because the stages contain its addresses.
    """
    return _hash(
        {
            "recipe": plan.recipe.model_dump(mode="json", exclude={"guest", "nightly", "snapshot"}),
            "stages": [asdict(stage) for stage in plan.stages],
            "setup": [asdict(step) for step in plan.builder_setup],
            **surroundings._as_data(plan.trees),
        }
    )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def as_data(plan: Plan) -> dict[str, Any]:
    """Return the plan as data for ``--json``."""
    return {
        "recipe": plan.recipe.model_dump(mode="json"),
        "cmdline": plan.cmdline,
        "kernel": plan.generator.kernel,
        "initrd": plan.generator.initrd,
        "stages": [{"name": stage.name, "steps": [asdict(step) for step in stage.steps]} for stage in plan.stages],
    }


def as_text(plan: Plan) -> str:
    """Return the plan as text: a block for each stage, a line for each step."""
    initramfs = f"initramfs by {plan.generator.name}" if plan.generator.initrd else "no initramfs"
    look = "list the initramfs" if plan.generator.initrd else "look for virtiofs in the kernel"
    lines = [
        f"{plan.recipe.distro} {plan.recipe.release}, {initramfs}",
        f"cmdline: {plan.cmdline}",
    ]
    if plan.recipe.snapshot:
        addresses = filter(None, (plan.recipe.snapshot.mirror, plan.recipe.snapshot.security_mirror))
        lines.append(f"snapshot: {plan.recipe.snapshot.time} from {' and '.join(addresses)}")
    if plan.builder_setup:
        lines += ["", "set up the builder", *(f"  {_format_step(step)}" for step in plan.builder_setup)]
    for stage in plan.stages:
        lines += ["", f"{stage.name}{'  (cached)' if stage.cached else ''}"]
        lines += [f"  {_format_step(step)}" for step in stage.steps] or ["  nothing to do"]
    lines += ["", "inspect", f"  {look}, check the rules of a virtiofs root", "", "pack", "  tar, zstd"]
    return "\n".join(lines)


def _format_step(step: Command | Tree) -> str:
    if isinstance(step, Tree):
        return f"copy {step.kind} {step.name}" + (f" to {step.builder}" if step.builder else "")
    where = "in a container of the root: " if step.contained else "in the root: " if step.chroot else ""
    return where + shlex.join([*(f"{key}={value}" for key, value in step.env), *step.argv])

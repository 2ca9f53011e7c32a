"""The plan: a recipe resolved to stages, and the ids that say when two builds would give the same bytes."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.errors import VirtrootError
from pipelines.recipe.generators import Generator
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Command, Stage, Tree


@dataclass(frozen=True)
class Plan:
    """What a build will do."""

    recipe: Recipe
    prepare: tuple[Command | Tree, ...]
    stages: tuple[Stage, ...]
    mirror_state: Command

    @property
    def cmdline(self) -> str:
        """The guest kernel's command line."""
        rdinit = f" rdinit=/{self.generator.rdinit}" if self.generator.rdinit else ""
        return f"root=root rootfstype=virtiofs rw console=ttyS0{rdinit}"

    @property
    def generator(self) -> Generator:
        """The row of the recipe's initramfs generator."""
        return self.recipe.initramfs

    @property
    def trees(self) -> tuple[Tree, ...]:
        """Every tree that is copied, into the builder or the root."""
        steps = (*self.prepare, *(step for stage in self.stages for step in stage.steps))
        return tuple(step for step in steps if isinstance(step, Tree))


def make_plan(recipe: Recipe, overlay_paths: tuple[str, ...] = ()) -> Plan:
    """Resolve ``recipe``; ``overlay_paths`` are the files of its overlay, relative to the root.

    Raises `VirtrootError` where the overlay lacks what no package brings.
    """
    missing = [path for path in recipe.initramfs.unpackaged if path not in overlay_paths]
    if missing:
        raise VirtrootError(
            f"generator: {recipe.generator}: {recipe.distro} has no package of it, and the overlay no {missing[0]}",
            f"put {' and '.join(recipe.initramfs.unpackaged)} into the recipe's overlay, or use another generator",
        )
    distro = recipe.distribution
    stages = distro.stages(recipe, overlay_paths)
    return Plan(recipe, distro.prepare(recipe), stages, distro.mirror_state(recipe))


def stage_id(plan: Plan, stage: Stage, *, trees: Mapping[Tree, str], builder: str, mirror_state: str) -> str:
    """Return the id of a stage that starts from nothing: what decides its bytes, hashed.

    How the builder was prepared counts: what was installed without checking signatures must not serve a recipe that
    asks for them.
    """
    return _digest(
        {
            "prepare": [asdict(step) for step in plan.prepare],
            "trees": [trees[step] for step in plan.prepare if isinstance(step, Tree)],
            "stage": asdict(stage),
            "builder": builder,
            "mirror": mirror_state,
        }
    )


def plan_id(plan: Plan, *, trees: Mapping[Tree, str], builder: str, mirror_state: str) -> str:
    """Return the id of a build: a hash over all that decides the root's bytes.

    ``trees`` has the content digest of each of the plan's trees, ``builder`` the builder image's, and ``mirror_state``
    is what the mirror-state command printed. What the domain gets (``guest``) is no part of the root.
    """
    return _digest(
        {
            "recipe": plan.recipe.model_dump(mode="json", exclude={"guest"}),
            "stages": [asdict(stage) for stage in plan.stages],
            "prepare": [asdict(step) for step in plan.prepare],
            "trees": [trees[tree] for tree in plan.trees],
            "builder": builder,
            "mirror": mirror_state,
        }
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def as_data(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain data, for ``--json``."""
    return {
        "recipe": plan.recipe.model_dump(mode="json"),
        "cmdline": plan.cmdline,
        "kernel": plan.generator.kernel,
        "initrd": plan.generator.initrd,
        "stages": [{"name": stage.name, "steps": [asdict(step) for step in stage.steps]} for stage in plan.stages],
    }


def as_text(plan: Plan) -> str:
    """Return the plan as a person reads it: a block for each stage, a line for each step."""
    lines = [
        f"{plan.recipe.distro} {plan.recipe.release}, initramfs by {plan.generator.name}",
        f"cmdline: {plan.cmdline}",
    ]
    if plan.prepare:
        lines += ["", "the builder", *(f"  {_step(step)}" for step in plan.prepare)]
    for stage in plan.stages:
        lines += ["", f"{stage.name}{'  (cached)' if stage.cached else ''}"]
        lines += [f"  {_step(step)}" for step in stage.steps] or ["  nothing to do"]
    lines += ["", "inspect", "  open the initramfs, check the rules of a virtiofs root", "", "pack", "  tar, zstd"]
    return "\n".join(lines)


def _step(step: Command | Tree) -> str:
    if isinstance(step, Tree):
        return f"copy {step.kind} {step.name}" + (f" to {step.builder}" if step.builder else "")
    where = "in the root: " if step.chroot else ""
    return where + shlex.join([*(f"{key}={value}" for key, value in step.env), *step.argv])

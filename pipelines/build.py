"""Build: a recipe becomes an artifact."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipelines.artifact import manifest
from pipelines.artifact.store import Store
from pipelines.builder.container import Builder, builder
from pipelines.builder.inputs import Wanted
from pipelines.builder.stages import Work
from pipelines.errors import VirtrootError
from pipelines.host import engine as engines
from pipelines.host import images
from pipelines.log import say, step, warn
from pipelines.recipe.plan import plan_id
from pipelines.settings import Settings


def build(wanted: Wanted, settings: Settings) -> Path:
    """Build ``wanted`` and return the artifact's directory; nothing is published unless every stage succeeds."""
    store = Store(settings.output_dir)
    with store.lock("recipe", wanted.name):
        engine = engines.connect()
        image, image_id = builder_image(engine, wanted, settings)
        with builder(engine, image, wanted.name, settings, "build", wanted.recipe.distribution.capabilities) as bare:
            _prepare(bare, wanted)
            epoch, mirror_state = _mirror_state(bare, wanted)
            identity = _plan_id(wanted, image_id, mirror_state)
            worker = Builder(bare.container, {"SOURCE_DATE_EPOCH": str(epoch)})
            with store.new_build(wanted.name, _build_id(identity)) as directory:
                work = Work(wanted, worker, directory, image_id, mirror_state, settings.base_cache)
                for stage in wanted.plan.stages:
                    work.run(stage)
                facts = work.inspect()
                rootfs = work.pack(epoch)
                made = work.manifest(identity, facts, rootfs, epoch)
                manifest.save(made, directory / "manifest.json")
    finished = store.find(made.id)
    if finished is None:
        raise VirtrootError(f"the artifact {made.id} vanished after it was published", "build it again")
    say(f"{made.id}: {rootfs.entries} entries, {rootfs.unpacked_size >> 20} MiB, packed {rootfs.size >> 20} MiB")
    return finished


def builder_image(engine: engines.Engine, wanted: Wanted, settings: Settings) -> tuple[str, str]:
    """Return the tag and digest of the builder image for ``wanted``, made when missing or too old."""
    distro = wanted.recipe.distribution
    since = images.since(settings.image_max_age)
    base = images.base(engine, settings.base, distro.base_image, distro.base_suite, made_since=since)
    return images.built(engine, distro.builder, base, made_since=since)


def _prepare(worker: Builder, wanted: Wanted) -> None:
    """Set the builder up for the recipe's mirrors."""
    for item in wanted.plan.prepare:
        worker.carry_out(item, wanted.trees)
    if wanted.recipe.siglevel == "never":
        warn("siglevel: never: whoever answers for the mirror decides what is in this root; the manifest says so")


def _mirror_state(worker: Builder, wanted: Wanted) -> tuple[int, tuple[str, ...]]:
    """Ask the mirror what it offers; its newest date is the build's epoch unless the environment gives one."""
    command = wanted.plan.mirror_state
    with step("mirror"):
        answer = worker.run(command.full_argv, env=dict(command.env), check=False)
    if answer.returncode:
        raise VirtrootError(
            f"the package mirror does not answer for {wanted.recipe.distro} {wanted.recipe.release}",
            "check the recipe's mirror: and the network; without mirror: the bootstrapper's own default is used",
            answer.complaint,
        )
    date, *state = answer.text.splitlines()
    return _epoch(date), tuple(" ".join(line.split()) for line in state)


def _epoch(date: str) -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH") or date
    if not given.isdigit():
        raise VirtrootError(f"SOURCE_DATE_EPOCH is {given!r}", "give seconds since 1970, or unset it")
    return int(given)


def _plan_id(wanted: Wanted, image_id: str, mirror_state: tuple[str, ...]) -> str:
    return plan_id(wanted.plan, trees=wanted.digests, builder=image_id, mirror_state="\n".join(mirror_state))


def _build_id(identity: str) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{identity[:12]}"

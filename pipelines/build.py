"""Build: a recipe becomes an artifact."""

from __future__ import annotations

import os
import time
from functools import partial

from pipelines import __version__
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Boot, Manifest, record
from pipelines.artifact.store import Store
from pipelines.builder import container, inspection, packing
from pipelines.builder.cache import Cache
from pipelines.builder.container import Builder, builder
from pipelines.builder.inputs import Inputs
from pipelines.builder.stages import StageRunner
from pipelines.errors import VirtrootError
from pipelines.host import engine as engines
from pipelines.log import say, step, warn
from pipelines.recipe import mirror as mirrors
from pipelines.recipe.mirror import MirrorState
from pipelines.recipe.plan import Surroundings, plan_id
from pipelines.recipe.stage import ROOT
from pipelines.settings import Settings


def build(inputs: Inputs, settings: Settings) -> Artifact:
    """Build ``inputs`` and return the artifact; nothing is published unless every stage succeeds."""
    store, name, distro = Store(settings.output_dir), inputs.name, inputs.plan.distro
    with store.lock(name):
        store.claim(name, inputs.source)
        engine = engines.connect()
        image, image_digest = container.image(engine, distro, settings)
        run_builder = partial(builder, engine, image, name, settings)
        with run_builder("build", capabilities=distro.capabilities, cache=container.cache_volume(inputs)) as bare:
            _set_up(bare, inputs)
            mirror = _ask_mirror(bare, inputs)
            surroundings = Surroundings(inputs.digests, image_digest, mirror, _epoch(mirror))
            identity = plan_id(inputs.plan, surroundings)
            worker = Builder(bare.container, {"SOURCE_DATE_EPOCH": str(surroundings.epoch)})
            cache = Cache(inputs.plan, surroundings, store.stage_records(name), use=settings.base_cache)
            apart = partial(run_builder, "apart")
            build = _build_id(identity)
            with (
                store.new_build(name, build, latest=not inputs.overridden) as artifact,
                StageRunner(inputs, worker, cache, artifact.log, store.failed_log(name), apart) as runner,
            ):
                for stage in inputs.plan.stages:
                    runner.run(stage)
                with runner.logged("inspect"):
                    packages = packing.packages(runner.builder, distro)
                    names = tuple(package.name for package in packages)
                    facts = inspection.gather(runner.builder.target, ROOT, inputs.plan.generator, names)
                    inspection.refuse_broken(facts)
                with runner.logged("pack"):
                    rootfs = packing.pack(runner.builder, artifact.tarball, surroundings.epoch)
                changed = _mirror_changed(bare, inputs, mirror)
                if changed:
                    cache.forget()
                manifest = Manifest(
                    virtroot=__version__,
                    name=name,
                    build=build,
                    plan=identity,
                    builder=image_digest,
                    mirror_state=mirror.digests,
                    mirror_changed=changed,
                    source_date_epoch=surroundings.epoch,
                    recipe=record(inputs.recipe),
                    generator=inputs.plan.generator.name,
                    kernel_version=facts.kernel_version,
                    boot=Boot(kernel=facts.kernel, initrd=facts.initrd, cmdline=inputs.plan.cmdline),
                    packages=packages,
                    rootfs=rootfs,
                )
                artifact.describe(manifest)
    say(f"{manifest.id}: {rootfs.entries} entries, {rootfs.unpacked_size >> 20} MiB, packed {rootfs.size >> 20} MiB")
    made = store.find(manifest.id)
    if made is None:
        raise VirtrootError(f"the artifact {manifest.id} vanished after it was published", "build it again")
    if inputs.overridden:
        say(f"built with what {inputs.source.name} does not have; it is not its latest, install it by --artifact")
    return made


def _set_up(worker: Builder, inputs: Inputs) -> None:
    """Set the builder up for the recipe's mirrors."""
    for item in inputs.plan.builder_setup:
        worker.set_up(item, inputs.trees)
    if inputs.recipe.siglevel == "never":
        warn("siglevel: never: whoever answers for the mirror decides what is in this root; the manifest says so")


def _ask_mirror(worker: Builder, inputs: Inputs) -> MirrorState:
    """Ask the mirror what it offers."""
    query = inputs.plan.mirror_query
    with step("mirror"):
        answer = worker.run(query.full_argv, env=dict(query.env), check=False)
    try:
        if answer.returncode == 0:
            return mirrors.parse(answer.text)
        complaint = answer.complaint
    except ValueError:
        complaint = f"its answer makes no sense: {answer.text[:200]!r}"
    raise VirtrootError(
        f"the package mirror does not answer for {inputs.recipe.distro} {inputs.recipe.release}",
        "check the recipe's mirror: and the network; without mirror: the bootstrapper's own default is used",
        complaint,
    )


def _mirror_changed(worker: Builder, inputs: Inputs, before: MirrorState) -> bool:
    """Say, and warn, whether the mirror has moved on since it was asked: the root then belongs to neither state."""
    try:
        if _ask_mirror(worker, inputs) == before:
            return False
        warn("the mirror changed while this was built: another build of this plan may differ; the manifest says so")
    except VirtrootError as error:
        warn(f"cannot tell whether the mirror changed while this was built, the manifest says so: {error.what}")
    return True


def _epoch(mirror: MirrorState) -> int:
    """Return what times are clamped to: the mirror's newest date unless the environment says another."""
    given = os.environ.get("SOURCE_DATE_EPOCH") or str(mirror.date)
    if not given.isdigit():
        raise VirtrootError(f"SOURCE_DATE_EPOCH is {given!r}", "give seconds since 1970, or unset it")
    return int(given)


def _build_id(identity: str) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{identity[:12]}"

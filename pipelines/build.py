"""Build an artifact from a recipe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial

from pipelines import __version__
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Boot, Manifest, StageTime, record
from pipelines.builder import build_name, container, inputs, inspection, packing, private_keys, reuse
from pipelines.builder.build_root import RootBuild
from pipelines.builder.cache import StageCache
from pipelines.builder.container import Builder, run_builder
from pipelines.builder.inputs import Inputs
from pipelines.builder.mirror_state import Asker, get_surroundings
from pipelines.builder.root_container import run_container
from pipelines.builder.stages import StageRunner
from pipelines.cli.task import Context, context_of, print_data, settings_of, task
from pipelines.context import CommandContext
from pipelines.errors import Phase, VirtrootError
from pipelines.log import result, say, step, warn
from pipelines.recipe import plan as plans
from pipelines.recipe.mirror import MirrorState
from pipelines.recipe.plan import Surroundings, compute_plan_id, compute_stage_ids
from pipelines.recipe.stage import ROOT


def build(
    inputs: Inputs, ctx: CommandContext, *, fresh: bool = False, rebuild: bool = False, asker: Asker | None = None
) -> Artifact:
    """Build ``inputs`` and return the artifact. It is published only if every stage succeeds.

    If the build would give an existing artifact again, that one is returned, unless ``rebuild``. With ``fresh`` the
    stage cache is not used, but downloaded packages are. ``asker`` queries the mirror; it can be shared by many builds.
    """
    store, name = ctx.store, inputs.name
    with (
        store.lock(name),
        nullcontext(asker) if asker else Asker(ctx.engine, ctx.settings, f"recipe {name}") as asking,
    ):
        store.claim(name, inputs.source)
        begin = time.monotonic()
        with step("mirror"):
            found = get_surroundings(inputs, asking, again=True)
        identity = compute_plan_id(inputs.plan, found)
        there = None if fresh or rebuild else reuse.find(inputs, identity, store)
        if there:
            say(f"unchanged: {there.id}; use --no-cache to build it again")
            if not inputs.overridden:
                store.name_latest(name, there.directory.name)
        else:
            asked = StageTime(name="mirror", seconds=round(time.monotonic() - begin, 3))
            there = _build_new(inputs, ctx, asking, found, identity, asked, fresh=fresh)
    if inputs.overridden:
        say(f"options changed {inputs.source.name}, so latest is not set; use install --artifact for this build")
    return there


def _build_new(
    inputs: Inputs, ctx: CommandContext, asker: Asker, found: Surroundings, identity: str, asked: StageTime, *,
    fresh: bool,
) -> Artifact:  # fmt: skip
    """Build and publish a new artifact; the caller holds the recipe's lock."""
    if inputs.recipe.siglevel == "never":
        warn("siglevel: never: packages are not checked, so the mirror controls this root; the manifest records it")
    store, name, plan = ctx.store, inputs.name, inputs.plan
    tag, digest = asker.image(plan.distro)
    watch = _MirrorWatch(inputs, asker, found.mirror)
    ids, build_id = compute_stage_ids(plan, found), _make_build_id(identity)

    @contextmanager
    def start(apart: bool) -> Iterator[Builder]:
        env = {"SOURCE_DATE_EPOCH": str(found.epoch)}
        if apart:
            with run_builder(asker.engine, tag, name, ctx.settings, container.APART, owner=asker.owner) as made:
                yield Builder(made.container, env)
            return
        volume = container.get_cache_volume(inputs, ctx.settings)
        capable = plan.distro.capabilities
        with run_builder(
            asker.engine,
            tag,
            name,
            ctx.settings,
            container.WITH_CACHE,
            capabilities=capable,
            cache=volume,
            owner=asker.owner,
        ) as made:
            for item in plan.builder_setup:
                made.set_up(item, inputs.trees)
            yield Builder(made.container, env)

    with store.new_build(name, build_id, latest=not inputs.overridden) as artifact:
        contain = partial(run_container, asker.engine, name, ctx.settings)
        runner = StageRunner(inputs.trees, artifact.log, store.failed_log(name), contain)
        runner.times.append(asked)
        cache = StageCache(ctx.settings.cache_home, 0 if fresh else ctx.settings.cache_bytes)
        with (
            RootBuild(inputs, ids, cache, runner, start, watch.is_unchanged) as making,
            ThreadPoolExecutor(1) as background,
        ):
            making.make()
            with runner.log_stage("inspect", where=Phase.INSPECT):
                packages = packing.list_packages(making.builder, plan.distro)
                names = tuple(package.name for package in packages)
                facts = inspection.gather(making.builder.target, ROOT, plan.generator, names)
                inspection.refuse_broken(facts)
                named_in = build_name.find(making.builder.target, ROOT)
                found_keys = private_keys.find(making.builder.target, ROOT)
            keys = private_keys.classify(found_keys, inputs.overlay_paths)
            keys.report()
            for each in inspection.find_doubts(facts):
                warn(each)
            # Query the mirror last: the recipe's commands may have downloaded packages until now.
            last = background.submit(watch.is_unchanged)
            with runner.log_stage("pack"):
                rootfs = packing.pack(making.builder, artifact.tarball, found.epoch)
            last.result()
        artifact.describe(
            Manifest(
                virtroot=__version__,
                name=name,
                build=build_id,
                plan=identity,
                builder=digest,
                mirror_state=found.mirror.digests,
                mirror_changed=watch.moved,
                source_date_epoch=found.epoch,
                recipe=record(inputs.recipe),
                generator=plan.generator.name,
                kernel_version=facts.kernel_version,
                boot=Boot(kernel=facts.kernel, initrd=facts.initrd, cmdline=plan.cmdline),
                packages=packages,
                named_in=named_in,
                private_keys=keys.shared,
                overlay_keys=keys.from_overlay,
                rootfs=rootfs,
                stages=tuple(runner.times),
            )
        )
    made = store.find(f"{name}/{build_id}")
    if made is None:
        raise VirtrootError(f"artifact {name}/{build_id} was removed after it was published", "build it again")
    say(f"{made.id}: {rootfs.entries} entries, {rootfs.unpacked_size >> 20} MiB, packed {rootfs.size >> 20} MiB")
    return made


class _MirrorWatch:
    """Checks during a build that the mirror's state is still the one ``before`` it."""

    def __init__(self, inputs: Inputs, asker: Asker, before: MirrorState) -> None:
        self._inputs, self._asker, self._before = inputs, asker, before
        self.moved = False

    def is_unchanged(self) -> bool:
        """Query the mirror, and return whether its state is unchanged; if not, warn once.

        A root that was built while the mirror changed belongs to neither state.
        """
        try:
            same = self._asker.ask(self._inputs, again=True) == self._before
            why = "the mirror changed during the build: another build of this plan may differ"
        except VirtrootError as error:
            same, why = False, f"cannot tell whether the mirror changed during the build: {error.what}"
        if not same and not self.moved:
            self.moved = True
            warn(f"{why}; the manifest records it")
        return same


def _make_build_id(identity: str) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{identity[:12]}"


_RECIPE = {
    "distro": "the recipe by name: recipes/NAME.yaml",
    "recipe": "the recipe by file",
    "release": "override the recipe's release",
    "generator": "override the recipe's initramfs generator",
    "mirror": "override the recipe's mirror",
    "bootstrap": "override the recipe's bootstrap tool",
    "snapshot": "build it from the dated archive of a time like 20261101T000000Z",
}


@task(name="build", help={**_RECIPE, "no-cache": "build all stages again, even if nothing changed"})
def build_task(
    c: Context,
    distro: str = "",
    recipe: str = "",
    release: str = "",
    generator: str = "",
    mirror: str = "",
    bootstrap: str = "",
    snapshot: str = "",
    no_cache: bool = False,
) -> None:
    """Build a root, starting with the first stage that changed, and print the artifact's path.

    ./inv build --distro debian
    ./inv build --recipe recipes/web.yaml --no-cache
    """
    ctx = context_of(c)
    overrides = {"release": release, "generator": generator, "mirror": mirror, "bootstrap": bootstrap}
    found = inputs.find(distro, recipe, {**overrides, "snapshot": snapshot}, settings=ctx.settings)
    result(str(build(found, ctx, fresh=no_cache).directory))


@task(name="plan", help={**_RECIPE, "json": "print JSON"})
def plan_task(
    c: Context,
    distro: str = "",
    recipe: str = "",
    release: str = "",
    generator: str = "",
    mirror: str = "",
    bootstrap: str = "",
    snapshot: str = "",
    json: bool = False,
) -> None:
    """Print the steps of a build, without an engine and without changing anything.

    ./inv plan --distro debian
    """
    overrides = {"release": release, "generator": generator, "mirror": mirror, "bootstrap": bootstrap}
    planned = inputs.find(distro, recipe, {**overrides, "snapshot": snapshot}, settings=settings_of(c)).plan
    print_data(plans.as_data(planned) if json else plans.as_text(planned))


@task(name="schema")
def schema_task(
    c: Context,
) -> None:
    """Print the JSON schema of recipes.

    ./inv schema > recipes/schema.json
    """
    print_data(inputs.make_schema())

"""Build: a recipe becomes an artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial

from pipelines import __version__
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Boot, Manifest, StageTime, record
from pipelines.artifact.store import Store
from pipelines.builder import build_name, container, inputs, inspection, packing, private_keys, reuse
from pipelines.builder.build_root import RootBuild
from pipelines.builder.cache import StageCache
from pipelines.builder.container import Builder, run_builder
from pipelines.builder.inputs import Inputs
from pipelines.builder.mirror_state import Asker, get_surroundings
from pipelines.builder.root_container import run_container
from pipelines.builder.stages import StageRunner
from pipelines.cli.task import Context, print_data, settings_of, task
from pipelines.engine import engine as engines
from pipelines.errors import Phase, VirtrootError
from pipelines.log import result, say, step, warn
from pipelines.recipe import plan as plans
from pipelines.recipe.mirror import MirrorState
from pipelines.recipe.plan import Surroundings, compute_plan_id, compute_stage_ids
from pipelines.recipe.stage import ROOT
from pipelines.settings import Settings


def build(
    inputs: Inputs, settings: Settings, *, fresh: bool = False, anew: bool = False, asker: Asker | None = None
) -> Artifact:
    """Build ``inputs`` and return the artifact; nothing is published unless every stage succeeds.

    Where an artifact is there already that this would make again, that one is returned; with ``anew`` it is made again.
    With ``fresh`` everything is made from nothing, packages that were downloaded apart. ``asker`` asks the mirror; it
    serves many builds.
    """
    store, name = Store(settings.output_dir), inputs.name
    with (
        store.lock(name),
        nullcontext(asker) if asker else Asker(engines.connect(), settings, f"recipe {name}") as asking,
    ):
        store.claim(name, inputs.source)
        begin = time.monotonic()
        with step("mirror"):
            found = get_surroundings(inputs, asking, again=True)
        identity = compute_plan_id(inputs.plan, found)
        there = None if fresh or anew else reuse.find(inputs, identity, store)
        if there:
            say(f"unchanged: {there.id}; --no-cache builds anew")
            if not inputs.overridden:
                store.name_latest(name, there.directory.name)
        else:
            asked = StageTime(name="mirror", seconds=round(time.monotonic() - begin, 3))
            there = _make(inputs, settings, asking, found, identity, asked, fresh=fresh)
    if inputs.overridden:
        say(f"built with what {inputs.source.name} does not have; it is not its latest, install it by --artifact")
    return there


def _make(
    inputs: Inputs, settings: Settings, asker: Asker, found: Surroundings, identity: str, asked: StageTime, *,
    fresh: bool,
) -> Artifact:  # fmt: skip
    """Make and publish a new artifact; the caller holds the recipe's lock."""
    if inputs.recipe.siglevel == "never":
        warn("siglevel: never: whoever answers for the mirror decides what is in this root; the manifest says so")
    store, name, plan = Store(settings.output_dir), inputs.name, inputs.plan
    tag, digest = asker.image(plan.distro)
    watch = _Watch(inputs, asker, found.mirror)
    ids, build_id = compute_stage_ids(plan, found), _build_id(identity)

    @contextmanager
    def start(apart: bool) -> Iterator[Builder]:
        env = {"SOURCE_DATE_EPOCH": str(found.epoch)}
        if apart:
            with run_builder(asker.engine, tag, name, settings, container.APART, owner=asker.owner) as made:
                yield Builder(made.container, env)
            return
        volume = container.get_cache_volume(inputs, settings)
        capable = plan.distro.capabilities
        with run_builder(
            asker.engine,
            tag,
            name,
            settings,
            container.WITH_CACHE,
            capabilities=capable,
            cache=volume,
            owner=asker.owner,
        ) as made:
            for item in plan.builder_setup:
                made.set_up(item, inputs.trees)
            yield Builder(made.container, env)

    with store.new_build(name, build_id, latest=not inputs.overridden) as artifact:
        contain = partial(run_container, asker.engine, name, settings)
        runner = StageRunner(inputs.trees, artifact.log, store.failed_log(name), contain)
        runner.times.append(asked)
        cache = StageCache(settings.cache_home, 0 if fresh else settings.cache_bytes)
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
            # A recipe's commands may have fetched something until now.
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
        raise VirtrootError(f"the artifact {name}/{build_id} vanished after it was published", "build it again")
    say(f"{made.id}: {rootfs.entries} entries, {rootfs.unpacked_size >> 20} MiB, packed {rootfs.size >> 20} MiB")
    return made


class _Watch:
    """Sees to it that the mirror, which says now what it offers, is the one that was asked ``before``."""

    def __init__(self, inputs: Inputs, asker: Asker, before: MirrorState) -> None:
        self._inputs, self._asker, self._before = inputs, asker, before
        self.moved = False

    def is_unchanged(self) -> bool:
        """Ask the mirror; say, and warn once, whether it has moved on: a root then belongs to neither state."""
        try:
            same = self._asker.ask(self._inputs, again=True) == self._before
            why = "the mirror changed while this was built: another build of this plan may differ"
        except VirtrootError as error:
            same, why = False, f"cannot tell whether the mirror changed while this was built: {error.what}"
        if not same and not self.moved:
            self.moved = True
            warn(f"{why}; the manifest says so")
        return same


def _build_id(identity: str) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{identity[:12]}"


_RECIPE = {
    "distro": "recipe by name: recipes/NAME.yaml",
    "recipe": "recipe by file",
    "release": "override the recipe's release",
    "generator": "override the recipe's initramfs generator",
    "mirror": "override the recipe's mirror",
    "bootstrap": "override the recipe's bootstrap tool",
    "snapshot": "make it from the dated archive, as it was at a time like 20261101T000000Z",
}


@task(name="build", help={**_RECIPE, "no-cache": "make everything anew, also where nothing changed"})
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
    """Build a golden root, from the first stage on that changed; prints the artifact's path.

    ./inv build --distro debian
    ./inv build --recipe recipes/web.yaml --no-cache
    """
    settings = settings_of(c)
    overrides = {"release": release, "generator": generator, "mirror": mirror, "bootstrap": bootstrap}
    found = inputs.find(distro, recipe, {**overrides, "snapshot": snapshot}, snapshots=settings.snapshots)
    result(str(build(found, settings, fresh=no_cache).directory))


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
    """Print what a build would do; needs no engine and changes nothing.

    ./inv plan --distro debian
    """
    overrides = {"release": release, "generator": generator, "mirror": mirror, "bootstrap": bootstrap}
    known = settings_of(c).snapshots
    planned = inputs.find(distro, recipe, {**overrides, "snapshot": snapshot}, snapshots=known).plan
    print_data(plans.as_data(planned) if json else plans.as_text(planned))


@task(name="schema")
def schema_task(
    c: Context,
) -> None:
    """Print the JSON schema of recipes.

    ./inv schema > recipes/schema.json
    """
    print_data(inputs.make_schema())

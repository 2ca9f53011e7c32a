"""Build: a recipe becomes an artifact."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines import __version__
from pipelines.artifact import archive, inspection, manifest
from pipelines.artifact.inspection import Facts
from pipelines.artifact.manifest import Boot, Manifest, Package, Rootfs
from pipelines.artifact.store import Store
from pipelines.builder import Builder, builder
from pipelines.catalogue import Wanted
from pipelines.errors import VirtrootError
from pipelines.host import engine as engines
from pipelines.host import images
from pipelines.log import say, step, warn
from pipelines.recipe.plan import plan_id, stage_id
from pipelines.recipe.stage import CACHE, ROOT, Command, Stage, Tree
from pipelines.settings import Settings


def build(wanted: Wanted, settings: Settings) -> Path:
    """Build ``wanted`` and return the artifact's directory; nothing is published unless every stage succeeds."""
    store = Store(settings.output_dir)
    with store.lock("recipe", wanted.name):
        store.clear(wanted.name)
        engine = engines.connect()
        image, image_id = builder_image(engine, wanted, settings)
        with builder(engine, image, wanted.name, settings, "build", wanted.recipe.distribution.capabilities) as bare:
            _prepare(bare, wanted)
            epoch, mirror_state = _mirror_state(bare, wanted)
            identity = _plan_id(wanted, image_id, mirror_state)
            worker = Builder(bare.container, {"SOURCE_DATE_EPOCH": str(epoch)})
            with store.new_build(wanted.name, _build_id(identity)) as directory:
                work = _Work(wanted, worker, directory, image_id, mirror_state, settings.base_cache)
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
    """Return the tag and digest of the builder image for ``wanted``, made when missing."""
    distro = wanted.recipe.distribution
    base = images.base(engine, settings.base, distro.base_image, distro.base_suite)
    return images.built(engine, distro.builder, base)


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
    return int(os.environ.get("SOURCE_DATE_EPOCH") or date), tuple(" ".join(line.split()) for line in state)


def _plan_id(wanted: Wanted, image_id: str, mirror_state: tuple[str, ...]) -> str:
    return plan_id(wanted.plan, trees=wanted.digests, builder=image_id, mirror_state="\n".join(mirror_state))


def _build_id(identity: str) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{identity[:12]}"


#: What the log's tail may say, and what to try then.
_HINTS = {
    "No space left on device": "the workspace is full: set virtroot.workspace to a larger tmpfs:SIZE or to disk",
    "required key missing from keyring": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    "unknown trust": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    ".sig'": "the mirror has packages without a signature: use another one, or siglevel: never to trust it blindly",
    "(PGP signature)": "the package was changed after it was signed; use another mirror",
}


@dataclass(frozen=True)
class _Work:
    """One build under way: each verb is a stage's execution, logged to the artifact's build.log."""

    wanted: Wanted
    worker: Builder
    directory: Path
    image_id: str
    mirror_state: tuple[str, ...]
    base_cache: bool

    def run(self, stage: Stage) -> None:
        """Carry out the steps of ``stage``, or take its result from the cache."""
        if not stage.steps:
            return
        cached = self._cached(stage)
        if cached and self.worker.run(["test", "-f", cached], check=False).returncode == 0:
            with self._logged(f"{stage.name} (from the cache)"):
                self._command(Command(("tar", "--extract", "--file", cached, "--directory", ROOT, *archive.KEEP)))
            return
        with self._logged(stage.name):
            for item in stage.steps:
                if isinstance(item, Tree):
                    self._copy(item)
                else:
                    self._command(item)
            if cached:
                partial = f"{cached}.partial"
                self._command(Command(("mkdir", "-p", f"{CACHE}/stages")))
                self._command(Command(("find", f"{CACHE}/stages", "-type", "f", "-delete")))
                self._command(Command(("tar", "--create", "--file", partial, "--directory", ROOT, *archive.KEEP, ".")))
                self._command(Command(("mv", partial, cached)))

    def _cached(self, stage: Stage) -> str:
        if not (stage.cached and self.base_cache):
            return ""
        state = "\n".join(self.mirror_state)
        wanted = self.wanted
        key = stage_id(wanted.plan, stage, trees=wanted.digests, builder=self.image_id, mirror_state=state)
        return f"{CACHE}/stages/{key}.tar"

    def _command(self, command: Command) -> None:
        with (self.directory / "build.log").open("ab") as log:
            log.write(f"$ {' '.join(command.full_argv)}\n".encode())
            done = self.worker.run(
                command.full_argv, env=dict(command.env), check=False, stdout=log.write, stderr=log.write
            )
        if done.returncode:
            raise _StepFailed(command, done.returncode)

    def _copy(self, tree: Tree) -> None:
        # The root's own tar, inside the root: a link like /var/run -> /run then means the root's /run.
        unpack = ("tar", "--extract", "--file=-", "--directory=/", "--keep-directory-symlink", "--no-same-owner",
                  "--no-overwrite-dir", "--touch")  # fmt: skip
        self.worker.run(("chroot", ROOT, *unpack), stdin=self.wanted.trees[tree])

    @contextmanager
    def _logged(self, name: str) -> Iterator[None]:
        """Time a stage; where a step of it fails, say which and show the log's tail."""
        log = self.directory / "build.log"
        with log.open("ab") as line:
            line.write(f"== {name}\n".encode())
        try:
            with step(name):
                yield
        except _StepFailed as failure:
            tail = log.read_text(errors="replace").splitlines()[-25:]
            hint = f"read {self.directory.parent / 'failed' / 'build.log'}"
            for evidence, better in _HINTS.items():
                if any(evidence in line for line in tail):
                    hint = better
                    break
            raise VirtrootError(f"stage {name}: {failure}", hint, "\n".join(tail)) from failure

    def inspect(self) -> Facts:
        """Refuse a root that breaks a rule."""
        with self._logged("inspect"):
            names = tuple(package.name for package in self.packages())
            facts = inspection.gather(self.worker.target, ROOT, self.wanted.plan.generator, names)
            inspection.refuse_broken(facts)
        return facts

    def packages(self) -> tuple[Package, ...]:
        """Return the installed packages, sorted by name."""
        query = self.worker.run(self.wanted.recipe.distribution.packages_query)
        pairs = sorted(line.split(maxsplit=1) for line in query.text.splitlines())
        return tuple(Package(name=name, version=version) for name, version in pairs)

    def pack(self, epoch: int) -> Rootfs:
        """Stream the tarball out of the builder, and measure it on the way."""
        with self._logged("pack"):
            digest, size = hashlib.sha256(), 0
            with (self.directory / archive.TARBALL).open("wb") as tarball:

                def keep(chunk: bytes) -> None:
                    nonlocal size
                    size += len(chunk)
                    digest.update(chunk)
                    tarball.write(chunk)

                self.worker.run(archive.pack_argv(ROOT, epoch), stdout=keep)
            used = self.worker.run(["du", "--summarize", "--block-size=1", ROOT]).text.split()[0]
            entries = self.worker.run(["find", ROOT, "-printf", "."]).stdout
        return Rootfs(sha256=digest.hexdigest(), size=size, unpacked_size=int(used), entries=len(entries))

    def manifest(self, identity: str, facts: Facts, rootfs: Rootfs, epoch: int) -> Manifest:
        """Put together what was built."""
        return Manifest(
            virtroot=__version__,
            name=self.wanted.name,
            build=self.directory.name.removeprefix(".partial-"),
            plan=identity,
            builder=self.image_id,
            mirror_state=self.mirror_state,
            source_date_epoch=epoch,
            recipe=self.wanted.recipe,
            generator=self.wanted.plan.generator.name,
            kernel_version=facts.kernel_version,
            boot=Boot(kernel=facts.kernel, initrd=facts.initrd, cmdline=self.wanted.plan.cmdline),
            packages=self.packages(),
            rootfs=rootfs,
        )


class _StepFailed(Exception):
    def __init__(self, command: Command, status: int) -> None:
        super().__init__(f"{command.argv[0].rpartition('/')[2]} exited with {status}")

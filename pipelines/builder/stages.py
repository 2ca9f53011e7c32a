"""One build under way: stages carried out in the builder, logged, inspected and packed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines import __version__
from pipelines.artifact import archive
from pipelines.artifact.manifest import Boot, Manifest, Package, Rootfs
from pipelines.builder import inspection
from pipelines.builder.container import Builder
from pipelines.builder.inputs import Wanted
from pipelines.builder.inspection import Facts
from pipelines.errors import VirtrootError
from pipelines.log import step
from pipelines.recipe.plan import stage_id
from pipelines.recipe.stage import CACHE, ROOT, Command, Stage, Tree

#: What the log's tail may say, and what to try then.
_HINTS = {
    "No space left on device": "the workspace is full: set virtroot.workspace to a larger tmpfs:SIZE or to disk",
    "required key missing from keyring": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    "unknown trust": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    ".sig'": "the mirror has packages without a signature: use another one, or siglevel: never to trust it blindly",
    "(PGP signature)": "the package was changed after it was signed; use another mirror",
}


@dataclass(frozen=True)
class Work:
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
            raise StepFailed(command, done.returncode)

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
        except StepFailed as failure:
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
        query = self.worker.run(("chroot", ROOT, *self.wanted.recipe.distribution.packages_query))
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


class StepFailed(Exception):
    """A command of a stage exited with a status other than 0."""

    def __init__(self, command: Command, status: int) -> None:
        super().__init__(f"{command.argv[0].rpartition('/')[2]} exited with {status}")

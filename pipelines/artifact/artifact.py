"""An artifact: one build's directory, and the files in it that have names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.artifact import manifest as manifests
from pipelines.artifact.build_id import BuildId
from pipelines.artifact.manifest import Manifest, Verdict
from pipelines.errors import VirtrootError
from pipelines.target import durable

#: The manifest's name, in an artifact and in the boot directory of each guest made from it.
MANIFEST = "manifest.json"

_PIN = "pinned"

#: What is not whole yet, or not any more, is called that and its name.
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Artifact:
    """One build: ``directory`` has its tarball, manifest, log and reports."""

    directory: Path

    @property
    def tarball(self) -> Path:
        """The root, packed."""
        return self.directory / "rootfs.tar.zst"

    @property
    def exists(self) -> bool:
        """Whether the directory is an artifact's."""
        try:
            return (self.directory / MANIFEST).is_file()
        except PermissionError:
            # Another user's, closed to us: it is there, and who reads it is told why that cannot be.
            return True

    @property
    def manifest_file(self) -> Path:
        """The manifest, as a file."""
        return self.directory / MANIFEST

    @property
    def log(self) -> Path:
        """What the build's commands printed."""
        return self.directory / "build.log"

    @property
    def console_log(self) -> Path:
        """What the last guest that a night could not verify wrote to its console."""
        return self.directory / "console.log"

    @cached_property
    def manifest(self) -> Manifest:
        """What was built; raises `VirtrootError` for a directory that is no artifact."""
        return manifests.load(self.directory / MANIFEST)

    @property
    def pinned(self) -> bool:
        """Whether somebody wants it kept, whatever its age."""
        return (self.directory / _PIN).exists()

    def pin(self, *, keep: bool = True) -> None:
        """Have it kept whatever its age, or no more so."""
        if keep:
            (self.directory / _PIN).touch()
        else:
            (self.directory / _PIN).unlink(missing_ok=True)
        durable.flush_directory(self.directory)

    def manifest_bytes(self) -> bytes:
        """Return the manifest as its file has it."""
        return (self.directory / MANIFEST).read_bytes()

    @property
    def id(self) -> BuildId:
        """The id that the manifest has."""
        return self.manifest.id

    @property
    def stored_id(self) -> BuildId:
        """The id by the names of the directories in a store. It is known if the manifest cannot be read, too."""
        return BuildId.of(self.directory.parent.name, self.directory.name)

    @property
    def good(self) -> bool:
        """Whether it was found in order in a booted guest; raises `VirtrootError` for one that cannot be read."""
        verdict = self.manifest.verdicts.get("guest")
        return verdict is not None and verdict.passed

    def report(self, kind: str, guest: str = "") -> Path:
        """Return where the JUnit report of a verification of ``kind`` is written."""
        return self.directory / f"junit-{'-'.join(filter(None, (kind, guest)))}.xml"

    def reports(self) -> list[Path]:
        """Return the JUnit reports that there are."""
        return sorted(self.directory.glob("junit-*.xml"))

    def describe(self, manifest: Manifest) -> None:
        """Write the manifest."""
        manifests.save(manifest, self.directory / MANIFEST)

    def judge(self, kind: str, verdict: Verdict) -> None:
        """Add a verdict to the manifest, in place of an earlier one of that kind."""
        # Read anew: another verification may have ended meanwhile.
        made = manifests.load(self.directory / MANIFEST)
        self.describe(made.model_copy(update={"verdicts": {**made.verdicts, kind: verdict}}))

    def refuse_damaged(self) -> None:
        """Compare the tarball's sha256 with the manifest's; raises `VirtrootError`."""
        try:
            with self.tarball.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise VirtrootError(
                f"no tarball at {self.tarball}: {error.strerror}", "build the artifact again"
            ) from error
        expected = self.manifest.rootfs.sha256
        if digest != expected:
            raise VirtrootError(
                f"{self.tarball} is not what was built: sha256 {digest[:16]}…, the manifest says {expected[:16]}…",
                "build the artifact again, or copy it anew",
            )


def name_build(link: Path, build: str) -> None:
    """Let ``link``, beside the builds, name one of them, in one step.

    Raises `VirtrootError` where something else is there, as a copy has it that followed links.
    """
    if link.exists() and not link.is_symlink():
        raise VirtrootError(f"{link} is no link", "move it away: the link there names one of the builds beside it")
    partial = link.with_name(f"{PARTIAL}{link.name}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(build)
    durable.publish(partial, link)

"""An artifact: the directory of one build, and its files."""

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

#: The name of the manifest, in an artifact and in the boot directory of each guest made from it.
MANIFEST = "manifest.json"

_PIN = "pinned"

#: The prefix of names of incomplete files and directories.
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Artifact:
    """One build; ``directory`` has its tarball, manifest, log and reports."""

    directory: Path

    @property
    def tarball(self) -> Path:
        """The packed root."""
        return self.directory / "rootfs.tar.zst"

    @property
    def exists(self) -> bool:
        """Whether the directory has a manifest."""
        try:
            return (self.directory / MANIFEST).is_file()
        except PermissionError:
            # It belongs to another user. It exists, and reading the manifest raises an error with the reason.
            return True

    @property
    def manifest_file(self) -> Path:
        """The path of the manifest."""
        return self.directory / MANIFEST

    @property
    def log(self) -> Path:
        """The log of the build's commands."""
        return self.directory / "build.log"

    @property
    def console_log(self) -> Path:
        """The console log of the last guest that a nightly run could not verify."""
        return self.directory / "console.log"

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest. Raises VirtrootError for a directory that is not an artifact."""
        return manifests.load(self.directory / MANIFEST)

    @property
    def pinned(self) -> bool:
        """Whether the user pinned it, so that it is kept at any age."""
        return (self.directory / _PIN).exists()

    def pin(self, *, keep: bool = True) -> None:
        """Pin it, so that it is kept at any age, or unpin it."""
        if keep:
            (self.directory / _PIN).touch()
        else:
            (self.directory / _PIN).unlink(missing_ok=True)
        durable.flush_directory(self.directory)

    def manifest_bytes(self) -> bytes:
        """Return the bytes of the manifest."""
        return (self.directory / MANIFEST).read_bytes()

    @property
    def id(self) -> BuildId:
        """The id in the manifest."""
        return self.manifest.id

    @property
    def stored_id(self) -> BuildId:
        """The id from the names of the directories in a store. It is available without a readable manifest, too."""
        return BuildId.of(self.directory.parent.name, self.directory.name)

    @property
    def good(self) -> bool:
        """Whether it passed in a booted guest. Raises VirtrootError if the manifest cannot be read."""
        verdict = self.manifest.verdicts.get("guest")
        return verdict is not None and verdict.passed

    def report(self, kind: str, guest: str = "") -> Path:
        """Return the path of the JUnit report of a verification of ``kind``."""
        return self.directory / f"junit-{'-'.join(filter(None, (kind, guest)))}.xml"

    def reports(self) -> list[Path]:
        """Return the existing JUnit reports."""
        return sorted(self.directory.glob("junit-*.xml"))

    def describe(self, manifest: Manifest) -> None:
        """Write the manifest."""
        manifests.save(manifest, self.directory / MANIFEST)

    def judge(self, kind: str, verdict: Verdict) -> None:
        """Add a verdict to the manifest, replacing an earlier one of that kind."""
        # Read the file again: another verification may have changed it meanwhile.
        made = manifests.load(self.directory / MANIFEST)
        self.describe(made.model_copy(update={"verdicts": {**made.verdicts, kind: verdict}}))

    def refuse_damaged(self) -> None:
        """Raise VirtrootError if the tarball's sha256 is not that of the manifest."""
        try:
            with self.tarball.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise VirtrootError(f"cannot read {self.tarball}: {error.strerror}", "build the artifact again") from error
        expected = self.manifest.rootfs.sha256
        if digest != expected:
            raise VirtrootError(
                f"{self.tarball}: sha256 is {digest[:16]}…, but {expected[:16]}… in the manifest",
                "build the artifact again, or copy it again",
            )


def name_build(link: Path, build: str) -> None:
    """Atomically set ``link``, next to the builds, to the build named ``build``.

    Raises VirtrootError if it is not a link, as in a copy that followed links.
    """
    if link.exists() and not link.is_symlink():
        raise VirtrootError(f"{link}: not a symbolic link", "move it away: it has to be a link to a build next to it")
    partial = link.with_name(f"{PARTIAL}{link.name}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(build)
    durable.publish(partial, link)

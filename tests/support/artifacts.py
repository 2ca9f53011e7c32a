"""Artifacts made up for tests of what is done with them; none has a root."""

from __future__ import annotations

from pathlib import Path

from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Boot, Manifest, Package, Rootfs, Verdict
from pipelines.artifact.manifest import RecordedRecipe as Recipe


def made(output: Path, recipe: str, build: str, *, good: bool | None = True, **fields: object) -> Artifact:
    """Write a manifest with a verdict of a booted guest (none for None), and return its artifact."""
    artifact = Artifact(output / recipe / build)
    artifact.directory.mkdir(parents=True)
    (output / recipe / ".recipe").write_text(f"/nowhere/{recipe}.yaml\n")
    verdict = None if good is None else Verdict(passed=good, tests=10, time="2026-11-01T00:00:00Z", seconds=1)
    manifest = Manifest(
        virtroot="0",
        name=recipe,
        build=build,
        plan=build,
        builder="sha256:0",
        mirror_state=("0 main",),
        source_date_epoch=0,
        recipe=Recipe(distro="debian", release="trixie"),
        generator="initramfs-tools",
        kernel_version="6.12",
        boot=Boot(kernel="vmlinuz", initrd="initrd.img", cmdline=""),
        packages=(Package(name="systemd", version="257"),),
        rootfs=Rootfs(sha256="0" * 64, size=1, unpacked_size=2, entries=3),
        verdicts={"guest": verdict} if verdict else {},
    )
    artifact.describe(manifest.model_copy(update=fields))
    return artifact

"""The copy of an artifact's manifest that a guest's boot directory has, and the description of a previous root."""

from __future__ import annotations

from pipelines.artifact import manifest as manifests
from pipelines.artifact.manifest import Manifest
from pipelines.guest.guest import Guest
from pipelines.pool import place


def read(guest: Guest, directory: str = "") -> Manifest:
    """Return the manifest in ``directory``, by default that of the artifact from which the guest was made.

    Raises `VirtrootError` if it is missing or damaged.
    """
    content = guest.target.run(["cat", place.manifest(directory or guest.boot)]).stdout
    return manifests.parse(content, f"the manifest of {guest.name}")


def find(guest: Guest) -> Manifest | None:
    """Return the manifest of the artifact from which the guest was made; None if there is no copy of it."""
    answer = guest.target.run(["cat", place.manifest(guest.boot)], check=False)
    return None if answer.returncode else manifests.parse(answer.stdout, f"the manifest of {guest.name}")

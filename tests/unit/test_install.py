"""What a guest is to be: what its recipe says, and what is said beside it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from pipelines import install
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import RecordedGuest
from pipelines.errors import VirtrootError
from pipelines.guest import overlayfs
from pipelines.guest.domain import Domain
from pipelines.guest.place import Place
from pipelines.install import Wishes
from pipelines.recipe.share import parse
from pipelines.settings import Settings
from tests.unit.artifacts import made

UUID_OF_WEB = UUID(int=1)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """Of a recipe whose guests have overlayfs and a share."""
    artifact = made(tmp_path, "web", "1")
    manifest = artifact.manifest
    guest = RecordedGuest(overlayfs=True, shares=("data:data:/srv/data",), cache="mixed", vcpus=3)
    recipe = manifest.recipe.model_copy(update={"guest": guest})
    artifact.describe(manifest.model_copy(update={"recipe": recipe}))
    return Artifact(artifact.directory)


def domain(artifact: Artifact, wishes: Wishes) -> Domain:
    wrapper = install._wrapper(artifact, wishes, Settings())
    place = Place("/pool", "web")
    return install._domain(place, artifact, wishes, (), wrapper, network="none", kvm=False, uuid=UUID_OF_WEB)


def test_a_guest_is_what_its_recipe_says(artifact: Artifact) -> None:
    found = domain(artifact, Wishes())
    assert (found.overlayfs, found.cache, found.vcpus) == (True, "mixed", 3)
    assert install._wanted(artifact, Wishes()) == (parse("data:data:/srv/data"),)


def test_what_is_said_beside_it_counts_more(artifact: Artifact) -> None:
    wishes = Wishes(cache="always", vcpus=1, shares=(parse("more:more:/srv/more"),))
    assert (domain(artifact, wishes).cache, domain(artifact, wishes).vcpus) == ("always", 1)
    assert [each.tag for each in install._wanted(artifact, wishes)] == ["data", "more"]
    with pytest.raises(VirtrootError, match="two shares have the tag 'data'"):
        install._wanted(artifact, Wishes(shares=(parse("data:x:/srv/x"),)))


def test_a_guest_that_is_thrown_away_has_none_of_its_recipes_shares(artifact: Artifact) -> None:
    wishes = Wishes(transient="nightly here", shares=(parse("more:more:/srv/more"),))
    assert [each.tag for each in install._wanted(artifact, wishes)] == ["more"]


def test_overlayfs_on_a_root_that_is_an_overlay_is_refused() -> None:
    for way in ("snapshot", "reflink", "copy"):
        overlayfs.refuse_layer(way)
    with pytest.raises(VirtrootError, match="cannot mount overlayfs on it itself"):
        overlayfs.refuse_layer("overlay")

"""What a guest is to be: what its recipe says, and what is said beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pipelines import install
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import RecordedGuest
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import host_requests
from pipelines.guest.domain import Domain
from pipelines.guest.install_options import InstallOptions
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import overlayfs
from pipelines.pool.place import Place
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import parse
from pipelines.settings import Settings
from pipelines.target.target import Local
from tests.support.artifacts import made
from tests.support.guests import make_guest

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


def domain(artifact: Artifact, options: InstallOptions) -> Domain:
    wrapper = install._choose_wrapper(artifact, options, Settings())
    place = Place("/pool", "web")
    return install._make_domain(place, artifact, options, (), wrapper, network="none", kvm=False, uuid=UUID_OF_WEB)


def test_a_guest_is_what_its_recipe_says(artifact: Artifact) -> None:
    found = domain(artifact, InstallOptions())
    assert (found.overlayfs, found.cache, found.vcpus) == (True, "mixed", 3)
    assert install._merge_shares(artifact, InstallOptions()) == (parse("data:data:/srv/data"),)


def test_what_is_said_beside_it_counts_more(artifact: Artifact) -> None:
    options = InstallOptions(cache="always", vcpus=1, shares=(parse("more:more:/srv/more"),))
    assert (domain(artifact, options).cache, domain(artifact, options).vcpus) == ("always", 1)
    assert [each.tag for each in install._merge_shares(artifact, options)] == ["data", "more"]
    with pytest.raises(VirtrootError, match="two shares have the path '/srv/data'"):
        install._merge_shares(artifact, InstallOptions(shares=(parse("x:x:/srv/data"),)))


def test_a_share_that_the_user_gives_replaces_the_recorded_one_of_its_tag(artifact: Artifact) -> None:
    given = parse("data:/srv/x:/srv/x")
    assert install._merge_shares(artifact, InstallOptions(shares=(given,))) == (given,)


def test_a_directory_of_the_host_in_a_manifest_is_refused(artifact: Artifact) -> None:
    hostile = recording(artifact, shares=("fine:name:/srv/a", "h:/srv/media:/mnt/h:ro"))
    with pytest.raises(VirtrootError, match="requests the directory /srv/media of the host") as refused:
        install._merge_shares(hostile, InstallOptions(consent=host_requests.grant))
    assert "--share h:/srv/media:/mnt/h:ro" in refused.value.hint
    assert install._merge_shares(hostile, InstallOptions(transient="run here")) == ()


def recording(artifact: Artifact, **guest: Any) -> Artifact:
    manifest = artifact.manifest
    recipe = manifest.recipe.model_copy(update={"guest": RecordedGuest(**guest)})
    artifact.describe(manifest.model_copy(update={"recipe": recipe}))
    return Artifact(artifact.directory)


class Machine(Hypervisor):
    """A libvirt whose guests are those of the test."""

    def __init__(self) -> None:
        super().__init__(Local())


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    db = make_guest(Machine(), "db", shares=(Share("d", "/pool/share.data"),))
    monkeypatch.setattr(guests, "list_guests", lambda _: [db])


def ask(artifact: Artifact, options: InstallOptions) -> None:
    install._refuse_unaccepted(Machine(), "/pool", "web", artifact, options, install._merge_shares(artifact, options))


@pytest.mark.usefixtures("others")
def test_what_a_recipe_asks_of_the_host_is_shown_whole_and_given_only_with_consent(
    artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = recording(artifact, overlayfs=True, network="lan", shares=("data:data:/srv/data", "new:new:/srv/n:ro"))
    with pytest.raises(VirtrootError, match="requests more from the host") as refused:
        ask(asking, InstallOptions())
    assert (refused.value.exit_code, refused.value.hint[:12]) == (2, "use --accept")
    shown = capsys.readouterr().err
    for line in (
        "share data: /pool/share.data of the host, read-write, at /srv/data, which db shares",
        "share new: /pool/share.new of the host, read-only, at /srv/n",
        "overlayfs: the virtiofsd of its root keeps CAP_SYS_ADMIN on the host",
        "network 'lan' of libvirt, instead of the default one",
    ):
        assert line in shown
        assert line in refused.value.what
    with pytest.raises(VirtrootError, match="requests more from the host"):
        ask(asking, InstallOptions(consent=lambda _: False))
    ask(asking, InstallOptions(consent=host_requests.grant))


@pytest.mark.usefixtures("others")
def test_what_the_user_gives_is_not_asked_again(artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    ask(artifact, InstallOptions(overlayfs=True, shares=(parse("data:data:/srv/data"),)))
    for network in ("auto", "user", "none", "default"):
        ask(recording(artifact, network=network), InstallOptions())
    # The recorded shares are not for guests that are thrown away, and nothing else is asked.
    ask(recording(artifact, shares=("data:data:/srv/data",)), InstallOptions(transient="run here"))
    assert capsys.readouterr().err == ""
    with pytest.raises(VirtrootError, match="requests more from the host"):
        ask(recording(artifact, overlayfs=True), InstallOptions(transient="run here"))


def test_a_guest_that_is_thrown_away_has_none_of_its_recipes_shares(artifact: Artifact) -> None:
    options = InstallOptions(transient="nightly here", shares=(parse("more:more:/srv/more"),))
    assert [each.tag for each in install._merge_shares(artifact, options)] == ["more"]


def test_overlayfs_on_a_root_that_is_an_overlay_is_refused() -> None:
    for way in ("snapshot", "reflink", "copy"):
        overlayfs.refuse_layer(way)
    with pytest.raises(VirtrootError, match="cannot mount overlayfs on it"):
        overlayfs.refuse_layer("overlay")

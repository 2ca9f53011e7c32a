"""The user's choices at an upgrade: paths to keep and to discard."""

from __future__ import annotations

import pytest

from pipelines.errors import VirtrootError
from pipelines.merge.choices import Choices
from tests.support.moves import moved
from tests.support.surveys import system


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("etc/ssh", "is below one of"),
        ("proc/1", "is below one of"),
        ("lib/systemd", "is below one of"),
        ("a/../etc", "is not a path"),
        ("", "is not a path"),
        ("var", "holds files of packages"),
        ("var/lib", "holds files of packages"),
        ("usr", "holds files of packages"),
        ("usr/lib", "holds files of packages"),
        ("var/lib/dpkg", "holds files of packages"),
        ("var/lib/pacman/local", "belongs to the package manager"),
    ],
)
def test_a_path_that_cannot_be_kept_is_refused(path: str, why: str) -> None:
    with pytest.raises(VirtrootError, match=f"cannot be kept: it {why}"):
        moved(system(), system(), system(), Choices(keep=(path,)))


@pytest.mark.parametrize("path", ["usr/local", "usr/lib/app", "var/lib/docker", "var/cache/app", "opt", "library"])
def test_other_paths_can_be_kept(path: str) -> None:
    assert path in moved(system(), system(), system(), Choices(keep=(path,))).kept


@pytest.mark.parametrize("path", ["etc/x", "", "../x"])
def test_a_path_that_cannot_be_discarded_is_refused(path: str) -> None:
    with pytest.raises(VirtrootError, match="cannot be discarded"):
        moved(system(), system(), system(), Choices(discard=(path,)))


def test_a_path_that_is_discarded_is_not_kept_any_more() -> None:
    said = Choices(keep=("opt/new",), discard=("var/lib/docker",))
    assert said.add_kept(["opt/old", "var/lib/docker", "var/lib/docker/x", "opt/new"]).keep == ("opt/old", "opt/new")

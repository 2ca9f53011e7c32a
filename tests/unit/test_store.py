from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.artifact.artifact import MANIFEST, Artifact
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError

RECIPE = Path("web.yaml")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def fail(store: Store) -> None:
    with store.new_build("web", "2") as artifact:
        artifact.log.write_text("why")
        raise RuntimeError


def test_latest_names_the_build_that_ended_last(store: Store, tmp_path: Path) -> None:
    for build in ("1", "2"):
        with store.new_build("web", build) as artifact:
            (artifact.directory / MANIFEST).write_text(build)
    assert store.latest("web", RECIPE) == Artifact(tmp_path / "web" / "2")
    assert (tmp_path / "web" / "latest").readlink() == Path("2")
    assert store.find("web/1") == Artifact(tmp_path / "web" / "1")


def test_a_build_with_options_is_not_the_recipes_latest(store: Store, tmp_path: Path) -> None:
    with store.new_build("web", "1"):
        pass
    with store.new_build("web", "2", latest=False):
        pass
    assert store.latest("web", RECIPE).directory.name == "1"
    assert (tmp_path / "web" / "2").is_dir()


@pytest.mark.parametrize("foreign", ["../x", "web/../../x", "/etc/x", "web", "web/", "web/.partial-1", "a/b/c", ""])
def test_an_id_that_is_a_path_elsewhere_is_not_followed(tmp_path: Path, foreign: str) -> None:
    store = Store(tmp_path / "output")
    for place in ("x", "output/web/.partial-1", "output/a/b/c"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / MANIFEST).write_text("{}")
    assert store.find(foreign) is None


def test_two_recipes_of_one_name_do_not_share_their_builds(store: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "web.yaml", tmp_path / "b" / "web.yaml"
    for path in (first, second):
        path.parent.mkdir()
        path.touch()
    store.claim("web", first)
    store.claim("web", first)
    for refused in (store.claim, store.latest):
        with pytest.raises(VirtrootError, match=r"contains builds of .*a/web\.yaml"):
            refused("web", second)
    first.unlink()  # the recipe was moved
    store.claim("web", second)


def test_a_lock_of_another_user_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / ".locks").write_text("no directory")
    with pytest.raises(VirtrootError, match=r"cannot lock the recipe web: .*/\.locks"), Store(tmp_path).lock("web"):
        pass


def test_a_failed_build_publishes_nothing_but_its_log(store: Store, tmp_path: Path) -> None:
    with store.new_build("web", "1"):
        pass
    with pytest.raises(RuntimeError):
        fail(store)
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["1", "failed", "latest"]
    assert (tmp_path / "web" / "failed" / "build.log").read_text() == "why"
    assert store.latest("web", RECIPE).directory.name == "1"


def test_what_a_killed_build_left_is_cleared(store: Store, tmp_path: Path) -> None:
    (tmp_path / "web" / ".partial-1").mkdir(parents=True)
    (tmp_path / "web" / ".partial-1" / "rootfs.tar.zst").write_text("half")
    (tmp_path / "web" / ".partial-latest").symlink_to("1")
    store.clear("web")
    assert list((tmp_path / "web").iterdir()) == []


def test_one_task_at_a_time_per_recipe(store: Store, tmp_path: Path) -> None:
    with store.lock("web"):
        with pytest.raises(VirtrootError, match="another task works on the recipe web"), store.lock("web"):
            pass
        with store.lock("db"), store.lock("web", "verification"):
            pass
    with store.lock("web"):
        pass


def test_no_build_yet_says_how_to_make_one(store: Store) -> None:
    with pytest.raises(VirtrootError, match="no build of"):
        store.latest("web", RECIPE)


def test_a_recipe_and_an_import_keep_out_of_each_others_builds(store: Store, tmp_path: Path) -> None:
    store.claim_import("moved", tmp_path / "disk")
    # An import that failed keeps the name from nobody.
    store.claim("moved", tmp_path / "moved.yaml")
    assert store.imported("moved") is None
    with pytest.raises(VirtrootError, match="contains builds of"):
        store.claim_import("moved", tmp_path / "disk")

    store.claim_import("other", tmp_path / "disk")
    with store.new_build("other", "1") as artifact:
        (artifact.directory / MANIFEST).write_text("{}")
    assert store.imported("other") == Artifact(tmp_path / "other" / "1")
    assert (store.recipes(), store.kept()) == (["moved"], ["moved", "other"])
    with pytest.raises(VirtrootError, match="contains an imported system"):
        store.claim("other", tmp_path / "other.yaml")
    assert store.imported("../other") is None

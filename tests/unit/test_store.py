from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def fail(store: Store) -> None:
    with store.new_build("web", "2") as directory:
        (directory / "build.log").write_text("why")
        raise RuntimeError


def test_latest_names_the_build_that_ended_last(store: Store, tmp_path: Path) -> None:
    for build in ("1", "2"):
        with store.new_build("web", build) as directory:
            (directory / "manifest.json").write_text(build)
    assert store.latest("web") == tmp_path / "web" / "2"
    assert (tmp_path / "web" / "latest").readlink() == Path("2")
    assert store.find("web/1") == tmp_path / "web" / "1"


def test_a_failed_build_publishes_nothing_but_its_log(store: Store, tmp_path: Path) -> None:
    with store.new_build("web", "1"):
        pass
    with pytest.raises(RuntimeError):
        fail(store)
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["1", "failed", "latest"]
    assert (tmp_path / "web" / "failed" / "build.log").read_text() == "why"
    assert store.latest("web").name == "1"


def test_what_a_killed_build_left_is_cleared(store: Store, tmp_path: Path) -> None:
    (tmp_path / "web" / ".partial-1").mkdir(parents=True)
    (tmp_path / "web" / ".partial-1" / "rootfs.tar.zst").write_text("half")
    (tmp_path / "web" / ".partial-latest").symlink_to("1")
    store.clear("web")
    assert list((tmp_path / "web").iterdir()) == []


def test_one_task_at_a_time_per_recipe(store: Store, tmp_path: Path) -> None:
    with store.lock("recipe", "web"):
        with pytest.raises(VirtrootError, match="another task works on the recipe web"), store.lock("recipe", "web"):
            pass
        with store.lock("recipe", "db"), store.lock("guest", "web"):
            pass
    with store.lock("recipe", "web"):
        pass


def test_no_build_yet_says_how_to_make_one(store: Store) -> None:
    with pytest.raises(VirtrootError, match="has not been built"):
        store.latest("web")

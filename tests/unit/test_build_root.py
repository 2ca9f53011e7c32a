"""Where a build begins, which builders it takes, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any
from unittest.mock import create_autospec

import pytest

from pipelines.builder import inputs
from pipelines.builder.build_root import RootBuild
from pipelines.builder.cache import StageCache
from pipelines.builder.container import Builder
from pipelines.builder.stages import StageRunner
from pipelines.errors import VirtrootError
from pipelines.host.process import Completed

IDS = tuple("abcdef")


class Site:
    """A build of the recipe debian, with stand-ins for its builders."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "stages"
        self.cache = StageCache(directory, 1 << 20)
        #: Each builder as it was started, and whether it is gone.
        self.started: list[str] = []
        self.open = 0
        self.refusing = ""

    @contextmanager
    def start(self, apart: bool) -> Iterator[Builder]:
        self.started.append("apart" if apart else "bare")
        self.open += 1
        double = create_autospec(Builder, instance=True)
        double.run.side_effect = self._run
        try:
            yield double
        finally:
            self.open -= 1

    def _run(
        self, argv: Any, *, stdin: IO[bytes] | None = None, stdout: Callable[[bytes], object] | None = None, **_: object
    ) -> Completed:
        if stdout:
            stdout(b"a packed root")
        if stdin:
            stdin.read()
        failing = bool(self.refusing) and any(self.refusing in word for word in argv)
        return Completed(tuple(argv), int(failing), b"0", b"")

    def make(self, *, unmoved: bool = True) -> list[str]:
        """Make the root; return the stages that were not run."""
        self.started.clear()
        logs = (self.directory / "log", self.directory / "failed")
        runner = StageRunner(inputs.find("debian").trees, *logs, nullcontext)
        with RootBuild(inputs.find("debian"), IDS, self.cache, runner, self.start, lambda: unmoved) as making:
            making.make()
        return [stage.name for stage in runner.times if stage.cached]

    def kept(self) -> list[str]:
        return [identity for identity in IDS if self.cache.has(identity)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_first_build_keeps_and_a_second_starts_from_the_last_with_one_builder(site: Site) -> None:
    assert site.make() == []
    assert (site.started, site.kept()) == (["bare"], ["a", "c", "d"])
    assert site.make() == ["base", "skeleton", "kernel", "packages"]
    assert site.started == ["apart"]
    assert site.open == 0


def test_packages_are_installed_where_downloads_are(site: Site) -> None:
    site.make()
    site.cache.forget("d")
    assert site.make() == ["base", "skeleton", "kernel"]
    assert site.started == ["bare"]


def test_what_belongs_to_no_state_of_the_mirror_is_not_kept(site: Site) -> None:
    site.make(unmoved=False)
    assert site.kept() == []
    assert [path.name for path in site.home.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("damaged", "restored", "builders"),
    [("d", ["base", "skeleton", "kernel"], ["apart", "bare"]), ("dc", ["base"], ["apart", "bare", "bare"])],
)
def test_a_root_that_is_not_what_was_kept_goes_with_its_builder(
    site: Site, damaged: str, restored: list[str], builders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    site.make()
    for identity in damaged:
        (site.home / f"{identity}.tar.zst").write_bytes(b"a packed mole")
    assert site.make() == restored
    assert (site.started, site.open) == (builders, 0)
    assert capsys.readouterr().err.count("is damaged; building it again") == len(damaged)
    # Kept again, as it should be.
    assert site.make() == ["base", "skeleton", "kernel", "packages"]


def test_a_root_that_is_whole_and_has_no_room_is_an_error_and_stays(site: Site) -> None:
    site.make()
    site.refusing = "--extract"
    with pytest.raises(VirtrootError, match="stage packages: tar exited with 1"):
        site.make()
    assert site.kept() == ["a", "c", "d"]
    assert site.open == 0


def test_a_root_that_cannot_be_packed_is_not_kept(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.refusing = "--create"
    site.make()
    assert site.kept() == []
    assert "is not cached" in capsys.readouterr().err


def test_a_stage_that_fails_leaves_what_was_kept_before_it(site: Site) -> None:
    site.refusing = "linux-image-cloud-amd64"
    with pytest.raises(VirtrootError, match="stage kernel"):
        site.make()
    assert site.kept() == ["a"]
    site.refusing = ""
    assert site.make() == ["base"]

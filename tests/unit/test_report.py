"""Pages of the report as text. The integration tests show them in a browser."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest

from pipelines.artifact.history import History
from pipelines.artifact.store import Store
from pipelines.errors import Phase, VirtrootError
from pipelines.night.report import pages
from pipelines.night.report.facts import gather
from tests.support import histories
from tests.support.artifacts import made
from tests.support.report_pages import NOW, output, write_page

__all__ = ["output"]


def test_the_index_lists_failures_first(output: Path) -> None:
    histories.good(output, "a-good")
    histories.twelve_nights(output, "web")
    made(output, "never", histories.build_name(0))
    index = write_page(output)
    assert [row[:4] for row in index.rows("recipes")] == [
        ["web", "✕ failed", "2026-11-10 02:00", "boot: no agent answered within 300 s"],
        ["a-good", "✓ good", "2026-11-01 02:00", "unchanged"],
        ["never", "? unknown", "–", "none yet"],
    ]
    assert index.rows("recipes")[0][6:] == ["3d", histories.build_name(histories.BROKEN - 1)]
    assert index.rows("recipes")[2][6:] == ["–", "none"]
    assert [each.get("href") for each in index.all("a")] == ["web/index.html", "a-good/index.html", "never/index.html"]
    assert "3 recipes: 1 failed, 1 good, 1 unknown." in index.texts("p")
    assert [each.get("aria-label") for each in index.all("svg", "marks")] == [
        "days: 4 failed, 7 good, 1 missing",
        "days: 3 good",
    ]


def test_a_failure_lists_the_packages_that_changed_since_the_last_good_run(output: Path) -> None:
    histories.twelve_nights(output)
    web = write_page(output, "web")
    assert "failed since 2026-11-10 02:00 (2d)" in web.texts("dd")[0]
    assert web.texts("h3")[:3] == ["Last good", "First broken", "This one"]
    assert web.rows("packages") == [
        ["linux-image-cloud-amd64", "upgraded", "6.12.48-1", "6.12.57-1"],
        ["systemd", "upgraded", "257.8-1~deb13u2", "257.9-1~deb13u1"],
        ["tzdata", "upgraded", "2026b-0+deb13u1", "2026c-0+deb13u1"],
        ["zlib1g", "downgraded", "1:1.3.dfsg+really1.3.1-1+b1", "1:1.3.dfsg-2"],
    ]
    assert any("Kernel panic" in each for each in web.texts("pre"))


def test_changed_packages_are_known_without_the_builds(output: Path) -> None:
    histories.twelve_nights(output)
    facts = gather(Store(output), "web")
    assert facts.last_good is not None
    assert facts.last is not None
    whole = facts.compare_packages(facts.last_good, facts.last)
    assert whole
    store = Store(output)
    for build in store.builds("web")[1:]:
        store.delete(build)
    assert gather(store, "web").compare_packages(facts.last_good, facts.last) == whole
    store.delete(store.builds("web")[0])
    # Which of two versions is newer depends on the distribution, and no build is left that tells.
    assert gather(store, "web").compare_packages(facts.last_good, facts.last) is None
    assert "Not known" in " ".join(write_page(output, "web").texts("p"))


def test_files_are_linked_while_they_exist(output: Path) -> None:
    histories.twelve_nights(output)
    web = write_page(output, "web")
    links = [unquote(each.get("href", "")) for each in web.all("a")]
    assert links.count("../index.html") == 1
    files = [link for link in links if link != "../index.html"]
    build = histories.build_name(histories.DAYS - 1)
    assert {f"{build}/manifest.json", f"{build}/build.log", f"{build}/junit-guest-night-web.xml"} <= set(files)
    for link in files:
        assert (output / "web" / link).is_file()
    store = Store(output)
    store.delete(store.builds("web")[-1])
    assert not [each for each in write_page(output, "web").all("a") if build in each.get("href", "")]


def test_the_log_of_a_build_that_failed_is_linked_while_it_is_the_last(output: Path) -> None:
    nights = histories.twelve_nights(output)
    history = History(output / "web" / "history.jsonl")
    log = Store(output).failed_log("web")
    log.parent.mkdir()
    log.write_text("E: no such package\n")
    assert "failed/build.log" not in [each.get("href") for each in write_page(output, "web").all("a")]
    later = {
        "time": "2026-11-13T02:00:00Z",
        "artifact": "",
        "stages": (),
        "failure": histories.failure(Phase.BUILD, "apt"),
    }
    history.append(nights[-1].model_copy(update=later))
    assert "failed/build.log" in [each.get("href") for each in write_page(output, "web").all("a")]


def test_a_history_may_have_no_run_or_one(output: Path) -> None:
    output.mkdir()
    assert "No recipe has been built here yet." in write_page(output).texts("p")
    histories.good(output, "one", nights=1)
    assert "1 recipe: 1 good." in write_page(output).texts("p")
    made(output, "none", histories.build_name(0))
    assert "No nightly run has been recorded yet." in write_page(output, "none").texts("p")
    one = write_page(output, "one")
    assert len(one.all("figure")) == 3
    assert [row[1] for row in one.rows("nights")] == ["▲ promoted"]
    nothing = History(output / "unbuilt" / "history.jsonl")
    nothing.append(histories.night("unbuilt", histories.MIRROR, None))
    unbuilt = write_page(output, "unbuilt")
    assert "No run was good yet." in unbuilt.texts("p")
    assert not unbuilt.all("figure")


def test_a_page_that_cannot_be_written_is_not_changed(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories.good(output)
    pages.write(output, NOW)
    before = {path: path.read_text() for path in output.rglob("index.html")}
    write = Path.write_text

    def full(self: Path, text: str, encoding: str) -> int:
        write(self, text[:100], encoding=encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(VirtrootError, match="No space left on device"):
        pages.write(output, NOW + timedelta(days=1))
    assert {path: path.read_text() for path in output.rglob("*index.html*")} == before


def test_the_pages_are_written_by_one_task_at_a_time(output: Path) -> None:
    histories.good(output)
    with Store(output).lock("all", "report"), pytest.raises(VirtrootError, match="another task"):
        pages.write(output, NOW)

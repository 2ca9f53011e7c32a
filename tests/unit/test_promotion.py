from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import tasks
from pipelines import promote as promoting
from pipelines.artifact.manifest import Rootfs
from pipelines.artifact.promotion import Golden
from pipelines.artifact.store import Store
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.settings import Settings
from tests.support import recording
from tests.support.artifacts import made


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    return Store(tmp_path).golden("web")


def promote(tmp_path: Path, golden: Golden, *builds: str) -> None:
    for build in builds:
        golden.promote(made(tmp_path, "web", build))


def test_golden_names_what_was_promoted_last(tmp_path: Path, golden: Golden) -> None:
    assert golden.artifact is None
    promote(tmp_path, golden, "20261101T030000Z-a", "20261102T030000Z-b")
    assert golden.artifact is not None
    assert golden.artifact.id == "web/20261102T030000Z-b"
    assert (tmp_path / "web" / "golden").readlink() == Path("20261102T030000Z-b")


@pytest.mark.parametrize(("good", "why"), [(False, "failed in a booted guest"), (None, "was not checked in a booted")])
def test_what_was_not_found_good_is_never_promoted(tmp_path: Path, golden: Golden, good: bool | None, why: str) -> None:
    promote(tmp_path, golden, "1")
    with pytest.raises(VirtrootError, match=why):
        golden.promote(made(tmp_path, "web", "2", good=good))
    assert golden.artifact is not None
    assert golden.artifact.id == "web/1"


def test_it_never_goes_back_in_time_by_itself(tmp_path: Path, golden: Golden) -> None:
    older = made(tmp_path, "web", "1")
    promote(tmp_path, golden, "2")
    assert golden.is_older(older)
    with pytest.raises(VirtrootError, match="web/1 is older than the golden root web/2"):
        golden.promote(older)


def test_demote_goes_back_and_is_remembered(
    tmp_path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(tmp_path, golden, "1", "2", "3")
    back = golden.artifact
    monkeypatch.setenv("INVOKE_VIRTROOT_OUTPUT", str(tmp_path))
    recording.note(["inv", "demote", "web"])
    tasks.program.run(["inv", "demote", "web"])
    assert "web/2" in capsys.readouterr().err
    now = golden.artifact
    assert back is not None
    assert now is not None
    assert (back.id, now.id) == ("web/3", "web/2")
    assert golden.is_demoted(back)
    assert not golden.is_demoted(now)
    assert golden.demote()[1].id == "web/1"
    with pytest.raises(VirtrootError, match="web has no previous golden root"):
        golden.demote()
    golden.promote(back)
    assert not golden.is_demoted(back)
    assert golden.previous is not None
    assert golden.previous.id == "web/2" or golden.previous.id == "web/1"


def test_a_former_one_that_is_gone_is_passed_over(tmp_path: Path, golden: Golden) -> None:
    promote(tmp_path, golden, "1", "2", "3")
    Store(tmp_path).delete(made(tmp_path, "other", "9"))
    (tmp_path / "web" / "2" / "manifest.json").unlink()
    assert golden.demote()[1].id == "web/1"


def test_a_link_that_leads_elsewhere_is_no_golden_root(tmp_path: Path, golden: Golden) -> None:
    made(tmp_path, "web", "1")
    made(tmp_path, "other", "9")
    (tmp_path / "web" / "golden").symlink_to("../other/9")
    assert golden.artifact is None
    (tmp_path / "web" / "golden").unlink()
    (tmp_path / "web" / "golden").symlink_to("golden")
    assert golden.artifact is None


def test_a_killed_promotion_is_done_again(tmp_path: Path, golden: Golden) -> None:
    promote(tmp_path, golden, "1")
    # As between the note and the link, with the link's partial there.
    (tmp_path / "web" / ".partial-golden").symlink_to("2")
    (tmp_path / "web" / ".promotions.json").write_text('{"promoted": ["1", "2"]}')
    second = made(tmp_path, "web", "2")
    assert golden.artifact is not None
    assert golden.artifact.id == "web/1"
    assert golden.previous is None
    golden.promote(second)
    assert golden.artifact.id == "web/2"
    assert golden.demote()[1].id == "web/1"


def test_a_broken_note_says_what_to_do(tmp_path: Path, golden: Golden) -> None:
    promote(tmp_path, golden, "1")
    (tmp_path / "web" / ".promotions.json").write_text("{")
    with pytest.raises(VirtrootError, match=r"\.promotions\.json"):
        golden.demote()


def test_install_takes_the_golden_root_else_the_latest_build(tmp_path: Path, golden: Golden) -> None:
    store, source = Store(tmp_path), Path("/nowhere/web.yaml")
    for build in ("1", "2"):
        made(tmp_path, "web", build)
    (tmp_path / "web" / "latest").symlink_to("2")
    assert [store.best("web", source)[0].id, store.best("web", source)[1]] == ["web/2", "latest build"]
    golden.promote(store.builds("web")[0])
    assert [store.best("web", source)[0].id, store.best("web", source)[1]] == ["web/1", "golden root"]


def test_the_verbs_take_names_of_builds(tmp_path: Path) -> None:
    settings = Settings(output=str(tmp_path))
    for build in ("1", "2", "3"):
        made(tmp_path, "web", build)
    (tmp_path / "web" / "latest").symlink_to("3")
    for name, recipe in (("web/latest~1", ""), ("latest~1", "web"), ("2", "recipes/web.yaml")):
        assert promoting.pin(name, recipe, CommandContext(settings), keep=True).id == "web/2"
    artifact = Store(tmp_path).builds("web")[2]
    artifact.tarball.write_bytes(b"a root")
    rootfs = Rootfs(sha256=hashlib.sha256(b"a root").hexdigest(), size=6, unpacked_size=6, entries=1)
    artifact.describe(artifact.manifest.model_copy(update={"rootfs": rootfs}))
    assert promoting.promote("latest", "web", CommandContext(settings)).id == "web/3"
    # What a link names, not the link, is golden.
    assert (tmp_path / "web" / "golden").readlink() == Path("3")


def test_the_verbs_take_ids_and_refuse_what_is_none(tmp_path: Path) -> None:
    settings = Settings(output=str(tmp_path))
    made(tmp_path, "web", "1")
    for wrong in ("web", "web/9", "../web/1", "/web/1", "latest"):
        with pytest.raises(VirtrootError, match=r"no build|no latest build"):
            promoting.pin(wrong, "", CommandContext(settings), keep=True)
    assert promoting.pin("web/1", "", CommandContext(settings), keep=True).pinned
    assert not promoting.pin("web/1", "", CommandContext(settings), keep=False).pinned
    with pytest.raises(VirtrootError, match="cannot read"):
        promoting.promote("web/1", "", CommandContext(settings))
    with pytest.raises(VirtrootError, match="no builds of mail"):
        promoting.demote("mail", CommandContext(settings))


def test_what_was_taken_back_is_never_gone_back_to(tmp_path: Path) -> None:
    golden = Store(tmp_path).golden("web")
    for build in "123":
        golden.promote(made(tmp_path, "web", build))
    golden.demote()
    golden.promote(made(tmp_path, "web", "4"))
    assert golden.previous is not None
    assert golden.previous.directory.name == "2"
    assert golden.demote()[1].id == "web/2"

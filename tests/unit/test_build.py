"""The mirror, asked before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from pipelines import build
from pipelines.builder import inputs, mirror_state
from pipelines.builder.mirror_state import Asker
from pipelines.engine.engine import Container, Engine
from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.recipe.mirror import MirrorState, parse
from pipelines.settings import Settings

BEFORE = "1750000000\nabc  trixie\n"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine whose containers answer what the mirror of `BEFORE` says."""
    made = create_autospec(Engine, instance=True)
    made.start.side_effect = lambda *_, **__: answering(BEFORE)
    monkeypatch.setattr("pipelines.builder.container.ensure_image", lambda *_: ("virtroot/debian:1", "sha256:1"))
    return made


def answering(answer: str, status: int = 0) -> Any:
    container = create_autospec(Container, instance=True)
    container.run.return_value = Completed(("mirror-state",), status, answer.encode(), b"no route")
    return container


@pytest.mark.parametrize(
    ("answer", "status", "moved", "said"),
    [
        (BEFORE, 0, False, ""),
        ("1750000001\nabd  trixie\n", 0, True, "the mirror changed during the build"),
        ("", 1, True, "cannot tell whether the mirror changed"),
        ("not a date", 0, True, "cannot tell whether the mirror changed"),
    ],
)
def test_a_mirror_that_moves_on_meanwhile_is_told_once(
    engine: Any, answer: str, status: int, moved: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    debian = inputs.find("debian")
    asker = Asker(engine, Settings())
    engine.start.side_effect = lambda *_, **__: answering(answer, status)
    watch = build._MirrorWatch(debian, asker, parse(BEFORE))
    assert [watch.is_unchanged(), watch.is_unchanged(), watch.moved] == [not moved, not moved, moved]
    told = capsys.readouterr().err
    assert said in told
    assert told.count("the manifest records it") == moved


def test_the_same_question_is_asked_once_and_anew_when_that_is_said(engine: Any) -> None:
    trixie, bookworm = inputs.find("debian"), inputs.find("debian", overrides={"release": "bookworm"})
    with Asker(engine, Settings()) as asker:
        for each in (trixie, inputs.find("debian", overrides={"bootstrap": "mmdebstrap"}), bookworm, trixie):
            assert asker.ask(each) == parse(BEFORE)
        (builder,) = asker._containers.values()
        container: Any = builder.container
        run = container.run
        assert [call.args[0][1] for call in run.call_args_list] == ["trixie", "bookworm"]
        asker.ask(trixie, again=True)
        assert run.call_count == 3
        container.remove.assert_not_called()
    container.remove.assert_called_once_with()
    assert engine.start.call_count == 1
    assert engine.start.call_args.kwargs["tied"]
    assert not {"volumes", "tmpfs", "capabilities"} & set(engine.start.call_args.kwargs)


def test_what_is_set_up_for_other_keys_is_asked_elsewhere(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "key.asc").write_text("key")
    for name, line in (("a", "siglevel: never"), ("b", "mirror: {url: http://a.example, keyring: key.asc}")):
        (tmp_path / f"{name}.yaml").write_text(f"distro: arch\n{line}\n")
    with Asker(engine, Settings()) as asker:
        for name in "aba":
            asker.ask(inputs.find(recipe=str(tmp_path / f"{name}.yaml")))
    assert engine.start.call_count == 2


def test_what_a_killed_task_asked_in_goes_with_the_next_of_its_owner(engine: Any) -> None:
    with Asker(engine, Settings()):
        pass
    engine.remove_containers.assert_not_called()
    with Asker(engine, Settings(), "recipe web") as asker:
        asker.ask(inputs.find("debian"))
    (labels,) = engine.remove_containers.call_args.args
    assert labels["virtroot.owner"] == "recipe web"
    assert engine.start.call_args.kwargs["labels"] == labels


def test_a_mirror_that_does_not_answer_is_the_mirrors_failure(engine: Any) -> None:
    engine.start.side_effect = lambda *_, **__: answering("", 1)
    with Asker(engine, Settings()) as asker, pytest.raises(VirtrootError, match="does not answer") as error:
        asker.ask(inputs.find("debian"))
    assert (error.value.where, error.value.detail) == ("mirror", "no route")


def test_a_mirror_that_did_not_answer_is_left_alone_for_a_while(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start.side_effect = lambda *_, **__: answering("", 1)
    trixie, bookworm = inputs.find("debian"), inputs.find("debian", overrides={"release": "bookworm"})
    with Asker(engine, Settings()) as asker:

        def asked() -> int:
            (builder,) = asker._containers.values()
            container: Any = builder.container
            return int(container.run.call_count)

        for planned, count in ((trixie, 1), (trixie, 1), (bookworm, 2), (trixie, 2)):
            with pytest.raises(VirtrootError, match="does not answer"):
                asker.ask(planned, again=True)
            assert asked() == count
        monkeypatch.setattr(mirror_state, "_RETRY_AFTER", 0)
        with pytest.raises(VirtrootError, match="does not answer"):
            asker.ask(trixie)
        assert asked() == 3


def test_the_epoch_is_the_mirrors_unless_the_environment_says_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert mirror_state.get_epoch(MirrorState(7, ())) == 7
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert mirror_state.get_epoch(MirrorState(7, ())) == 1700000000


def test_recipes_directory_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "debian" in inputs.list_names(Settings())

"""The mirror, asked before and after."""

from __future__ import annotations

from pathlib import Path
from typing import cast
from unittest.mock import create_autospec

import pytest

from pipelines import build
from pipelines.builder import inputs
from pipelines.builder.container import Builder
from pipelines.host.process import Completed
from pipelines.recipe.mirror import MirrorState, parse

BEFORE = "1750000000\nabc  trixie\n"


def worker(answer: str, status: int = 0) -> Builder:
    double = create_autospec(Builder, instance=True)
    double.run.return_value = Completed(("mirror-state",), status, answer.encode(), b"no route")
    return cast(Builder, double)


@pytest.mark.parametrize(
    ("answer", "status", "changed", "said"),
    [
        (BEFORE, 0, False, ""),
        ("1750000001\nabd  trixie\n", 0, True, "the mirror changed while this was built"),
        ("", 1, True, "cannot tell whether the mirror changed"),
        ("not a date", 0, True, "cannot tell whether the mirror changed"),
    ],
)
def test_a_mirror_that_moves_on_meanwhile_is_told(
    answer: str, status: int, changed: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    debian = inputs.find("debian")
    assert build._mirror_changed(worker(answer, status), debian, parse(BEFORE)) == changed
    assert said in capsys.readouterr().err


def test_the_epoch_is_the_mirrors_unless_the_environment_says_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert build._epoch(MirrorState(7, ())) == 7
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert build._epoch(MirrorState(7, ())) == 1700000000


def test_recipes_directory_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "debian" in inputs.names()

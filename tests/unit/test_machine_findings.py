"""Findings about this machine: whether it needs a container engine."""

from __future__ import annotations

import pytest

from pipelines.errors import VirtrootError
from pipelines.health import machine
from pipelines.settings import Settings


@pytest.mark.parametrize(
    ("connect", "answers", "needed"),
    [
        ("auto", True, False),
        ("qemu:///system", True, False),
        ("auto", False, True),
        ("qemu:///system", False, True),
        ("embedded", True, True),
    ],
)
def test_an_engine_is_needed_where_guests_run_in_one(
    monkeypatch: pytest.MonkeyPatch, connect: str, answers: bool, needed: bool
) -> None:
    def refuse() -> None:
        raise VirtrootError("no Docker engine answers", "run ./inv setup")

    monkeypatch.setattr("pipelines.engine.engine.connect", refuse)
    monkeypatch.setattr("pipelines.libvirt.connect.is_host_answering", lambda: answers)
    found = machine._judge_engine(Settings(connect=connect))
    assert (found.ok, found.needed) == (False, needed)
    assert ("only builds and imports need one" in found.says) is not needed

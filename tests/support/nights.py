"""Nights whose verbs are stood in for, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines import candidate
from pipelines import nightly as nights
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.history import RunRecord
from pipelines.artifact.manifest import Verdict
from pipelines.artifact.store import Store
from pipelines.builder.inputs import Inputs
from pipelines.context import CommandContext
from pipelines.errors import CheckFailed
from pipelines.settings import Settings
from tests.support.artifacts import made


class Stage:
    """The verbs, told what to do by the tests; ``said`` is what was called."""

    def __init__(self, output: Path) -> None:
        self.output, self.said = output, list[str]()
        self.builds: dict[str, str | Exception] = {}
        self.boots: list[Exception | None] = []
        self.kvm = False
        self.anew = "9"

    def build(self, inputs: Inputs, settings: Settings, *, asker: object, rebuild: bool = False) -> Artifact:
        self.said.append(f"build {inputs.name}{' anew' if rebuild else ''}")
        build = self.builds[inputs.name]
        if isinstance(build, Exception):
            raise build
        if rebuild:
            build = self.anew
        artifact = Artifact(self.output / inputs.name / build)
        return artifact if artifact.exists else made(self.output, inputs.name, build, good=None)

    def prove(self, artifact: Artifact) -> None:
        boot = self.boots.pop(0) if self.boots else None
        self.said.append("boot")
        manifest = Artifact(artifact.directory).manifest
        if isinstance(boot, CheckFailed) or boot is None:
            verdict = Verdict(passed=boot is None, tests=10, time="2026-11-01T00:00:00Z", seconds=1)
            artifact.describe(manifest.model_copy(update={"verdicts": {"guest": verdict}}))
        if boot:
            raise boot


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(tmp_path / "output")
    monkeypatch.setattr(nights, "build", stage.build)
    monkeypatch.setattr(nights, "_make_asker", lambda settings, stack: stage)
    monkeypatch.setattr("pipelines.libvirt.connect.find", lambda settings: None)
    monkeypatch.setattr(candidate, "verify_in_guest", lambda artifact, run, facts: stage.prove(artifact))
    monkeypatch.setattr(nights, "prune", lambda names, settings, keep: stage.said.append(f"prune {keep}"))
    return stage


@pytest.fixture
def night(stage: Stage, tmp_path: Path) -> Callable[..., list[str]]:
    """Run a night over recipes of that name, and return the outcomes."""

    def run(*names: str, jobs: int = 1, **settings: Any) -> list[str]:
        sources = [tmp_path / f"{name}.yaml" for name in names]
        for source in sources:
            source.write_text("distro: debian\n")
        stage.said.clear()
        with suppress(CheckFailed):
            nights.nightly(sources, CommandContext(Settings(output=str(stage.output), **settings)), keep=3, jobs=jobs)
        return [history(stage, name)[-1].outcome for name in names]

    return run


def history(stage: Stage, name: str) -> list[RunRecord]:
    return Store(stage.output).history(name).records()


def golden(stage: Stage, name: str) -> str:
    artifact = Store(stage.output).golden(name).artifact
    return artifact.directory.name if artifact else ""

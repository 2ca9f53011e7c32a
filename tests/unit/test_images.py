"""When an image is made anew, and what happens when that fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines import setup
from pipelines.engine import images
from pipelines.engine.engine import Engine, Image
from pipelines.errors import VirtrootError
from pipelines.health import machine
from pipelines.health.finding import Finding
from pipelines.settings import Settings

NOW = datetime.now(UTC)


class FakeEngine:
    """An engine's images, made at once; ``broken`` makes none."""

    def container(self, name: str) -> None:
        return None

    def __init__(self) -> None:
        self.there: dict[str, Image] = {}
        self.made: list[str] = []
        self.removed: list[str] = []
        self.broken = False

    def put(self, tag: str, days: float, **labels: str) -> Image:
        self.there[tag] = Image(f"{tag}@{days}", NOW - timedelta(days=days), labels)
        return self.there[tag]

    def age(self, tag: str, days: float) -> None:
        self.there[tag] = replace(self.there[tag], made=NOW - timedelta(days=days))

    def _make(self, tag: str, labels: Mapping[str, str]) -> None:
        if self.broken:
            raise VirtrootError(f"cannot make {tag}", "try later")
        self.made.append(tag)
        self.there[tag] = Image(f"{tag}#{len(self.made)}", datetime.now(UTC), dict(labels))

    def image(self, tag: str) -> Image | None:
        return self.there.get(tag)

    def image_id(self, tag: str) -> str | None:
        return self.there[tag].id if tag in self.there else None

    def images(self, repositories: str) -> dict[str, Image]:
        wanted = repositories.removesuffix("*")
        return {tag: image for tag, image in self.there.items() if tag.startswith(wanted)}

    def memory(self) -> int:
        return 8 << 30

    def refuse_foreign(self, name: str, labels: Mapping[str, str]) -> None:
        pass

    def registry_has(self, _: str) -> bool:
        return True

    def pull(self, _: str, tag: str) -> None:
        self._make(tag, {})

    def build_image(self, _: bytes, tag: str, arguments: Mapping[str, str], labels: Mapping[str, str]) -> None:
        assert arguments["BASE"] in self.there
        self._make(tag, labels)

    def remove_untagged(self, identity: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        self.removed.append(identity or str(labels))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(images, "_CONTAINERFILES", tmp_path)
    for name in ("tiny", "debian", "arch-on-debian", "hypervisor"):
        (tmp_path / f"{name}.Containerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    return FakeEngine()


BASE = "virtroot/base-auto:debian-trixie-slim"


def base(engine: Any, max_age: int) -> str:
    return images.ensure_base(engine, "auto", "debian:trixie-slim", "trixie", made_since=images.compute_oldest(max_age))


def built(engine: Any, max_age: int) -> tuple[str, str]:
    return images.ensure_built(engine, "tiny", BASE, made_since=images.compute_oldest(max_age))


@pytest.mark.parametrize(
    ("days", "max_age", "anew"), [(29, 30, False), (31, 30, True), (1000, 0, False), (0.9, 1, False), (1.1, 1, True)]
)
def test_a_base_is_pulled_anew_when_it_is_too_old(engine: Any, days: float, max_age: int, anew: bool) -> None:
    before = engine.put(BASE, days)
    assert base(engine, max_age) == BASE
    assert engine.made == ([BASE] if anew else [])
    assert engine.removed == ([before.id] if anew else [])


@pytest.mark.parametrize("days", [0, 1000])
def test_without_an_age_any_image_will_do(engine: Any, days: int) -> None:
    engine.put(BASE, days)
    images.ensure_base(engine, "auto", "debian:trixie-slim", "trixie")
    images.ensure_built(engine, "tiny", BASE)
    images.ensure_built(engine, "tiny", BASE)
    assert len(engine.made) == 1


def test_a_missing_image_is_made_whatever_the_age(engine: Any) -> None:
    base(engine, 0)
    tag, identity = built(engine, 0)
    assert engine.made == [BASE, tag]
    assert identity == engine.image_id(tag)
    assert built(engine, 30) == (tag, identity)
    assert engine.made == [BASE, tag]


def test_an_image_that_is_too_old_is_built_anew_under_its_tag(engine: Any) -> None:
    engine.put(BASE, 0)
    tag, before = built(engine, 30)
    engine.age(tag, 31)
    assert built(engine, 0) == (tag, before)
    again, identity = built(engine, 30)
    assert again == tag
    assert identity != before
    assert before in engine.removed


def test_an_image_follows_its_base(engine: Any) -> None:
    engine.put(BASE, 0)
    tag, before = built(engine, 30)
    engine.put(BASE, 1)
    assert built(engine, 30) == (tag, engine.image_id(tag))
    assert engine.image_id(tag) != before


def test_a_changed_file_is_another_image(engine: Any, tmp_path: Path) -> None:
    engine.put(BASE, 0)
    tag, _ = built(engine, 30)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "script").write_text("new")
    assert built(engine, 30)[0] != tag


def test_what_cannot_be_made_anew_is_used_as_it_is(engine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    engine.put(BASE, 31)
    tag, identity = built(engine, 30)
    engine.age(tag, 31)
    engine.broken = True
    assert base(engine, 30) == BASE
    assert built(engine, 30) == (tag, identity)
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    day = (NOW - timedelta(days=31)).strftime("%Y-%m-%d")
    assert warnings == [
        f"warning: cannot make {BASE}; using the image {BASE} of {day}",
        f"warning: cannot make {tag}; using the image {tag} of {day}",
    ]
    assert [each for each in engine.removed if each.startswith("virtroot/")] == []


def test_what_cannot_be_made_and_is_not_there_is_an_error(engine: Any) -> None:
    engine.broken = True
    with pytest.raises(VirtrootError, match="cannot make"):
        base(engine, 30)
    engine.put(BASE, 0)
    with pytest.raises(VirtrootError, match="cannot make"):
        built(engine, 30)


@pytest.fixture
def on_this_engine(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("pipelines.engine.engine.is_available", lambda: True)
    monkeypatch.setattr("pipelines.engine.engine.connect", lambda: cast(Engine, engine))
    return engine


def test_refresh_renews_each_image_that_is_there_once(on_this_engine: Any) -> None:
    engine = on_this_engine
    engine.put(BASE, 1)
    engine.put("virtroot/debian:0123456789abcdef", 1)
    engine.put("virtroot/hypervisor:0123456789abcdef", 1)
    setup.setup(Settings(), refresh=True)
    assert [tag.partition(":")[0] for tag in engine.made] == [
        "virtroot/base-auto",
        "virtroot/debian",
        "virtroot/hypervisor",
    ]


def test_setup_alone_renews_nothing(on_this_engine: Any) -> None:
    on_this_engine.put(BASE, 1000)
    on_this_engine.put("virtroot/debian:0123456789abcdef", 1000)
    setup.setup(Settings())
    assert on_this_engine.made == []


def finding(settings: Settings, name: str) -> Finding:
    return next(each for each in machine.examine(settings) if each.name == name)


def test_doctor_tells_the_age_of_old_images_and_makes_none(on_this_engine: Any) -> None:
    on_this_engine.put(BASE, 2)
    on_this_engine.put("virtroot/hypervisor:1", 45.5)
    told = finding(Settings(), "images")
    assert (told.ok, told.needed) == (False, False)
    assert told.says == "virtroot/hypervisor:1 is 45 days old"
    assert told.do == "run ./inv setup --refresh to build those in use again"
    assert finding(Settings(image_max_age=60), "images").ok
    assert finding(Settings(image_max_age=0), "images").ok
    assert on_this_engine.made == []

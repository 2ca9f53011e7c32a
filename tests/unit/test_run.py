"""Guests that are thrown away: their names, whose they are, and what is left over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from pipelines import run
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import ListedDomain
from pipelines.pool.place import Place
from pipelines.settings import Settings
from pipelines.target.lock import Busy


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(output=str(tmp_path))


def working(settings: Settings, *names: str) -> Any:
    """Return a context whose hypervisor has the domains ``names``."""
    hypervisor = MagicMock()
    hypervisor.domains.return_value = [ListedDomain(name, name) for name in names]
    return SimpleNamespace(settings=settings, store=Store(settings.output_dir), hypervisor=hypervisor)


def test_a_name_is_free_where_neither_a_domain_nor_a_run_has_it(settings: Settings) -> None:
    store = Store(settings.output_dir)
    with store.lock("run-web-2", "run"), ExitStack() as held:
        assert run._reserve_name("web", working(settings, "run-web"), held) == "run-web-3"
        # It is the other's to throw away until this one ends.
        with (
            pytest.raises(VirtrootError, match="another task works on the run run-web-3"),
            store.lock("run-web-3", "run"),
        ):
            pass


def test_names_are_short_enough_for_libvirt_and_tell_recipes_apart() -> None:
    for recipe in ("3", "a" * 63):
        first, second = list(run.generate_names("night", recipe))[:2]
        assert len(second) <= 63
        assert second == f"{first}-2"
    assert next(run.generate_names("run", "a" * 62 + "b")) != next(run.generate_names("run", "a" * 62 + "c"))


def test_only_what_nobody_works_on_is_left_over(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = run.format_owner("run", settings)
    guests = [
        SimpleNamespace(name=name, transient=transient)
        for name, transient in {
            "run-busy": mine,
            "run-left": mine,
            "run-theirs": "run elsewhere:/output",
            "night-web": run.format_owner("nightly", settings),
            "run-kept": "",
        }.items()
    ]
    gone: list[str] = []
    monkeypatch.setattr("pipelines.guest.guest.list_guests", lambda _: guests)
    monkeypatch.setattr(run, "delete_temporary", lambda name, ctx, owner: gone.append(name))
    monkeypatch.setattr(run, "_clear_leftovers", lambda *_: None)
    with Store(settings.output_dir).lock("run-busy", "run"):
        run._clear_killed_runs(mine, working(settings))
    assert gone == ["run-left"]


@pytest.mark.parametrize(("transient", "removed"), [("run here:/output", ["run-web"]), ("", []), ("run other:/x", [])])
def test_nobody_elses_guest_is_thrown_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, transient: str, removed: list[str]
) -> None:
    """Somebody else's install may have had the name first."""
    gone: list[str] = []
    guest = SimpleNamespace(name="run-web", transient=transient, running=True, uuid="1")
    monkeypatch.setattr("pipelines.guest.guest.get", lambda *_: guest)
    monkeypatch.setattr("pipelines.remove.remove", lambda name, *_, **__: gone.append(name))
    ctx = working(settings, "run-web")
    run.delete_temporary("run-web", ctx, "run here:/output")
    assert gone == removed
    assert ctx.hypervisor.virsh.called == bool(removed)


def test_what_a_run_left_that_had_no_guest_is_swept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = working(settings, "run-there")
    hypervisor = ctx.hypervisor
    hypervisor.is_defined.side_effect = lambda name: name == "run-there"
    left = [
        ".root.run-web@1a",
        ".root.web@1a",
        "root.run-x",
        ".root.run-there@1",
        ".virtroot.run-boot@2",
        ".root.run-busy@3",
    ]
    hypervisor.target.run.return_value.text = "\n".join(left)
    swept: list[str] = []

    @contextmanager
    def locked(_: object, paths: Place) -> Iterator[None]:
        if paths.name == "run-busy":
            raise Busy("the guest")
        yield

    monkeypatch.setattr("pipelines.pool.pool.find_directory", lambda *_: "/pool")
    monkeypatch.setattr("pipelines.guest.hold.new", locked)
    monkeypatch.setattr("pipelines.guest.publication.delete_hidden", lambda _, paths: swept.append(paths.name))
    run._clear_leftovers(ctx)
    assert swept == ["run-boot", "run-web"]

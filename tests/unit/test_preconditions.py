"""Every task that changes a guest holds it first; one that needs it off refuses what libvirt could bring back.

A task that is added has to be put into one of the tables here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.config import Config
from invoke.context import Context

import tasks
from pipelines.clone import clone_guest
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import hold, publication
from pipelines.libvirt import embedded, host_files
from pipelines.settings import Settings, list_defaults
from tests.support.artifacts import made
from tests.support.site import Site, make_site

#: What a task is given after the context.
Given = Callable[[Path], tuple[tuple[object, ...], dict[str, object]]]


def just(*arguments: object, **options: object) -> Given:
    return lambda _: (arguments, options)


def upgraded(tmp_path: Path) -> tuple[tuple[object, ...], dict[str, object]]:
    return ([], [], []), {"name": "web", "to": str(made(tmp_path / "output", "web", "2").directory)}


def copied(tmp_path: Path) -> tuple[tuple[object, ...], dict[str, object]]:
    (tmp_path / "page").write_text("page")
    return (str(tmp_path / "page"), "web:/srv/page"), {}


#: Tasks that change a guest, or read its root, and need it off.
NEED_IT_OFF: dict[str, Given] = {
    "share": just("web", "data:common:/srv/data"),
    "unshare": just("web", "data"),
    "snapshot": just("web"),
    "restore": just("web", "3"),
    "clone": just("web", "web2"),
    "upgrade": upgraded,
    "rollback": just("web", [], [], []),
    "cp": copied,
    "remove": just(["web"], yes=True),
}

#: Tasks that change a guest in whatever state, or whose reading has to be of one state of it.
HOLD_IT: dict[str, Given] = {
    "start": just(["web"]),
    "restart": just(["web"]),
    "snapshots": just("web", remove="3", yes=True),
    "verify": just(["web"]),
    "diff": just("web"),
}

#: Tasks that hold a guest, and end it whatever was left of it.
END_IT = {"stop"}

#: Tasks that reach into a guest that runs, as people do by ssh, or look at it from outside.
REACH_IT = {
    "console", "exec", "info", "list", "logs", "refresh", "ssh", "ssh-config", "ssh-proxy", "wait",
}  # fmt: skip

#: Tasks that make guests, or are made of the tasks above: what holds their guests has tests of its own.
OF_OTHERS = {"demo", "doctor", "install", "nightly", "prune", "run"}

#: Tasks that know no guest.
OTHERS = {
    "book", "build", "builds", "clean", "demote", "help", "import", "init", "nightly-timer", "package", "pin", "plan",
    "promote", "reference", "release", "schema", "setup", "status", "test",
}  # fmt: skip


def test_each_task_is_in_one_table() -> None:
    tables = [set(NEED_IT_OFF), set(HOLD_IT), END_IT, REACH_IT, OF_OTHERS, OTHERS]
    listed = [name for table in tables for name in table]
    assert sorted(listed) == sorted(tasks.registry)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return make_site(tmp_path, monkeypatch)


@pytest.fixture
def call(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Call a task as the command line does, with a guest ``web`` that has everything."""
    guest = site.fill()
    about = '{"taken": "2026-01-01T00:00:00Z", "how": "copy", "artifact": "web/1"}'
    (Path(site.paths.snapshots) / "3/about").write_text(about)
    artifact = made(tmp_path / "output", "web", "1")
    (Path(guest.boot) / "manifest.json").write_bytes(artifact.manifest_bytes())
    monkeypatch.setattr(embedded, "start", lambda _: site.hypervisor)
    monkeypatch.setattr(embedded, "find", lambda _: site.hypervisor)
    own = {"connect": "embedded", "output": str(tmp_path / "output")}
    context = Context(Config(overrides={"virtroot": {**list_defaults(), **own}}))

    def do(name: str) -> None:
        arguments, options = {**NEED_IT_OFF, **HOLD_IT}[name](tmp_path)
        found = tasks.registry[name]
        found.body(context, *arguments, **options)

    return do


class Held(VirtrootError):
    """The task came to where it finishes what was left of the guest."""


@pytest.mark.parametrize("name", [*NEED_IT_OFF, *HOLD_IT])
def test_a_task_finishes_what_a_killed_one_left_before_it_does_anything(
    site: Site, call: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def tidy(guest: object) -> None:
        with pytest.raises(VirtrootError, match="another task works on"), hold.hold(site.hypervisor, "web"):
            pass
        raise Held("held", "")

    before = site.names()
    monkeypatch.setattr(publication, "finish_interrupted", tidy)
    with pytest.raises(Held):
        call(name)
    assert site.names() == before
    assert site.defined


@pytest.mark.parametrize("name", NEED_IT_OFF)
def test_a_task_that_needs_a_guest_off_refuses_one_that_is_saved(
    site: Site, call: Callable[[str], None], name: str
) -> None:
    site.hypervisor.list_saved_state.return_value = ["a managed save (virsh managedsave-remove)"]  # type: ignore[attr-defined]
    before = site.names()
    with pytest.raises(VirtrootError, match="libvirt keeps a managed save"):
        call(name)
    assert site.names() == before
    assert site.defined


@pytest.mark.parametrize("name", sorted(NEED_IT_OFF.keys() - {"cp"}))
def test_a_task_that_needs_a_guest_off_refuses_one_that_runs(
    site: Site, call: Callable[[str], None], name: str
) -> None:
    site.hypervisor.state.return_value = "running"  # type: ignore[attr-defined]
    before = site.names()
    with pytest.raises(VirtrootError, match="the guest web is running") as raised:
        call(name)
    assert "./inv stop web" in raised.value.hint
    assert site.names() == before


def test_a_clone_cannot_be_called_as_its_sources_root_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fill()
    site.rename("www")
    monkeypatch.setattr(embedded, "start", lambda _: site.hypervisor)
    before = site.names()
    with pytest.raises(VirtrootError, match=r"root\.web is the root of www"):
        clone_guest("www", "web", "auto", CommandContext(Settings(connect="embedded")))
    assert site.names() == before


@pytest.mark.parametrize("before", [None, b"#!/bin/sh\n# of an earlier version\n"])
def test_a_hook_that_would_start_a_guest_that_is_kept_off_is_renewed(site: Site, before: bytes | None) -> None:
    """Where there is none, libvirt hands nothing over: a task that keeps a guest off is not the one to change that."""
    site.fill()
    path = Path(host_files.HOOK)
    if before is not None:
        path.parent.mkdir()
        path.write_bytes(before)
    with hold.hold(site.hypervisor, "web", off="stop it"):
        assert (path.read_bytes() if path.exists() else None) == (before and host_files.hook())

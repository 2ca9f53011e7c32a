"""Findings about files and mounts that belong to no guest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast
from unittest.mock import create_autospec

from pipelines.health import leftovers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import place
from tests.support.guests import make_source
from tests.support.sound import DIRECTORY, POOL, make_facts, make_sound_guest

NAMES = ("web", "kept", "old", "named", "ghost")


def hypervisor(naming: Callable[[str], list[Any]] = lambda _: []) -> Hypervisor:
    made = create_autospec(Hypervisor, instance=True)
    made.find_domains_using.side_effect = naming
    return cast(Hypervisor, made)


def with_entries(pool: list[str], boot: list[str], held: list[str] | None = None) -> dict[str, Any]:
    directories = {
        POOL: {**DIRECTORY, "entries": [[name, True] for name in pool]},
        place.BOOT: {**DIRECTORY, "entries": [[name, True] for name in boot]},
    }
    return make_facts(directories=directories, held=held or [])


def test_files_of_killed_tasks_are_leftovers_and_files_of_running_tasks_are_not() -> None:
    pool = ["root.web", ".root.web@1", ".root.busy@2", ".golden.a.0123456789abcdef@3", ".virtroot", ".other@4"]
    found = leftovers.judge_leftovers(
        hypervisor(), POOL, with_entries(pool, [".virtroot.gone@5"], [place.lock("busy")])
    )
    assert found.says == (
        f"left {POOL}/.root.web@1, {place.BOOT}/.virtroot.gone@5, {POOL}/.golden.a.0123456789abcdef@3"
    )
    assert found.fix
    at_work = [place.BOOT, place.base_tree_lock("a.0123456789abcdef"), f"{POOL}/.root.web@journal"]
    quiet = with_entries([".root.web@journal", pool[3]], [".virtroot.gone@5"], at_work)
    assert leftovers.judge_leftovers(hypervisor(), POOL, quiet).ok


def test_a_boot_directory_without_domain_and_root_is_a_leftover() -> None:
    facts = with_entries(["root.web", "root.kept", "snapshots.old"], [f"virtroot.{name}" for name in NAMES])
    named = hypervisor(lambda path: ["somebody"] if path == place.boot("named") else [])
    found = leftovers.judge_boot_directories(named, POOL, facts, [make_sound_guest()])
    assert found.says == f"{place.boot('ghost')} without a domain"
    assert found.fix
    assert leftovers.judge_boot_directories(
        named, POOL, with_entries([], ["virtroot.web", "other"]), [make_sound_guest()]
    ).ok


def test_a_root_without_a_domain_is_reported_and_not_deleted() -> None:
    facts = with_entries(["root.web", "snapshots.web", "former.gone", "root.named", "share.data"], [])
    named = hypervisor(lambda path: ["somebody"] if path.endswith("root.named") else [])
    found = leftovers.judge_roots(named, POOL, facts, [make_sound_guest()])
    assert found.says == f"{POOL}/former.gone without a domain"
    assert found.fix is None


def test_an_overlay_mount_without_a_guest_is_reported() -> None:
    mounts = [[f"{POOL}/root.web", "overlay"], [f"{POOL}/root.gone", "overlay"], [f"{POOL}/.root.x@1", "overlay"]]
    facts = {**with_entries([], []), "mounts": [*mounts, ["/", "overlay"]]}
    assert (
        leftovers.judge_mounts(POOL, facts, [make_sound_guest(source=replace(make_source(), lower="1"))]).says
        == f"{POOL}/root.gone without a guest"
    )
    assert leftovers.judge_mounts(
        POOL, {**facts, "mounts": mounts[:1]}, [make_sound_guest(source=replace(make_source(), lower="1"))]
    ).ok

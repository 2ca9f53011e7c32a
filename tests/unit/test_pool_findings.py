"""Findings about a pool: its mode, file system, mount options, free space and state."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.health import finding, storage
from pipelines.pool import clone_methods
from tests.support.sound import DIRECTORY, POOL


def nothing() -> None:
    raise AssertionError("a check changed something")


@pytest.mark.parametrize(
    ("facts", "ok", "needed", "mended"),
    [
        ({}, True, False, False),
        ({"mode": 0o755, "entries": [[".virtroot", False]]}, False, True, True),
        ({"mode": 0o755}, False, False, False),
        ({"mode": 0o711, "uid": 1000, "entries": [[".virtroot", False]]}, False, False, False),
    ],
)
def test_only_a_pool_that_virtroot_made_is_closed(facts: dict[str, Any], ok: bool, needed: bool, mended: bool) -> None:
    found = storage.judge_mode(POOL, {**DIRECTORY, **facts}, nothing)
    assert (found.ok, found.needed, bool(found.fix)) == (ok, needed, mended)


@pytest.mark.parametrize(
    ("kind", "ok", "needed", "words"),
    [
        ("ext4", True, False, "overlay, copy"),
        ("xfs", True, False, "reflink, overlay, copy"),
        ("btrfs", True, False, "snapshot, reflink, copy"),
        ("tmpfs", False, False, "loses its content when the machine is off"),
        ("vfat", False, True, "owners"),
        ("nfs4", False, False, "file capabilities"),
    ],
)
def test_file_systems_are_judged_by_their_type(kind: str, ok: bool, needed: bool, words: str) -> None:
    found = storage.judge_type(POOL, {**DIRECTORY, "kind": kind}, btrfs=True)
    assert (found.ok, found.needed) == (ok, needed)
    assert words in found.says
    assert clone_methods.guess_methods("btrfs", btrfs=False) == ["reflink", "copy"]


@pytest.mark.parametrize(
    ("options", "ok", "needed"),
    [(["rw", "nosuid", "nodev"], True, False), (["rw", "noexec"], False, False), (["ro"], False, True)],
)
def test_mount_options_without_effect_on_guests_are_not_a_fault(options: list[str], ok: bool, needed: bool) -> None:
    found = storage.judge_options(POOL, {**DIRECTORY, "options": options})
    assert (found.ok, found.needed) == (ok, needed)


@pytest.mark.parametrize(
    ("free", "total", "ok"),
    [(2 << 30, 16 << 30, True), (1 << 29, 2 << 30, False), (3 << 30, 100 << 30, False), (0, 0, True)],
)
def test_a_gibibyte_and_a_twentieth_must_be_free(free: int, total: int, ok: bool) -> None:
    assert finding.is_scarce(free, total) is not ok
    assert storage.judge_space(POOL, {**DIRECTORY, "free": free, "size": total}).ok is ok


def test_scarce_inodes_are_a_fault_unless_the_file_system_has_none() -> None:
    assert not storage.judge_space(POOL, {**DIRECTORY, "free_inodes": 5000}).ok
    assert storage.judge_space(POOL, {**DIRECTORY, "free_inodes": 0, "inodes": 0}).ok


@pytest.mark.parametrize(
    ("info", "ok"), [("State: running\nAutostart: yes", True), ("State: inactive", False), ("", False)]
)
def test_a_pool_must_be_active_and_start_with_libvirt(info: str, ok: bool) -> None:
    assert storage.judge_state(info, POOL, nothing).ok is ok

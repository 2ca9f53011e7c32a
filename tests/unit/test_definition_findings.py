"""Findings about the definition of a guest's domain."""

from __future__ import annotations

import pytest

from pipelines.health import definition as definitions
from pipelines.pool import place
from tests.support.definitions import parsed
from tests.support.sound import DEFINITION, POOL, make_sound_guest


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('<access mode="shared"/>', "", "memory"),
        ('<source type="memfd"/>', "", "memory"),
        ('<target dir="root"/>', '<target dir="other"/>', "root's device"),
        ('type="virtiofs"', 'type="path"', "root's device"),
        (f'dir="{POOL}/root.web"', 'dir="/srv"', "root's device"),
        ("</filesystem>", '<binary><lock posix="on"/></binary></filesystem>', "lock"),
        (f"<kernel>{place.boot('web')}/kernel", f"<kernel>{POOL}/root.web/vmlinuz", "boot paths"),
        ("</kernel><cmdline>", "</kernel><initrd>/x</initrd><cmdline>", "boot paths"),
        ("root=root ", "root=/dev/root ", "cmdline"),
    ],
)
def test_a_definition_that_does_not_boot_is_a_fault(old: str, new: str, name: str) -> None:
    assert DEFINITION.count(old) >= 1
    (found,) = definitions.judge(make_sound_guest(), parsed(DEFINITION.replace(old, new)))
    assert (found.ok, found.name) == (False, name)
    assert found.do.startswith("virsh edit web: ")
    (right,) = definitions.judge(make_sound_guest(), parsed(DEFINITION))
    assert right.ok


def test_memory_shared_cell_by_cell_is_shared() -> None:
    cells = DEFINITION.replace(
        '<memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>',
        '<cpu><numa><cell memAccess="shared"/></numa></cpu>',
    )
    (found,) = definitions.judge(make_sound_guest(), parsed(cells))
    assert found.ok

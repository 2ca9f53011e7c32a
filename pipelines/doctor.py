"""Check this machine, libvirt's host, the pool and the guests, and fix what can be fixed safely."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pipelines.cli.task import Context, context_of, print_data, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.health import guest_checks, leftovers, libvirt, machine, storage
from pipelines.health.finding import Finding, fault, fine
from pipelines.libvirt import host_files, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say, warn
from pipelines.pool import place, pool
from pipelines.settings import Settings
from pipelines.target import programs


def examine(ctx: CommandContext, name: str = "") -> list[Finding]:
    """Check everything, or only the guest ``name``, without changing or starting anything.

    Raises VirtrootError if there is no such guest.
    """
    handles = ctx.settings.inode_file_handles == "prefer"
    if name:
        hypervisor = ctx.find_hypervisor()
        if hypervisor is None:
            raise VirtrootError(
                f"no guest {name}: the embedded hypervisor is not running", "run ./inv list to start it"
            )
        guest = guests.get(hypervisor, name)
        seen = _collect(hypervisor, None, [guest])
        return guest_checks.examine(guest, seen, running=guest.running, handles=handles)
    findings = machine.examine(ctx.settings)
    try:
        hypervisor = ctx.find_hypervisor()
        if hypervisor is None:
            says = "the embedded hypervisor is not running; it and its guests are not checked"
            return [*findings, fine(libvirt.OF, "libvirt", says)]
        return [*findings, *_examine_libvirt(hypervisor, ctx.settings)]
    except VirtrootError as error:
        return [*findings, fault(libvirt.OF, "libvirt", error.what, error.hint)]


def _examine_libvirt(hypervisor: Hypervisor, settings: Settings) -> list[Finding]:
    """Check libvirt's host and its guests."""
    directory = pool.find_directory(hypervisor, settings)
    every = guests.list_guests(hypervisor)
    seen = _collect(hypervisor, directory, every)
    handles = settings.inode_file_handles == "prefer"
    found = libvirt.examine(hypervisor, seen, _group_by_wrapper(every), handles=handles)
    found += storage.examine(hypervisor, settings, directory, seen)
    if directory and seen["directories"].get(directory):
        found += leftovers.examine(hypervisor, directory, seen, every)
    active = {known.uuid for known in hypervisor.domains(active=True)}
    return found + [
        each for guest in every for each in _examine_guest(guest, seen, running=guest.uuid in active, handles=handles)
    ]


def _examine_guest(guest: Guest, seen: dict[str, Any], *, running: bool, handles: bool) -> list[Finding]:
    """Check one guest. An error becomes a finding, so that the other guests are checked."""
    try:
        return guest_checks.examine(guest, seen, running=running, handles=handles)
    except VirtrootError as error:
        return [fault(guest.name, "guest", f"cannot be checked: {error.what}", error.hint)]


def _group_by_wrapper(every: Sequence[Guest]) -> dict[str, list[str]]:
    """Return the names of the guests that use each wrapper of virtiofsd; the empty path is for guests without one."""
    found: dict[str, list[str]] = {}
    for guest in every:
        for path in guest.binaries:
            if not path or wrappers.parse(path):
                found.setdefault(path, []).append(guest.name)
    return found


def _collect(hypervisor: Hypervisor, directory: str | None, every: Sequence[Guest]) -> dict[str, Any]:
    pools = [directory] if directory else []
    seen = programs.collect_facts(
        hypervisor.target,
        {
            "files": [host_files.HOOK, *filter(None, _group_by_wrapper(every))],
            "directories": [*pools, place.BOOT, libvirt.HOOKS, *(guest.root for guest in every)],
            "locks": [*leftovers.LOCKED, *pools],
            "guests": {guest.name: guest_checks.make_query(guest) for guest in every},
        },
    )
    if seen["user"] != 0:
        # Other users cannot read the pool, and its content would seem to be missing.
        raise VirtrootError("checking roots requires root", "run it with sudo")
    return seen


def apply_fixes(findings: Sequence[Finding]) -> None:
    """Apply the safe fixes of the findings, and print each; if one fails, continue with the others."""
    for each in findings:
        if each.fix:
            say(f"{each.of}: {each.fix.says}")
            try:
                each.fix.do()
            except VirtrootError as error:
                warn(f"{error.what}; {error.hint}")


def compute_status(findings: Sequence[Finding]) -> int:
    """Return the exit status: 1 if something that is needed is wrong."""
    return int(any(each.needed and not each.ok for each in findings))


def as_text(findings: Sequence[Finding]) -> str:
    """Return the findings as text, grouped by their subject, with the remedy below each fault."""
    width = max(len(each.name) for each in findings)
    lines: list[str] = []
    for of, its in groupby(findings, key=lambda each: each.of):
        lines += ["", of] if lines else [of]
        for each in its:
            mark = "ok" if each.ok else "NO" if each.needed else "-"
            lines.append(f"  {mark:<3} {each.name:<{width}}  {each.says}")
            if each.do:
                lines.append(f"      {'':<{width}}  do: {each.do}")
    return "\n".join(lines)


def as_data(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings as data; ``fix`` is what --fix would do, or empty."""
    return [
        {
            "of": each.of,
            "name": each.name,
            "ok": each.ok,
            "needed": each.needed,
            "says": each.says,
            "do": each.do,
            "fix": each.fix.says if each.fix else "",
        }
        for each in findings
    ]


@task(
    name="doctor",
    positional=["name"],
    help={
        "name": "check only this guest",
        "fix": "apply the safe fixes, print each, and check again",
        "json": "print JSON",
    },
)
def doctor_task(
    c: Context,
    name: str = "",
    fix: bool = False,
    json: bool = False,
) -> None:
    """Check this machine, libvirt and the guests, and show what to do about faults.

    ./inv doctor
    ./inv doctor web --fix
    """
    ctx = context_of(c)
    findings = examine(ctx, name)
    if fix:
        apply_fixes(findings)
        findings = examine(ctx, name)
    print_data(as_data(findings) if json else as_text(findings))
    sys.exit(compute_status(findings))

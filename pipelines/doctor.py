"""Doctor: what the machine, libvirt's machine, the pool and the guests have of what is needed, and what mends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pipelines.cli.task import Context, print_data, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.guest import Guest
from pipelines.health import guest_checks, leftovers, libvirt, machine, storage
from pipelines.health.finding import Finding, fault, fine
from pipelines.libvirt import connect, host_files, wrappers
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say, warn
from pipelines.pool import place, pool
from pipelines.settings import Settings
from pipelines.target import programs


def examine(settings: Settings, name: str = "") -> list[Finding]:
    """Look at everything, or at the guest ``name`` alone, and change nothing: what does not run is not started.

    Raises `VirtrootError` where there is no such guest.
    """
    handles = settings.inode_file_handles == "prefer"
    if name:
        hypervisor = connect.find(settings)
        if hypervisor is None:
            raise VirtrootError(f"no guest {name}: the embedded hypervisor does not run", "./inv list starts it")
        guest = guests.get(hypervisor, name)
        seen = _look(hypervisor, None, [guest])
        return guest_checks.examine(guest, seen, running=guest.running, handles=handles)
    findings = machine.examine(settings)
    try:
        hypervisor = connect.find(settings)
        if hypervisor is None:
            says = "the embedded hypervisor does not run, so that neither it nor its guests are looked at"
            return [*findings, fine(libvirt.OF, "libvirt", says)]
        return [*findings, *_libvirt(hypervisor, settings)]
    except VirtrootError as error:
        return [*findings, fault(libvirt.OF, "libvirt", error.what, error.hint)]


def _libvirt(hypervisor: Hypervisor, settings: Settings) -> list[Finding]:
    """Look at libvirt's machine, and at its guests."""
    directory = pool.find_directory(hypervisor, settings)
    every = guests.list_guests(hypervisor)
    seen = _look(hypervisor, directory, every)
    handles = settings.inode_file_handles == "prefer"
    found = libvirt.examine(hypervisor, seen, _wrapped(every), handles=handles)
    found += storage.examine(hypervisor, settings, directory, seen)
    if directory and seen["directories"].get(directory):
        found += leftovers.examine(hypervisor, directory, seen, every)
    active = {known.uuid for known in hypervisor.domains(active=True)}
    return found + [
        each for guest in every for each in _guest(guest, seen, running=guest.uuid in active, handles=handles)
    ]


def _guest(guest: Guest, seen: dict[str, Any], *, running: bool, handles: bool) -> list[Finding]:
    """Look at one guest; where that fails it is a finding of this guest's, and the next one is looked at."""
    try:
        return guest_checks.examine(guest, seen, running=running, handles=handles)
    except VirtrootError as error:
        return [fault(guest.name, "guest", f"cannot be looked at: {error.what}", error.hint)]


def _wrapped(every: Sequence[Guest]) -> dict[str, list[str]]:
    """Return the names of the guests that name each wrapper of virtiofsd; under an empty path those that name none."""
    found: dict[str, list[str]] = {}
    for guest in every:
        for path in guest.binaries:
            if not path or wrappers.parse(path):
                found.setdefault(path, []).append(guest.name)
    return found


def _look(hypervisor: Hypervisor, directory: str | None, every: Sequence[Guest]) -> dict[str, Any]:
    pools = [directory] if directory else []
    seen = programs.collect_facts(
        hypervisor.target,
        {
            "files": [host_files.HOOK, *filter(None, _wrapped(every))],
            "directories": [*pools, place.BOOT, libvirt.HOOKS, *(guest.root for guest in every)],
            "locks": [*leftovers.LOCKED, *pools],
            "guests": {guest.name: guest_checks.make_query(guest) for guest in every},
        },
    )
    if seen["user"] != 0:
        # To others the pool is closed, and what is in it would seem to be gone.
        raise VirtrootError("roots can be looked at by root alone", "run this with sudo")
    return seen


def mend(findings: Sequence[Finding]) -> None:
    """Do what can be done without risk about what was found, saying each thing; what fails leaves the others."""
    for each in findings:
        if each.fix:
            say(f"{each.of}: {each.fix.says}")
            try:
                each.fix.do()
            except VirtrootError as error:
                warn(f"{error.what}; {error.hint}")


def status(findings: Sequence[Finding]) -> int:
    """Return the exit status: 1 when something needed is wrong."""
    return int(any(each.needed and not each.ok for each in findings))


def as_text(findings: Sequence[Finding]) -> str:
    """Return the findings as people read them: under what they are of, and below each fault what to do about it."""
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
    """Return the findings as plain data; ``fix`` says what --fix would do, and is empty where it does nothing."""
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
        "name": "look at this guest alone",
        "fix": "do what is safe about what is found, saying each thing, and look again",
        "json": "print JSON",
    },
)
def doctor_task(
    c: Context,
    name: str = "",
    fix: bool = False,
    json: bool = False,
) -> None:
    """Say what this machine, libvirt and the guests have of what is needed, and what to do about the rest.

    ./inv doctor
    ./inv doctor web --fix
    """
    settings = settings_of(c)
    findings = examine(settings, name)
    if fix:
        mend(findings)
        findings = examine(settings, name)
    print_data(as_data(findings) if json else as_text(findings))
    sys.exit(status(findings))

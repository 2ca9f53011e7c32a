"""List the guests, and show the details of one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any

from pipelines import metrics, share
from pipelines.cli.task import GUEST, Context, context_of, print_data, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import manifest_copy, previous_roots, ssh_access
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import result, warn
from pipelines.metrics import Gauge
from pipelines.pool import place, shares
from pipelines.target import programs
from pipelines.text import age, one_line, size, split_lines, table

#: Seconds that measuring a root may take in a list.
_MEASURE_SECONDS = 10

# Prints when each guest was installed.
_AGES = 'for boot do stat --format=%Y "$boot/manifest.json" 2>/dev/null || echo 0; done'


@dataclass(frozen=True)
class Row:
    """A guest in the list. Sizes are in bytes and ``age`` is in seconds, or None if they are unknown.

    ``shared`` is how much of ``size`` other trees share, ``former`` is the size of what only the previous roots have.
    ``address`` is empty if the guest cannot be reached, ``where`` is ``embedded`` or libvirt's URI.
    """

    name: str
    state: str
    address: str
    recipe: str
    age: int | None
    size: int | None
    shared: int | None
    former: int | None
    artifact: str
    root: str
    uuid: str
    where: str


def list_rows(ctx: CommandContext) -> list[Row]:
    """Return a row for each guest."""
    hypervisor = ctx.hypervisor
    return _make_rows(hypervisor, guests.list_guests(hypervisor))


def _make_rows(hypervisor: Hypervisor, found: list[Guest]) -> list[Row]:
    states = hypervisor.list_states()
    found = [guest for guest in found if guest.uuid in states]
    return [
        Row(
            name=guest.name,
            state=states[guest.uuid],
            address=ssh_access.find_address(guest) if states[guest.uuid] == "running" else "",
            recipe=guest.source.artifact.recipe,
            age=int(time.time()) - installed if installed else None,
            size=size,
            shared=shared,
            former=former,
            artifact=guest.source.artifact,
            root=guest.root,
            uuid=guest.uuid,
            where="embedded" if hypervisor.embedded else hypervisor.uri,
        )
        for guest, installed, (size, shared), former in zip(
            found,
            _read_install_times(hypervisor, found),
            _measure_roots(hypervisor, found),
            _measure_previous_roots(hypervisor, found),
            strict=True,
        )
    ]


def format_table(rows: list[Row]) -> str:
    """Return a list as a table for people: NAME STATE ADDRESS RECIPE AGE SIZE SHARED; empty if there are no guests.

    The column FORMER is added if a guest has previous roots.
    """
    if not rows:
        return ""
    former = any(row.former != 0 for row in rows)
    lines = [("NAME", "STATE", "ADDRESS", "RECIPE", "AGE", "SIZE", "SHARED", *(["FORMER"] if former else []))]
    lines += [
        (
            row.name,
            row.state,
            row.address or "-",
            row.recipe or "-",
            age(row.age),
            size(row.size),
            size(row.shared),
            *([size(row.former)] if former else []),
        )
        for row in rows
    ]
    return table(lines)


def make_metrics(rows: list[Row]) -> str:
    """Return the rows as metrics for Prometheus."""
    running = Gauge("guest_running", "Whether a guest runs.")
    seconds = Gauge("guest_age_seconds", "Time since the install of a guest.")
    taken = Gauge("guest_size_bytes", "Size of a guest's root.")
    shared = Gauge("guest_shared_bytes", "How much of that size other trees share.")
    for row in rows:
        labels = {"guest": row.name, "recipe": row.recipe, "artifact": row.artifact}
        running.add(float(row.state == "running"), **labels)
        seconds.add(row.age, **labels)
        taken.add(row.size, **labels)
        shared.add(row.shared, **labels)
    return metrics.render([running, seconds, taken, shared])


def info(name: str, ctx: CommandContext) -> dict[str, Any]:
    """Return the details of a guest: its row in the list, and parts of its definition and its manifest."""
    hypervisor = ctx.hypervisor
    guest = guests.get(hypervisor, name)
    row = next((asdict(each) for each in _make_rows(hypervisor, [guest])), {})
    made = manifest_copy.find(guest)
    built: dict[str, Any] = {}
    if made:
        built = {
            "distro": " ".join(filter(None, (made.recipe.distro, made.recipe.release))),
            "generator": made.generator,
            "kernel_version": made.kernel_version,
            "packages": len(made.packages),
        }
    former = [
        {"artifact": each.source.artifact, "directory": each.directory} for each in previous_roots.list_previous(guest)
    ]
    held = row.pop("former", None)
    serving = {"cache": guest.cache, "overlayfs": guest.overlayfs, "shares": _describe_shares(guest)}
    paths = {
        "boot": guest.boot,
        "kernel": guest.source.kernel,
        "initrd": guest.source.initrd,
        "console_log": guest.console_log,
        "virtiofsd_log": place.virtiofsd_log(name),
        "qemu_log": place.qemu_log(name),
    }
    failed = previous_roots.find_failed(guest)
    return {**row, **built, "former": former, "failed": failed, "former_size": held, **serving, **paths}


def _describe_shares(guest: Guest) -> list[dict[str, Any]]:
    """Return a guest's shares; ``point`` is the mount point in its fstab, or empty if there is none."""
    points: dict[str, str] = {}
    with contextlib.suppress(VirtrootError):
        points = shares.read_mount_points(guest.target, guest.root)
    return [{**asdict(each), "point": points.get(each.tag, "")} for each in guest.shares]


def format_lines(facts: dict[str, Any]) -> str:
    """Return `info` as lines for people."""
    shown = {
        **facts,
        "age": age(facts.get("age")),
        **{key: size(facts.get(key)) for key in ("size", "shared", "former_size")},
    }
    shown["shares"] = ", ".join(
        f"{each['tag']} = {each['directory']}{' read-only' * each['readonly']} at {each['point'] or '?'}"
        for each in facts["shares"]
    )
    shown["former"] = ", ".join(f"{each['artifact']} in {each['directory']}" for each in facts["former"])
    shown["overlayfs"] = "yes, its virtiofsd keeps CAP_SYS_ADMIN" if facts["overlayfs"] else "no"
    return "\n".join(
        f"{key.replace('_', ' '):<14} {one_line(str(value)) if value not in ('', None) else '-'}"
        for key, value in shown.items()
    )


def _read_install_times(hypervisor: Hypervisor, found: list[Guest]) -> list[int]:
    """Return when each guest was installed, in seconds since the epoch; 0 if that is not known."""
    listed = hypervisor.target.run(["sh", "-c", _AGES, "ages", *[g.boot for g in found]]).text
    return [int(line) for line in split_lines(listed)]


def _measure_roots(hypervisor: Hypervisor, found: list[Guest]) -> list[tuple[int | None, int | None]]:
    """Return the size of each guest's root in bytes, and how many of these bytes other trees share."""
    roots = [(guest.root, guest.source.lower_tree) for guest in found]
    return [each or (None, None) for each in _measure(hypervisor, roots)]


def _measure(hypervisor: Hypervisor, roots: list[tuple[str, str]]) -> list[tuple[int, int] | None]:
    """Return the result of `programs.measure`, or None for each root if it fails: the list is still useful then."""
    try:
        return programs.measure(hypervisor.target, _MEASURE_SECONDS, roots) if roots else []
    except VirtrootError as error:
        warn(f"cannot measure sizes: {error.what}")
        return [None] * len(roots)


def _measure_previous_roots(hypervisor: Hypervisor, found: list[Guest]) -> list[int | None]:
    """Return for each guest the bytes that only its previous roots have; 0 if there are none."""
    trees = previous_roots.list_trees(hypervisor.target, [guest.root for guest in found])
    every = [tree for its in trees for tree in its]
    measured = dict(zip(every, _measure(hypervisor, [(tree, "") for tree in every]), strict=True))
    return [_sum_exclusive([measured[tree] for tree in its]) for its in trees]


def _sum_exclusive(measured: list[tuple[int, int] | None]) -> int | None:
    if None in measured:
        return None
    return sum(each[0] - each[1] for each in measured if each)


@task(
    name="list",
    help={
        "shares": "list the shares and which guests have them",
        "json": "print JSON",
        "prometheus": "print metrics for the node exporter",
    },
)
def list_task(
    c: Context,
    shares: bool = False,
    json: bool = False,
    prometheus: bool = False,
) -> None:
    """List the guests.

    ./inv list
    ./inv list --shares
    """
    ctx = context_of(c)
    if prometheus and (shares or json):
        raise VirtrootError("--prometheus excludes --shares and --json", "use only one of them")
    if prometheus:
        result(make_metrics(list_rows(ctx)))
        return
    if shares:
        shared = share.list_rows(ctx)
        print_data(shared if json else share.format_table(shared))
        return
    guests = list_rows(ctx)
    print_data(guests if json else format_table(guests))


@task(name="info", help={**GUEST, "json": "print JSON"})
def info_task(
    c: Context,
    name: str,
    json: bool = False,
) -> None:
    """Show the details of a guest.

    ./inv info web
    """
    facts = info(name, context_of(c))
    print_data(facts if json else format_lines(facts))

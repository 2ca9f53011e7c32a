"""List the builds of recipes and imported systems, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from pipelines.artifact import pruning
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.store import Store
from pipelines.cli.task import Context, context_of, print_data, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.log import warn
from pipelines.text import age, size, table


@dataclass(frozen=True)
class Row:
    """A build: ``id`` is RECIPE/BUILD, ``age`` is in seconds, ``size`` is that of the tarball in bytes.

    ``checks`` has the result of the last verification of each kind, ``tree``, ``root`` and ``guest``: passed or failed.
    ``used_by`` has the guests that were made from it; ``why`` says why nothing else is known.
    """

    id: str
    age: int | None = None
    kernel: str = ""
    size: int | None = None
    checks: dict[str, str] = field(default_factory=dict)
    golden: bool = False
    pinned: bool = False
    used_by: tuple[str, ...] = ()
    why: str = ""


def list_builds(recipe: str, ctx: CommandContext, now: datetime | None = None) -> list[Row]:
    """Return a row for each build of ``recipe`` (empty: of all), the newest of each recipe first.

    Raises `VirtrootError` for a recipe without builds.
    """
    store, now = ctx.store, now or datetime.now(UTC)
    names = store.kept()
    if recipe and recipe not in names:
        raise VirtrootError(
            f"no build of {recipe}", f"use one of the recipes with builds: {', '.join(names) or 'none'}"
        )
    users = _list_users(ctx)
    return [
        _make_row(artifact, golden, users, now)
        for name in ([recipe] if recipe else names)
        for golden in [_get_golden_id(store, name)]
        for artifact in reversed(store.builds(name))
    ]


def _get_golden_id(store: Store, name: str) -> str:
    golden = store.golden(name).artifact
    return golden.stored_id if golden else ""


def _list_users(ctx: CommandContext) -> dict[str, list[str]]:
    """Return the guests by the build that they were made from; nothing is started, and no error hides the builds."""
    users: dict[str, list[str]] = {}
    try:
        hypervisor = ctx.find_hypervisor()
        for guest in guests.list_guests(hypervisor) if hypervisor else ():
            users.setdefault(guest.source.artifact, []).append(guest.name)
    except VirtrootError as error:
        warn(f"cannot list the guests that use builds: {error.what}")
    return users


def _make_row(artifact: Artifact, golden: str, users: Mapping[str, list[str]], now: datetime) -> Row:
    stored = artifact.stored_id
    known = {
        "golden": stored == golden,
        "pinned": artifact.pinned,
        "used_by": tuple(users.get(stored, ())),
    }
    try:
        manifest = artifact.manifest
        seconds = int((now - pruning.get_build_time(artifact)).total_seconds())
        return Row(
            id=stored,
            age=seconds,
            kernel=manifest.kernel_version,
            size=manifest.rootfs.size,
            checks={kind: "passed" if verdict.passed else "failed" for kind, verdict in manifest.verdicts.items()},
            **known,  # type: ignore[arg-type] # their types are those above
        )
    except VirtrootError as error:
        return Row(id=stored, why=error.what, **known)  # type: ignore[arg-type]


def format_table(rows: list[Row]) -> str:
    """Return the rows as a table for people: BUILD AGE KERNEL SIZE CHECKS STATE USED BY; empty without builds."""
    if not rows:
        return ""
    cells = [("BUILD", "AGE", "KERNEL", "SIZE", "CHECKS", "STATE", "USED BY")]
    for row in rows:
        failed = sorted(kind for kind, result in row.checks.items() if result == "failed")
        checks = f"{', '.join(failed)} failed" if failed else ", ".join(sorted(row.checks)) or "-"
        state = ", ".join(word for word in ("golden", "pinned") if getattr(row, word)) or "-"
        users = ", ".join(row.used_by) or "-"
        cells.append((row.id, age(row.age), row.kernel or "-", size(row.size), row.why or checks, state, users))
    return table(cells)


@task(name="builds", positional=["recipe"], help={"recipe": "only builds of this recipe", "json": "print JSON"})
def builds_task(
    c: Context,
    recipe: str = "",
    json: bool = False,
) -> None:
    """List builds with age, kernel, size, checks, and the guests that were made from them.

    ./inv builds
    ./inv builds debian --json
    """
    rows = list_builds(recipe, context_of(c))
    print_data([asdict(row) for row in rows] if json else format_table(rows))

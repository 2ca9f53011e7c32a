"""The pages in the output directory: one of all recipes, and one of each in its own directory."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pipelines.artifact.artifact import PARTIAL
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.night.report import index_page, recipe_page
from pipelines.night.report.facts import gather

#: The page of all recipes, and that of each in its own directory.
PAGE = "index.html"


def write(output: Path, now: datetime | None = None) -> Path:
    """Write the pages of all recipes below ``output``, and return the path of the one that lists them.

    Each page has its name when it is whole. Raises `VirtrootError` where one cannot be written, which leaves what was
    there before and stops no other, and when another task is writing them.
    """
    store, now = Store(output), now or datetime.now(UTC)
    with store.lock("all", "report"):
        rows, unwritten = [], []
        for name in sorted({*store.recipes(), *store.recorded()}):
            # One history at a time: years of nights of many recipes are more than a night may take of the memory.
            facts = gather(store, name)
            try:
                _replace(store.home(name) / PAGE, recipe_page.page(facts, now))
            except VirtrootError as error:
                unwritten.append(error)
            rows.append(index_page.row(facts, now))
        _replace(output / PAGE, index_page.page(rows, now))
    if unwritten:
        raise unwritten[0]
    return output / PAGE


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise VirtrootError(f"{path}: {error.strerror}", "mend its owner or mode, or free space on its disk") from error

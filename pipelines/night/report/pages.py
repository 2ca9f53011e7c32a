"""The pages in the output directory: one for all recipes, and one for each recipe in its own directory."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pipelines.artifact.artifact import PARTIAL
from pipelines.artifact.store import Store
from pipelines.errors import VirtrootError
from pipelines.night.report import index_page, recipe_page
from pipelines.night.report.facts import gather

#: The file name of the page of all recipes, and of the page of each recipe in its own directory.
PAGE = "index.html"


def write(output: Path, now: datetime | None = None) -> Path:
    """Write the pages of all recipes below ``output``, and return the path of the one that lists them.

    A page gets its name when it is complete. Raises `VirtrootError` if a page cannot be written, after writing the
    others and leaving the earlier version of this one, and if another task is writing the pages.
    """
    store, now = Store(output), now or datetime.now(UTC)
    with store.lock("all", "report"):
        rows, unwritten = [], []
        for name in sorted({*store.recipes(), *store.recorded()}):
            # One history at a time: the records of many recipes over years may not fit into memory.
            facts = gather(store, name)
            try:
                _replace(store.home(name) / PAGE, recipe_page.make_page(facts, now))
            except VirtrootError as error:
                unwritten.append(error)
            rows.append(index_page.make_row(facts, now))
        _replace(output / PAGE, index_page.make_page(rows, now))
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
        raise VirtrootError(f"{path}: {error.strerror}", "fix its owner or mode, or free space on its disk") from error

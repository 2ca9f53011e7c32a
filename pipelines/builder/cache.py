"""The cache of stages: a tar in the builder's volume, its digest where nothing that runs in a builder can reach it."""

from __future__ import annotations

from pathlib import Path

from pipelines.artifact import archive
from pipelines.builder.container import Builder
from pipelines.log import warn
from pipelines.recipe.plan import Plan, Surroundings, stage_id
from pipelines.recipe.stage import CACHE, ROOT, Command, Stage


class Cache:
    """The stages of one plan that are kept; ``records`` is the directory of this machine for their digests."""

    def __init__(self, plan: Plan, surroundings: Surroundings, records: Path, *, use: bool) -> None:
        self._plan, self._surroundings, self._records, self._use = plan, surroundings, records, use

    def path(self, stage: Stage) -> str:
        """Return where in the builder the stage's result is kept; empty for a stage that is not."""
        if not (stage.cached and self._use):
            return ""
        return f"{CACHE}/stages/{stage_id(self._plan, stage, self._surroundings)}.tar"

    def holds(self, builder: Builder, path: str) -> bool:
        """Say whether ``path`` is there, and is what was kept."""
        record = self._record(path)
        if not record.is_file() or builder.run(["test", "-f", path], check=False).returncode:
            return False
        if _digest(builder, path) == record.read_text().strip():
            return True
        warn(f"{path} in the cache is not what was put there; it is made anew")
        return False

    def commands_to_keep(self, path: str) -> tuple[Command, ...]:
        """Return the commands that keep the root as it is now, in place of what was kept before."""
        partial = f"{path}.partial"
        return (
            Command(("mkdir", "-p", f"{CACHE}/stages")),
            Command(("find", f"{CACHE}/stages", "-type", "f", "-delete")),
            Command(("tar", "--create", "--file", partial, "--directory", ROOT, *archive.KEEP, ".")),
            Command(("mv", partial, path)),
        )

    def record(self, builder: Builder, path: str) -> None:
        """Note what was kept."""
        record = self._record(path)
        self._records.mkdir(parents=True, exist_ok=True)
        for stale in self._records.iterdir():
            stale.unlink()
        partial = record.with_name(f".{record.name}.partial")
        partial.write_text(f"{_digest(builder, path)}\n")
        partial.replace(record)

    def forget(self) -> None:
        """Trust nothing that was kept."""
        if self._records.is_dir():
            for record in self._records.iterdir():
                record.unlink()

    def _record(self, path: str) -> Path:
        return self._records / path.rpartition("/")[2]


def _digest(builder: Builder, path: str) -> str:
    return builder.run(["sha256sum", path]).text.split()[0]

"""The manifest: what was built, beside its tarball."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import VirtrootError
from pipelines.recipe.recipe import Recipe

SCHEMA = 1


def _inside(path: str) -> str:
    """Keep boot paths what they claim to be: relative, and going down only."""
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} is no path inside the root")
    return path


BootPath = Annotated[str, AfterValidator(_inside)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Package(_Frozen):
    """An installed package."""

    name: str
    version: str


class Boot(_Frozen):
    """How the root is booted; paths are relative to the root."""

    kernel: BootPath
    initrd: BootPath
    cmdline: str


class Rootfs(_Frozen):
    """The tarball: its digest and sizes in bytes, and how many entries it has."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    unpacked_size: int
    entries: int


class Verdict(_Frozen):
    """What a verification found; ``time`` is UTC in ISO 8601, ``seconds`` how long it took."""

    passed: bool
    tests: int
    failures: tuple[str, ...] = ()
    time: str
    seconds: float


class Manifest(_Frozen):
    """What was built. ``verdicts`` maps ``tree`` and ``guest`` to what the last verification of each found."""

    schema_version: int = Field(default=SCHEMA, le=SCHEMA)
    virtroot: str
    name: str
    build: str
    plan: str
    builder: str
    mirror_state: tuple[str, ...]
    source_date_epoch: int
    recipe: Recipe
    generator: str
    kernel_version: str
    boot: Boot
    packages: tuple[Package, ...]
    rootfs: Rootfs
    verdicts: dict[str, Verdict] = {}

    @property
    def id(self) -> str:
        """The artifact's id: recipe and build."""
        return f"{self.name}/{self.build}"


def load(path: Path) -> Manifest:
    """Read and validate a manifest; raises `VirtrootError` for a file that is none."""
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise VirtrootError(
            f"no manifest at {path}: {error.strerror}", "name an artifact directory made by ./inv build"
        ) from error


def parse(content: bytes, source: str) -> Manifest:
    """Validate a manifest's JSON; ``source`` is named in the error."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise VirtrootError(f"{source}: {place}: {first['msg']}", "build the artifact again") from error


def save(manifest: Manifest, path: Path) -> None:
    """Write the manifest beside its final name and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(manifest.model_dump_json(indent=2) + "\n")
    partial.replace(path)

"""The manifest: what was built, beside its tarball."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from pipelines.artifact.build_id import BuildId
from pipelines.errors import VirtrootError
from pipelines.host import private
from pipelines.recipe.recipe import Recipe, format_size, parse_size
from pipelines.target import durable

SCHEMA = 1


def _inside(path: str) -> str:
    """Keep boot paths what they claim to be: relative, and going down only."""
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} is no path inside the root")
    return path


def _inside_or_none(path: str) -> str:
    return path and _inside(path)


BootPath = Annotated[str, AfterValidator(_inside)]

#: A name that is one component of a path: what the output directory is made of.
PathPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Package(_Frozen):
    """An installed package."""

    name: str
    version: str


class Boot(_Frozen):
    """How the root is booted; paths are relative to the root. ``initrd`` is empty where the kernel needs none."""

    kernel: BootPath
    initrd: Annotated[str, AfterValidator(_inside_or_none)]
    cmdline: str


class Rootfs(_Frozen):
    """The tarball: its digest and sizes in bytes, and how many entries it has."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    unpacked_size: int
    entries: int


class _Record(BaseModel):
    """What was said once: it is kept whole, and today's rules for recipes are not asked about it."""

    model_config = ConfigDict(frozen=True, extra="allow")


class RecordedGuest(_Record):
    """What the recipe wished for a domain; ``memory`` is in bytes."""

    memory: Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size, return_type=str)] = 1 << 30
    vcpus: int = 2
    network: str = "auto"
    cache: str = "auto"
    overlayfs: bool = False
    shares: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


class RecordedRecipe(_Record):
    """The recipe that was built, of any version of virtroot and any release it ever knew."""

    distro: str
    release: str = ""
    siglevel: str = "required"
    guest: RecordedGuest = RecordedGuest()


def record(recipe: Recipe) -> RecordedRecipe:
    """Return what the manifest keeps of ``recipe``: everything."""
    return RecordedRecipe.model_validate(recipe.model_dump(mode="json"))


class Verdict(_Frozen):
    """What a verification found; ``time`` is UTC in ISO 8601, ``seconds`` how long it took.

    ``boot_seconds`` is how long the guest that was checked took to come up, None where it was up before. ``drift`` is
    what it had otherwise than its artifact without being broken, in words.
    """

    passed: bool
    tests: int
    failures: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    time: str
    seconds: float
    boot_seconds: float | None = None


class StageTime(_Frozen):
    """A stage of a build: how many seconds it took, and whether it was restored from the cache."""

    name: str
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    cached: bool = False


class Origin(_Frozen):
    """Where an imported system came from: ``kind`` is ``directory``, ``tarball`` or ``disk``, ``source`` its path then.

    ``name`` is what it calls itself, ``applied`` what was changed so that it boots from virtiofs. ``machine_id`` and
    ``hostname`` are its own where it keeps its identity, else empty.
    """

    kind: str
    source: str
    name: str
    applied: tuple[str, ...] = ()
    machine_id: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    hostname: str = ""


class Manifest(_Frozen):
    """What was built.

    Where a system was imported, ``origin`` is there; ``plan`` and ``builder`` say nothing of its content then, and
    ``mirror_state`` is empty.
    """

    schema_version: int = Field(default=SCHEMA, le=SCHEMA, description="The version of this schema.")
    virtroot: str = Field(description="The version of virtroot that made it.")
    name: PathPart = Field(description="The recipe's name.")
    build: PathPart = Field(description="The build: its time (UTC) and the beginning of the plan's id.")
    plan: str = Field(description="The plan's id: the same for builds that give the same bytes.")
    builder: str = Field(description="The digest of the builder's image.")
    mirror_state: tuple[str, ...] = Field(description="What the mirror offered when it was asked before the build.")
    mirror_changed: bool = Field(
        default=False,
        description="Whether it offered something else afterwards: another build need not give the same bytes then.",
    )
    source_date_epoch: int = Field(description="No file is newer than this, in seconds of the epoch.")
    recipe: RecordedRecipe = Field(description="The recipe, whole, as data.")
    generator: str = Field(description="What makes the initramfs in the root.")
    kernel_version: str = Field(description="The kernel's version, as `uname -r` says it.")
    boot: Boot = Field(description="How the root is booted.")
    packages: tuple[Package, ...] = Field(description="What is installed, name and version.")
    named_in: tuple[BootPath, ...] = Field(
        default=(), description="Files in which packages wrote the host name; each guest gets its own there."
    )
    private_keys: tuple[str, ...] = Field(
        default=(), description="Private keys in the root that its overlay did not bring: each guest has the same."
    )
    overlay_keys: tuple[str, ...] = Field(
        default=(), description="Private keys and ids of one machine that the overlay brings, which the build keeps."
    )
    rootfs: Rootfs = Field(description="The tarball.")
    stages: tuple[StageTime, ...] = Field(default=(), description="What the build's time went into.")
    origin: Origin | None = Field(default=None, description="Where an imported system came from.")
    verdicts: dict[str, Verdict] = Field(
        default={}, description="What the last verification of `tree`, `root` and `guest` found."
    )

    @property
    def id(self) -> BuildId:
        """The artifact's id."""
        return BuildId.of(self.name, self.build)


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
    """Write the manifest to the file ``path`` in one step."""
    partial = path.with_name(f".{path.name}.partial")
    with private.create(partial) as file:
        file.write(f"{manifest.model_dump_json(indent=2)}\n".encode())
    durable.publish(partial, path)

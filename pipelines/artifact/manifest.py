"""The manifest: a JSON file that describes an artifact."""

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


def _check_boot_path(path: str) -> str:
    """Check that a boot path is relative and does not leave the root. Raises ValueError."""
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"not a path inside the root: {path!r}")
    return path


def _check_optional_path(path: str) -> str:
    return path and _check_boot_path(path)


BootPath = Annotated[str, AfterValidator(_check_boot_path)]

#: A name that is one component of a path in the output directory.
PathPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Package(_Frozen):
    """An installed package."""

    name: str
    version: str


class Boot(_Frozen):
    """How the root is booted; paths are relative to the root. ``initrd`` is empty if there is no initramfs."""

    kernel: BootPath
    initrd: Annotated[str, AfterValidator(_check_optional_path)]
    cmdline: str


class Rootfs(_Frozen):
    """The tarball: its digest, its sizes in bytes, and its number of entries."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    unpacked_size: int
    entries: int


class _Record(BaseModel):
    """Data of a recipe at the time of the build. All keys are kept, and current rules for recipes are not applied."""

    model_config = ConfigDict(frozen=True, extra="allow")


class RecordedGuest(_Record):
    """The recipe's defaults for a domain; ``memory`` is in bytes."""

    memory: Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size, return_type=str)] = 1 << 30
    vcpus: int = 2
    network: str = "auto"
    cache: str = "auto"
    overlayfs: bool = False
    shares: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


class RecordedRecipe(_Record):
    """The recipe of a build, by any version of virtroot, for any release."""

    distro: str
    release: str = ""
    siglevel: str = "required"
    guest: RecordedGuest = RecordedGuest()


def record(recipe: Recipe) -> RecordedRecipe:
    """Return ``recipe`` as the manifest records it: complete."""
    return RecordedRecipe.model_validate(recipe.model_dump(mode="json"))


class Verdict(_Frozen):
    """The result of a verification; ``time`` is UTC in ISO 8601, ``seconds`` the duration.

    ``boot_seconds`` is the duration of the guest's boot, None if it was running before. ``drift`` has the harmless
    differences between the guest and its artifact, in words.
    """

    passed: bool
    tests: int
    failures: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    time: str
    seconds: float
    boot_seconds: float | None = None


class StageTime(_Frozen):
    """A stage of a build: its duration in seconds, and whether it was restored from the cache."""

    name: str
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    cached: bool = False


class Origin(_Frozen):
    """The origin of an imported system: ``kind`` is ``directory``, ``tarball`` or ``disk``, ``source`` its path.

    ``name`` is from its os-release; ``applied`` has the changes that make it boot from virtiofs. ``machine_id`` and
    ``hostname`` are its own if it keeps its identity, otherwise empty.
    """

    kind: str
    source: str
    name: str
    applied: tuple[str, ...] = ()
    machine_id: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    hostname: str = ""


class Manifest(_Frozen):
    """The description of an artifact.

    An imported system has ``origin``; its ``plan`` and ``builder`` do not describe its content, and ``mirror_state``
    is empty.
    """

    schema_version: int = Field(default=SCHEMA, le=SCHEMA, description="The version of this schema.")
    virtroot: str = Field(description="The version of virtroot that built it.")
    name: PathPart = Field(description="The recipe's name.")
    build: PathPart = Field(description="The name of the build: its time (UTC) and the start of the plan's id.")
    plan: str = Field(description="The plan's id. Builds with the same id give the same bytes.")
    builder: str = Field(description="The digest of the builder's image.")
    mirror_state: tuple[str, ...] = Field(description="The state of the mirror before the build.")
    mirror_changed: bool = Field(
        default=False,
        description="Whether that state changed during the build; if so, another build may give other bytes.",
    )
    source_date_epoch: int = Field(description="The upper limit of file times, in seconds since 1970.")
    recipe: RecordedRecipe = Field(description="The complete recipe, as data.")
    generator: str = Field(description="The initramfs generator of the root.")
    kernel_version: str = Field(description="The kernel's version, as printed by `uname -r`.")
    boot: Boot = Field(description="How the root is booted.")
    packages: tuple[Package, ...] = Field(description="The installed packages, with name and version.")
    named_in: tuple[BootPath, ...] = Field(
        default=(), description="Files with the builder's host name, which `install` replaces by the guest's."
    )
    private_keys: tuple[str, ...] = Field(
        default=(), description="Private keys in the root that are not from the overlay; all guests share them."
    )
    overlay_keys: tuple[str, ...] = Field(
        default=(), description="Private keys and machine-specific ids from the overlay, which the build keeps."
    )
    rootfs: Rootfs = Field(description="The tarball.")
    stages: tuple[StageTime, ...] = Field(default=(), description="The duration of each stage.")
    origin: Origin | None = Field(default=None, description="The origin of an imported system.")
    verdicts: dict[str, Verdict] = Field(
        default={}, description="The results of the last verifications of `tree`, `root` and `guest`."
    )

    @property
    def id(self) -> BuildId:
        """The artifact's id."""
        return BuildId.of(self.name, self.build)


def load(path: Path) -> Manifest:
    """Read and validate a manifest. Raises VirtrootError for an invalid file."""
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise VirtrootError(
            f"cannot read {path}: {error.strerror}", "use an artifact directory made by ./inv build"
        ) from error


def parse(content: bytes, source: str) -> Manifest:
    """Validate a manifest's JSON; ``source`` is its name in errors. Raises VirtrootError."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise VirtrootError(f"{source}: {place}: {first['msg']}", "build the artifact again") from error


def save(manifest: Manifest, path: Path) -> None:
    """Write the manifest to the file ``path`` atomically."""
    partial = path.with_name(f".{path.name}.partial")
    with private.create(partial) as file:
        file.write(f"{manifest.model_dump_json(indent=2)}\n".encode())
    durable.publish(partial, path)

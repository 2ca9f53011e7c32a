"""The recipe: its keys and their values. `parse` checks that the values fit the distribution."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from pipelines.recipe import share_spec

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB|TiB)")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+._@-]*")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def parse_size(value: object) -> int:
    """Parse a size like ``2GiB`` or ``512MiB`` and return bytes. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"invalid size {value!r}; use a size like 2GiB or 512MiB")
    return int(match[1]) * _UNITS[match[2]]


def format_size(size: int) -> str:
    """Format a size in bytes as recipes have it: `2GiB`, in the largest unit that divides it."""
    unit = next(unit for unit in ("TiB", "GiB", "MiB", "KiB") if size % _UNITS[unit] == 0 or unit == "KiB")
    return f"{size // _UNITS[unit]}{unit}"


def _check_memory(size: int) -> int:
    if size < 256 * _UNITS["MiB"]:
        raise ValueError(f"{format_size(size)} is too little to unpack an initramfs; use 256MiB or more")
    return size


def _check_package(name: str) -> str:
    if not _PACKAGE.fullmatch(name):
        raise ValueError(f"invalid package name {name!r}")
    if name.startswith("grub"):
        raise ValueError(f"{name!r}: a root has no boot loader; the hypervisor loads the kernel")
    return name


def _check_network(name: str) -> str:
    if not _NETWORK.fullmatch(name):
        raise ValueError(f"invalid network name {name!r}; use auto, user, none or the name of a libvirt network")
    return name


def normalize_mirror(url: str) -> str:
    """Return the address of a mirror without trailing slashes. Raises ValueError for an invalid one."""
    if not re.fullmatch(r"(https?|file)://[^\s\"'|]+", url):
        raise ValueError(f"invalid mirror {url!r}; use an http or https address")
    if re.match(r"https?://[^/]*@", url):
        # A login would be copied to the manifest, to logs, to command lines and to the root's list of sources.
        raise ValueError(
            "a mirror's address must not contain a user or password; allow this machine by its address on the mirror, "
            "or use a proxy that logs in: builders get the variable http_proxy, and it is not recorded"
        )
    return url.rstrip("/")


def parse_snapshot_time(text: str) -> datetime:
    """Parse a time like ``20261101T000000Z``. Raises ValueError for anything else."""
    try:
        if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text):
            raise ValueError
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"invalid snapshot time {text!r}; use UTC, like 20261101T000000Z") from error


def _check_snapshot_time(text: str) -> str:
    parse_snapshot_time(text)
    return text


def _check_share(text: str) -> str:
    share_spec.parse(text)
    return text


def _check_shares(texts: tuple[str, ...]) -> tuple[str, ...]:
    shares = tuple(map(share_spec.parse, texts))
    share_spec.refuse_duplicates(shares)
    for each in shares:
        # A recipe may come from a stranger. Only the user decides which directories of the host a guest gets.
        if not each.named:
            raise ValueError(
                f"{each.source!r}: a recipe must not name a directory of the host; use a name, for a directory in "
                "the pool, or install --share"
            )
    return texts


ShareText = Annotated[str, AfterValidator(_check_share)]
Memory = Annotated[
    int,
    BeforeValidator(parse_size, json_schema_input_type=str),
    AfterValidator(_check_memory),
    PlainSerializer(format_size, return_type=str),
]
Package = Annotated[str, AfterValidator(_check_package)]
Url = Annotated[str, AfterValidator(normalize_mirror)]
Network = Annotated[str, AfterValidator(_check_network)]


#: Directories that an upgrade merges or creates, or that hold no data of the guest: a guest cannot keep them.
NOT_KEPT = ("etc", "boot", "dev", "proc", "run", "sys", "bin", "sbin", "lib", "lib32", "lib64")

#: The directories of packages, and of the databases and caches of package managers.
PACKAGE_TREES = (
    "usr/bin", "usr/include", "usr/lib", "usr/lib32", "usr/lib64", "usr/libexec", "usr/sbin", "usr/share", "var/cache",
    "var/lib/apt", "var/lib/dpkg", "var/lib/pacman",
)  # fmt: skip
PACKAGE_DATABASES = ("var/lib/apt", "var/lib/dpkg", "var/lib/pacman")


def explain_not_kept(path: str) -> str:
    """Return why an upgrade cannot keep ``path``, which has no leading slash; empty if it can."""
    parts = path.split("/")
    if {"", ".", ".."} & {*parts} or "\0" in path:
        return "is not a path in a guest"
    if parts[0] in NOT_KEPT:
        return f"is below one of {', '.join(NOT_KEPT)}; /etc is merged: see --take"
    if any(each == path or each.startswith(f"{path}/") for each in PACKAGE_TREES):
        return "holds files of packages, and would replace those of the new root; name paths below it"
    if any(path.startswith(f"{each}/") for each in PACKAGE_DATABASES):
        return "belongs to the package manager, and describes the packages of the root"
    return ""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _check_kept_path(path: str) -> str:
    """Check that an upgrade can keep ``path``; return it without trailing slashes. Raises ValueError."""
    why = explain_not_kept(path.strip("/")) if path.startswith("/") else "does not begin with a slash"
    if why:
        raise ValueError(f"{path!r} cannot be kept: it {why}")
    return path.rstrip("/")


KeptPath = Annotated[str, AfterValidator(_check_kept_path)]


class GuestDefaults(_Strict):
    """The recipe's defaults for a domain; ``memory`` is in bytes after validation."""

    memory: Memory = Field(default=1 << 30, description="Memory of the guest, like 2GiB.")
    vcpus: int = Field(default=2, ge=1, le=512, description="Number of virtual CPUs.")
    network: Network = Field(
        default="auto",
        description="auto (libvirt's default network if active, else user-mode), user, none, or a network.",
    )
    cache: Literal["auto", "mixed", "always", "none"] = Field(
        default="auto",
        description="virtiofs cache: auto shows changes by the host at once; mixed only those outside /usr, and boots "
        "faster; always is for roots that the host does not change; none caches nothing and has no shared mmap.",
    )
    overlayfs: bool = Field(
        default=False,
        description="Let the guest mount overlayfs (Docker); virtiofsd keeps CAP_SYS_ADMIN for it.",
    )
    shares: Annotated[tuple[ShareText, ...], AfterValidator(_check_shares)] = Field(
        default=(),
        description="Shared directories: TAG:NAME:GUESTPATH[:ro][:create]; NAME is a directory in the pool.",
    )
    keep: tuple[KeptPath, ...] = Field(
        default=(), description="Paths that an upgrade copies over, in addition to /home, /root, /srv and the logs."
    )


class Mirror(_Strict):
    """A package mirror, and the keys to trust for it in addition to the distribution's."""

    url: Url = Field(description="Address; for Arch it contains $repo and $arch.")
    keyring: str | None = Field(
        default=None, description="A file with public keys, relative to the recipe; for Arch only."
    )


def _convert_mirrors(value: object) -> object:
    """Convert a single address or mirror to a list, and each address to a mirror without keys."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [{"url": each} if isinstance(each, str) else each for each in listed]


class Snapshot(_Strict):
    """A state of the distribution's dated archive, from which a root is built instead of from its mirrors."""

    time: Annotated[str, AfterValidator(_check_snapshot_time)] = Field(description="UTC, like 20261101T000000Z.")
    mirror: Url | None = Field(
        default=None, description="Address of the archive at that time; default: from the settings."
    )
    security_mirror: Url | None = Field(
        default=None, description="Address of the security suite's archive, for Debian only."
    )


def _convert_snapshot(value: object) -> object:
    """Convert a time to a snapshot whose addresses come from the settings."""
    return {"time": _check_snapshot_time(value)} if isinstance(value, str) else value


Mirrors = Annotated[
    tuple[Mirror, ...],
    BeforeValidator(_convert_mirrors, json_schema_input_type=str | Mirror | list[str | Mirror]),
]


class Recipe(_Strict):
    """A recipe for one root. Field names are the keys of the YAML file."""

    distro: Literal["debian", "arch"] = Field(description="The distribution.")
    release: str = Field(default="", description="The distribution's release; default: the newest.")
    bootstrap: str = Field(default="", description="The tool that makes the minimal root.")
    mirror: Mirrors = Field(default=(), description="Package mirrors; default: the bootstrapper's.")
    siglevel: Literal["required", "never"] = Field(
        default="required", description="Whether packages must be signed by a trusted key; for Arch only."
    )
    security_mirror: Url | None = Field(default=None, description="Mirror of the security suite, for Debian only.")
    snapshot: Annotated[
        Snapshot | None, BeforeValidator(_convert_snapshot, json_schema_input_type=str | Snapshot | None)
    ] = Field(default=None, description="Build the root from the dated archive of this time.")
    kernel: Package = Field(default="", validate_default=False, description="The kernel package.")
    generator: str = Field(default="", description="The initramfs generator; none: no initramfs.")
    packages: tuple[Package, ...] = Field(default=(), description="Packages to install on top of the minimal root.")
    overlay: str | None = Field(
        default=None, description="A directory, relative to the recipe, to copy into the root after the packages."
    )
    run: tuple[str, ...] = Field(default=(), description="Shell commands to run in the root after the overlay.")
    guest: GuestDefaults = Field(default=GuestDefaults(), description="Defaults for the domain.")
    nightly: bool = Field(default=True, description="Whether ./inv nightly builds it without naming it.")

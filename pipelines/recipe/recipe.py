"""The recipe: what the user writes. Whether its values fit its distribution is checked where it is parsed."""

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


def size_in_bytes(value: object) -> int:
    """Turn ``2GiB`` (or ``512MiB``, …) into bytes; raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is no size; write it like 2GiB or 512MiB")
    return int(match[1]) * _UNITS[match[2]]


def size_as_text(size: int) -> str:
    """Write a size in bytes as recipes do: `2GiB`, in the largest unit that divides it."""
    unit = next(unit for unit in ("TiB", "GiB", "MiB", "KiB") if size % _UNITS[unit] == 0 or unit == "KiB")
    return f"{size // _UNITS[unit]}{unit}"


def _enough_memory(size: int) -> int:
    if size < 256 * _UNITS["MiB"]:
        raise ValueError(f"{size_as_text(size)} is too little to unpack an initramfs; give 256MiB or more")
    return size


def _package(name: str) -> str:
    if not _PACKAGE.fullmatch(name):
        raise ValueError(f"{name!r} is no package name")
    if name.startswith("grub"):
        raise ValueError(f"{name!r}: a golden root has no boot loader, the hypervisor loads the kernel")
    return name


def _network(name: str) -> str:
    if not _NETWORK.fullmatch(name):
        raise ValueError(f"{name!r} is no network name; use auto, user, none or the name of a libvirt network")
    return name


def mirror_address(url: str) -> str:
    """Return the address of a mirror without its last slashes; raises ValueError for what is none."""
    if not re.fullmatch(r"(https?|file)://[^\s\"'|]+", url):
        raise ValueError(f"{url!r} is no mirror; give an http or https address")
    if re.match(r"https?://[^/]*@", url):
        # It would end in the manifest, in logs, on command lines and in the root's own list of sources.
        raise ValueError(
            "a mirror's address with a user or password in it; let the mirror know this machine by its address, or "
            "name a proxy that logs in: the variable http_proxy goes to builders, and is recorded nowhere"
        )
    return url.rstrip("/")


def snapshot_time(text: str) -> datetime:
    """Read a time like ``20261101T000000Z``; raises ValueError for anything else."""
    try:
        if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text):
            raise ValueError
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time of an archive; write it in UTC, like 20261101T000000Z") from error


def _snapshot_time(text: str) -> str:
    snapshot_time(text)
    return text


def _share(text: str) -> str:
    share_spec.parse(text)
    return text


def _shares(texts: tuple[str, ...]) -> tuple[str, ...]:
    shares = tuple(map(share_spec.parse, texts))
    share_spec.refuse_doubles(shares)
    for each in shares:
        # A recipe can come from anybody, and only the user says which of the host's directories a guest gets.
        if not each.named:
            raise ValueError(
                f"{each.source!r}: a recipe names no directory of the host's; give a name, which is a directory in "
                "the pool, or --share when the guest is made"
            )
    return texts


ShareText = Annotated[str, AfterValidator(_share)]
Memory = Annotated[
    int,
    BeforeValidator(size_in_bytes, json_schema_input_type=str),
    AfterValidator(_enough_memory),
    PlainSerializer(size_as_text, return_type=str),
]
Package = Annotated[str, AfterValidator(_package)]
Url = Annotated[str, AfterValidator(mirror_address)]
Network = Annotated[str, AfterValidator(_network)]


#: What is merged, or made anew, or nobody's: no guest takes it along.
NOT_KEPT = ("etc", "boot", "dev", "proc", "run", "sys", "bin", "sbin", "lib", "lib32", "lib64")

#: What of a root is its packages', and its package managers' word of it.
PACKAGE_TREES = (
    "usr/bin", "usr/include", "usr/lib", "usr/lib32", "usr/lib64", "usr/libexec", "usr/sbin", "usr/share", "var/cache",
    "var/lib/apt", "var/lib/dpkg", "var/lib/pacman",
)  # fmt: skip
PACKAGE_DATABASES = ("var/lib/apt", "var/lib/dpkg", "var/lib/pacman")


def kept_by_nobody(path: str) -> str:
    """Say why no guest takes ``path``, without a slash before it, along to another root; empty where it may."""
    parts = path.split("/")
    if {"", ".", ".."} & {*parts} or "\0" in path:
        return "is no path in a guest"
    if parts[0] in NOT_KEPT:
        return f"is below one of {', '.join(NOT_KEPT)}; /etc is merged: see --take"
    if any(each == path or each.startswith(f"{path}/") for each in PACKAGE_TREES):
        return "holds what packages bring, and would take the place of the new root's; name what is in it"
    if any(path.startswith(f"{each}/") for each in PACKAGE_DATABASES):
        return "is the package manager's, and says what the new root has"
    return ""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _kept(path: str) -> str:
    """Refuse what is no path of the guest's own."""
    why = kept_by_nobody(path.strip("/")) if path.startswith("/") else "does not begin with a slash"
    if why:
        raise ValueError(f"{path!r} is nothing to keep: it {why}")
    return path.rstrip("/")


KeptPath = Annotated[str, AfterValidator(_kept)]


class GuestDefaults(_Strict):
    """What a domain gets unless the user says otherwise; ``memory`` in bytes once validated."""

    memory: Memory = Field(default=1 << 30, description="Memory of the guest, like 2GiB.")
    vcpus: int = Field(default=2, ge=1, le=512, description="Number of virtual CPUs.")
    network: Network = Field(
        default="auto",
        description="auto (libvirt's default network where active, else user-mode), user, none, or a network.",
    )
    cache: Literal["auto", "mixed", "always", "none"] = Field(
        default="auto",
        description="virtiofs cache: auto shows the host's edits at once; mixed those outside /usr, and boots faster; "
        "always is for roots nobody edits; none caches nothing, and files cannot be mapped shared.",
    )
    overlayfs: bool = Field(
        default=False,
        description="Let the guest mount overlayfs (Docker): the daemon that serves its root keeps CAP_SYS_ADMIN.",
    )
    shares: Annotated[tuple[ShareText, ...], AfterValidator(_shares)] = Field(
        default=(),
        description="Further directories: TAG:NAME:GUESTPATH[:ro][:create]; NAME is a directory in the pool.",
    )
    keep: tuple[KeptPath, ...] = Field(
        default=(), description="What a guest takes along at an upgrade beside /home, /root, /srv and its logs."
    )


class Mirror(_Strict):
    """A package mirror, and the keys to trust for it beside the distribution's own."""

    url: Url = Field(description="Address; for Arch with $repo and $arch in it.")
    keyring: str | None = Field(default=None, description="A file of public keys beside the recipe, for Arch.")


def _as_mirrors(value: object) -> object:
    """Let one address stand for a list of one mirror, and an address in a list for a mirror without keys."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [{"url": each} if isinstance(each, str) else each for each in listed]


class Snapshot(_Strict):
    """The distribution's archive as it was at a time: what a root is made from, whatever its mirrors have now."""

    time: Annotated[str, AfterValidator(_snapshot_time)] = Field(description="When, in UTC: 20261101T000000Z.")
    mirror: Url | None = Field(default=None, description="The archive at that time; left out: as the settings say.")
    security_mirror: Url | None = Field(default=None, description="That of the security suite, for Debian.")


def _as_snapshot(value: object) -> object:
    """Let a time stand for a snapshot whose addresses the settings know."""
    return {"time": _snapshot_time(value)} if isinstance(value, str) else value


Mirrors = Annotated[
    tuple[Mirror, ...],
    BeforeValidator(_as_mirrors, json_schema_input_type=str | Mirror | list[str | Mirror]),
]


class Recipe(_Strict):
    """One golden root. Field names are the keys of the YAML file."""

    distro: Literal["debian", "arch"] = Field(description="The distribution.")
    release: str = Field(default="", description="The distribution's release; the newest known when left out.")
    bootstrap: str = Field(default="", description="The tool that makes the minimal root.")
    mirror: Mirrors = Field(default=(), description="Package mirrors; the bootstrapper's own default when left out.")
    siglevel: Literal["required", "never"] = Field(
        default="required", description="Whether Arch's packages must be signed by a trusted key."
    )
    security_mirror: Url | None = Field(default=None, description="Mirror of the security suite, for Debian.")
    snapshot: Annotated[
        Snapshot | None, BeforeValidator(_as_snapshot, json_schema_input_type=str | Snapshot | None)
    ] = Field(default=None, description="Make the root from the dated archive, as it was at this time.")
    kernel: Package = Field(default="", validate_default=False, description="The kernel package.")
    generator: str = Field(default="", description="What makes the initramfs; none: there is none.")
    packages: tuple[Package, ...] = Field(default=(), description="Packages on top of the minimal root.")
    overlay: str | None = Field(
        default=None, description="A tree copied over the root after the packages, beside the recipe."
    )
    run: tuple[str, ...] = Field(default=(), description="Shell commands run in the root after the overlay.")
    guest: GuestDefaults = Field(default=GuestDefaults(), description="What the domain gets.")
    nightly: bool = Field(default=True, description="Whether ./inv nightly builds it unless it is named.")

"""The settings of a project directory."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import socket
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.project import PROGRAM, SYSTEM
from pipelines.recipe.recipe import parse_size
from pipelines.recipe.snapshot import check_template

#: The directory of the program where it runs from a git checkout, for its development.
CHECKOUT = PROGRAM

#: The output of the system's project directory.
SYSTEM_OUTPUT = Path("/var/lib/virtroot")

#: The field of `Settings` that users cannot set.
_PROJECT = "project"


def _refuse_bool(value: object) -> object:
    # bool is a subclass of int.
    if isinstance(value, bool):
        raise ValueError("not a number: true or false")
    return value


def _check_command(line: str) -> str:
    """Check that the shell's rules can split ``line`` into words. Raises ValueError."""
    shlex.split(line)
    return line


def _check_time_span(text: str) -> str:
    """Check that ``text`` is a time span. Raises ValueError."""
    parse_time_span(text)
    return text


def _parse_guest_names(value: object) -> str:
    """Return names of guests, given as a list or as text, or ``none`` or ``all``. Raises ValueError."""
    found = [str(each) for each in value] if isinstance(value, list) else str(value).replace(",", " ").split()
    # In a list, "none" and "all" would be names of guests.
    words = {"none", "all"} & {*found}
    if not found or value is None or isinstance(value, bool) or (words and (len(found) > 1 or isinstance(value, list))):
        raise ValueError("no names")
    return " ".join(found)


def _check_cache_size(value: object) -> str:
    text = "" if isinstance(value, bool) else str(value).strip()
    if text != "0":
        parse_size(text)
    return text


_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[int, BeforeValidator(_refuse_bool)]


def _describe(text: str) -> Any:
    """Return a field with a description in Markdown, for the reference."""
    return Field(description=text)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", str_strip_whitespace=True))
class Settings:
    """The settings with their defaults. Each has an environment variable ``INVOKE_VIRTROOT_<NAME>``.

    ``timeout`` is in seconds, ``image_max_age`` in days. ``recipes``, ``output`` and ``cache_dir`` are relative to
    ``project``, the project directory, which users cannot set.
    """

    connect: Annotated[_Text, _describe("where guests run: `auto`, `embedded` or `qemu:///system`")] = "auto"
    pool: Annotated[_Text, _describe("libvirt's storage pool, of type dir, for the roots")] = "filesystems"
    pool_path: Annotated[str, Field(pattern="^/"), _describe("the directory of that pool, if virtroot defines it")] = (
        "/var/lib/libvirt/filesystems"
    )
    recipes: Annotated[_Text, _describe("the directory with the recipes")] = "recipes"
    output: Annotated[_Text, _describe("the directory for artifacts")] = "output"
    embedded: Annotated[
        str, Field(pattern="^[a-zA-Z0-9][a-zA-Z0-9_.-]+$"), _describe("the name of the embedded hypervisor's container")
    ] = "virtroot-hypervisor"
    workspace: Annotated[
        str,
        Field(pattern="^(auto|disk|tmpfs:[0-9]+[kKmMgG%]?)$"),
        _describe("where roots are built: `auto`, `disk` or `tmpfs:SIZE`"),
    ] = "auto"
    base: Annotated[
        Literal["auto", "registry", "mirror"], _describe("where base images come from: `auto`, `registry` or `mirror`")
    ] = "auto"
    inode_file_handles: Annotated[
        Literal["never", "prefer"],
        _describe(
            "virtiofsd's file handles for new guests: with `never` virtiofsd keeps each file open that the guest has "
            "cached; with `prefer` it does not, and needs `CAP_DAC_READ_SEARCH`"
        ),
    ] = "never"
    cache_size: Annotated[
        str, BeforeValidator(_check_cache_size), _describe("the maximum size of the stage cache; 0 turns it off")
    ] = "10GiB"
    cache_dir: Annotated[
        str,
        _describe("directory of the stage cache, which several outputs may share; default: `.cache` in the output"),
    ] = ""
    timeout: Annotated[_Number, Field(gt=0), _describe("seconds that a guest may take to boot or to shut down")] = 300
    image_max_age: Annotated[
        _Number, Field(ge=0), _describe("days after which virtroot builds its images again; 0 is never")
    ] = 30
    keep: Annotated[_Number, Field(gt=0), _describe("builds of a recipe that a nightly run keeps")] = 7
    on_failure: Annotated[
        str, AfterValidator(_check_command), _describe("command to run when a recipe starts to fail")
    ] = ""
    on_change: Annotated[
        str,
        AfterValidator(_check_command),
        _describe("command to run when a recipe starts to fail, and when it succeeds again"),
    ] = ""
    max_age: Annotated[
        str,
        AfterValidator(_check_time_span),
        _describe("`status` reports a recipe whose last good nightly run is older than this"),
    ] = "36h"
    upgrade: Annotated[
        str,
        BeforeValidator(_parse_guest_names),
        _describe("guests that a nightly run upgrades to the golden roots and restarts: `none`, `all`, or names"),
    ] = "none"
    debian_snapshots: Annotated[
        str,
        AfterValidator(partial(check_template, distro="debian")),
        _describe(
            "Debian's dated archive: an address that contains `{archive}`, and `{time}` or `{year}`, `{month}` and "
            "`{day}`"
        ),
    ] = ""
    arch_snapshots: Annotated[
        str,
        AfterValidator(partial(check_template, distro="arch")),
        _describe(
            "Arch's dated archive: an address that contains `$repo`, `$arch`, and `{time}` or `{year}`, `{month}` and "
            "`{day}`"
        ),
    ] = ""

    project: str = str(PROGRAM)

    @property
    def recipes_dir(self) -> Path:
        """The absolute path of the directory with the recipes."""
        return Path(self.project, self.recipes)

    @property
    def snapshots(self) -> dict[str, str]:
        """The address of each distribution's dated archive; empty if it is not set."""
        return {"debian": self.debian_snapshots, "arch": self.arch_snapshots}

    @property
    def cache_bytes(self) -> int:
        """``cache_size`` in bytes."""
        return 0 if self.cache_size == "0" else parse_size(self.cache_size)

    @property
    def cache_home(self) -> Path:
        """The absolute path of the stage cache."""
        return (
            Path(os.path.realpath(Path(self.project, self.cache_dir))) if self.cache_dir else self.output_dir / ".cache"
        )

    @property
    def output_dir(self) -> Path:
        """The absolute path of the directory for artifacts, with links resolved, so that each output has one path."""
        return Path(os.path.realpath(Path(self.project, self.output)))

    @property
    def key(self) -> str:
        """A short key of this machine and output directory.

        It is in the names and labels of containers and volumes, so that projects that share an engine use their own.
        """
        owner = f"{socket.gethostname()}\0{self.output_dir}"
        return hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()[:8]


_SPAN = re.compile(r"(\d{1,6})([mhdw])")


def parse_time_span(text: str) -> timedelta:
    """Parse a time span like ``90m``, ``36h``, ``14d`` or ``2w``. Raises ValueError for anything else."""
    match = _SPAN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"invalid time span {text!r}")
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]: int(match[1])})


#: The hint for a bad value of each setting whose text is checked.
_HINTS = {
    "pool_path": "an absolute path",
    "embedded": "a name of letters, digits, and _ . -",
    "workspace": "auto, disk or tmpfs:SIZE, like tmpfs:8g",
    "base": "auto, registry or mirror",
    "inode_file_handles": "never or prefer",
    "cache_size": "a size like 10GiB or 500MiB, or 0 for no cache",
    "timeout": "a whole number of seconds, 1 or more",
    "image_max_age": "a whole number of days, or 0 for never",
    "keep": "a whole number of builds, 1 or more",
    "on_failure": "a command line with its quotes closed",
    "on_change": "a command line with its quotes closed",
    "max_age": "a time span like 36h, 90m or 14d",
    "upgrade": "none, all, or names of guests separated by spaces",
    "debian_snapshots": "an address that contains {archive}, and {time} or {year}, {month} and {day}",
    "arch_snapshots": "an address that contains $repo, $arch, and {time} or {year}, {month} and {day}",
}


#: The fields that are settings, by name.
_FIELDS = {field.name: field for field in fields(Settings) if field.name != _PROJECT}


def describe_settings() -> dict[str, tuple[str, str]]:
    """Return each setting's default as text, and its description in Markdown."""
    # The type of a pydantic dataclass has no attribute for its fields, unlike that of a model.
    known = Settings.__pydantic_fields__  # type: ignore[attr-defined]
    return {name: (default, known[name].description or "") for name, default in list_defaults().items()}


def list_defaults(project: Path = PROGRAM) -> dict[str, str]:
    """Return the defaults as text in ``project``, so that invoke knows which environment variables to look for.

    invoke converts a variable's text to the type of its default: ``false`` becomes True, and ``soon`` for a number
    raises ValueError. A text it leaves unchanged.
    """
    found = {name: str(field.default) for name, field in _FIELDS.items()}
    return {**found, "output": str(SYSTEM_OUTPUT)} if project == SYSTEM else found


def from_section(section: Mapping[str, Any], project: Path = PROGRAM) -> Settings:
    """Make the settings of ``project`` from a mapping whose values are text or YAML's types.

    Raises VirtrootError for an unknown key and for an invalid value.
    """
    for key in section:
        if key not in _FIELDS:
            raise VirtrootError(f"unknown setting virtroot.{key}", f"use a known setting: {', '.join(sorted(_FIELDS))}")
    try:
        return Settings(**section, project=str(project))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise VirtrootError(
            f"invalid setting virtroot.{name}: {section[name]!r}", f"use {_HINTS.get(name, 'a text that is not empty')}"
        ) from error

"""What the user configures for the whole checkout: the ``virtroot:`` section of invoke's configuration."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import socket
from dataclasses import fields
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.recipe.recipe import size_in_bytes
from pipelines.recipe.snapshot import template

#: The checkout itself: recipes, containerfiles and tests are found from here, whatever the current directory.
CHECKOUT = Path(__file__).resolve().parent.parent


def _no_truth(value: object) -> object:
    # Python counts with true and false.
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _command(line: str) -> str:
    """Take only what can be split into words."""
    shlex.split(line)
    return line


def _span(text: str) -> str:
    """Take only a time span."""
    time_span(text)
    return text


def _names(value: object) -> str:
    """Take names of guests as a list or as text, or ``none`` or ``all``."""
    found = [str(each) for each in value] if isinstance(value, list) else str(value).replace(",", " ").split()
    # In a list a name is a name.
    words = {"none", "all"} & {*found}
    if not found or value is None or isinstance(value, bool) or (words and (len(found) > 1 or isinstance(value, list))):
        raise ValueError("no names")
    return " ".join(found)


def _cache_size(value: object) -> str:
    text = "" if isinstance(value, bool) else str(value).strip()
    if text != "0":
        size_in_bytes(text)
    return text


_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[int, BeforeValidator(_no_truth)]


def _said(text: str) -> Any:
    """Describe a setting for the reference, in Markdown."""
    return Field(description=text)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", str_strip_whitespace=True))
class Settings:
    """Settings with their defaults; each has an environment variable ``INVOKE_VIRTROOT_<NAME>``.

    ``timeout`` is in seconds, ``image_max_age`` in days; ``output`` and ``cache_dir`` are relative to the checkout.
    """

    connect: Annotated[_Text, _said("where guests run: `auto`, `embedded` or `qemu:///system`")] = "auto"
    pool: Annotated[_Text, _said("libvirt's dir pool that roots lie in")] = "filesystems"
    pool_path: Annotated[str, Field(pattern="^/"), _said("where that pool is made when it is missing")] = (
        "/var/lib/libvirt/filesystems"
    )
    output: Annotated[_Text, _said("where artifacts go")] = "output"
    embedded: Annotated[
        str, Field(pattern="^[a-zA-Z0-9][a-zA-Z0-9_.-]+$"), _said("name of the embedded hypervisor's container")
    ] = "virtroot-hypervisor"
    workspace: Annotated[
        str,
        Field(pattern="^(auto|disk|tmpfs:[0-9]+[kKmMgG%]?)$"),
        _said("where roots are made: `auto`, `disk` or `tmpfs:SIZE`"),
    ] = "auto"
    base: Annotated[
        Literal["auto", "registry", "mirror"], _said("where base images come from: `auto`, `registry` or `mirror`")
    ] = "auto"
    inode_file_handles: Annotated[
        Literal["never", "prefer"],
        _said(
            "virtiofsd's file handles for new guests: `never` keeps each file open that a guest knows of, `prefer` "
            "does not, and takes `CAP_DAC_READ_SEARCH`"
        ),
    ] = "never"
    cache_size: Annotated[
        str, BeforeValidator(_cache_size), _said("how much of the disk the stage cache may have; 0 is none")
    ] = "10GiB"
    cache_dir: Annotated[
        str, _said("where the stage cache is, which several outputs may share; empty for `.cache` in the output")
    ] = ""
    timeout: Annotated[_Number, Field(gt=0), _said("seconds that a guest may take to come up or go down")] = 300
    image_max_age: Annotated[
        _Number, Field(ge=0), _said("days after which virtroot's images are made anew; 0 is never")
    ] = 30
    keep: Annotated[_Number, Field(gt=0), _said("builds of a recipe that a night leaves")] = 7
    on_failure: Annotated[
        str, AfterValidator(_command), _said("command that is told of a recipe that begins to fail")
    ] = ""
    on_change: Annotated[
        str,
        AfterValidator(_command),
        _said("command that is told of a recipe that begins to fail or is in order again"),
    ] = ""
    max_age: Annotated[str, AfterValidator(_span), _said("how old a recipe's last good night may be for `status`")] = (
        "36h"
    )
    upgrade: Annotated[
        str,
        BeforeValidator(_names),
        _said("guests that a night puts on the golden roots, restarting them: `none`, `all`, or names"),
    ] = "none"
    debian_snapshots: Annotated[
        str,
        AfterValidator(partial(template, distro="debian")),
        _said(
            "Debian's dated archive: an address with `{archive}`, and `{time}` or `{year}`, `{month}` and `{day}` in it"
        ),
    ] = ""
    arch_snapshots: Annotated[
        str,
        AfterValidator(partial(template, distro="arch")),
        _said(
            "Arch's dated archive: an address with `$repo`, `$arch`, and `{time}` or `{year}`, `{month}` and `{day}`"
        ),
    ] = ""

    @property
    def snapshots(self) -> dict[str, str]:
        """The address of each distribution's dated archive; empty where none is known."""
        return {"debian": self.debian_snapshots, "arch": self.arch_snapshots}

    @property
    def cache_bytes(self) -> int:
        """The ``cache_size`` in bytes."""
        return 0 if self.cache_size == "0" else size_in_bytes(self.cache_size)

    @property
    def cache_home(self) -> Path:
        """The absolute directory of the stage cache."""
        return Path(os.path.realpath(CHECKOUT / self.cache_dir)) if self.cache_dir else self.output_dir / ".cache"

    @property
    def output_dir(self) -> Path:
        """The absolute directory that artifacts are written to: one path, by whichever link it was named."""
        return Path(os.path.realpath(CHECKOUT / self.output))

    @property
    def key(self) -> str:
        """A short key of the output directory, the same in no other checkout and on no other machine.

        What one engine has for several of them is named and labelled by it.
        """
        owner = f"{socket.gethostname()}\0{self.output_dir}"
        return hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()[:8]


_SPAN = re.compile(r"(\d{1,6})([mhdw])")


def time_span(text: str) -> timedelta:
    """Read a time span like ``90m``, ``36h``, ``14d`` or ``2w``; raises ValueError for anything else."""
    match = _SPAN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no time span")
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]: int(match[1])})


#: What to use for each setting that is not any text.
_USE = {
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
    "upgrade": "none, all, or names of guests with blanks between them",
    "debian_snapshots": "an address with {archive}, and {time} or {year}, {month} and {day} in it",
    "arch_snapshots": "an address with $repo, $arch, and {time} or {year}, {month} and {day} in it",
}


def described() -> dict[str, tuple[str, str]]:
    """Return each setting's default as text, and what it is, in Markdown."""
    # pydantic's dataclasses do not show that their fields are what its models' are.
    known = Settings.__pydantic_fields__  # type: ignore[attr-defined]
    return {name: (default, known[name].description or "") for name, default in defaults().items()}


def defaults() -> dict[str, str]:
    """Return the section's defaults as text, so that invoke knows which environment variables to look for.

    invoke makes a variable's text into the type of its default by itself: ``false`` becomes True, and ``soon`` as a
    number a traceback. Text it hands through.
    """
    return {field.name: str(field.default) for field in fields(Settings)}


def from_section(section: dict[str, Any]) -> Settings:
    """Make `Settings` from invoke's ``virtroot:`` section: text, or the types of YAML.

    Raises `VirtrootError` for an unknown key and for a value that is none.
    """
    known = [field.name for field in fields(Settings)]
    for key in section:
        if key not in known:
            raise VirtrootError(f"unknown setting virtroot.{key}", f"known settings: {', '.join(sorted(known))}")
    try:
        return Settings(**section)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise VirtrootError(
            f"setting virtroot.{name} is {section[name]!r}", f"use {_USE.get(name, 'text that is not empty')}"
        ) from error

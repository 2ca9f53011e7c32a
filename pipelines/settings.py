"""What the user configures for the whole checkout: the ``virtroot:`` section of invoke's configuration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.errors import VirtrootError

#: The checkout itself: recipes, containerfiles and tests are found from here, whatever the current directory.
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """Settings with their defaults; each has an environment variable ``INVOKE_VIRTROOT_<NAME>``.

    ``connect`` is ``auto``, ``embedded`` or ``qemu:///system``. ``embedded`` names the embedded hypervisor's container
    (and its volumes). ``workspace`` is ``auto``, ``disk`` or ``tmpfs:SIZE`` with a size as Docker takes it (``8g``).
    ``base`` is ``auto``, ``registry`` or ``mirror``. ``output`` is relative to the checkout. ``timeout`` is how long a
    guest may take to come up or go down, in seconds.
    """

    connect: str = "auto"
    pool: str = "filesystems"
    pool_path: str = "/var/lib/libvirt/filesystems"
    output: str = "output"
    embedded: str = "virtroot-hypervisor"
    workspace: str = "auto"
    base: str = "auto"
    base_cache: bool = True
    timeout: int = 300
    image_max_age: int = 30

    @property
    def output_dir(self) -> Path:
        """The absolute directory that artifacts are written to."""
        return CHECKOUT / self.output


def defaults() -> dict[str, Any]:
    """Return the section's defaults, so that invoke knows which environment variables to look for."""
    return {field.name: field.default for field in fields(Settings)}


def from_section(section: dict[str, Any]) -> Settings:
    """Make `Settings` from invoke's ``virtroot:`` section, refusing unknown keys and wrong types."""
    known = {name: type(value) for name, value in defaults().items()}
    for key, value in section.items():
        if key not in known:
            raise VirtrootError(f"unknown setting virtroot.{key}", f"known settings: {', '.join(sorted(known))}")
        if not isinstance(value, known[key]):
            raise VirtrootError(f"setting virtroot.{key} is {value!r}", f"give a value of type {known[key].__name__}")
    settings = Settings(**section)
    if settings.base not in {"auto", "registry", "mirror"}:
        raise VirtrootError(f"setting virtroot.base is {settings.base!r}", "use auto, registry or mirror")
    if settings.workspace not in {"auto", "disk"} and not settings.workspace.startswith("tmpfs:"):
        raise VirtrootError(f"setting virtroot.workspace is {settings.workspace!r}", "use auto, disk or tmpfs:SIZE")
    return settings

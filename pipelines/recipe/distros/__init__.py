"""The distributions: one module each, which alone knows how a root of that distribution is made."""

from __future__ import annotations

from pipelines.recipe.distros.arch import ARCH
from pipelines.recipe.distros.debian import DEBIAN
from pipelines.recipe.distros.distro import Distro

DISTROS: dict[str, Distro] = {distro.name: distro for distro in (DEBIAN, ARCH)}

__all__ = ["DISTROS", "Distro"]

"""The distributions, one module each, with everything that is specific to a distribution's build."""

from __future__ import annotations

from pipelines.recipe.distros.arch import ARCH
from pipelines.recipe.distros.debian import DEBIAN
from pipelines.recipe.distros.distro import Distro

DISTROS: dict[str, Distro] = {distro.name: distro for distro in (DEBIAN, ARCH)}

__all__ = ["DISTROS", "Distro"]

"""The properties of a distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Command, Stage, Tree


@dataclass(frozen=True)
class Distro:
    """A distribution. The first of ``releases`` and of ``bootstraps`` is the default.

    ``containerfile`` names the builder's Containerfile. Its base image is ``base_image`` in a registry, or is made from
    ``base_suite`` of a mirror. ``capabilities`` are those that the bootstrapper needs in addition to a container's
    default ones.
    ``find_mistakes`` returns what of a recipe the distribution does not support, as ``key: reason``.
    ``set_up_builder`` returns the steps that come first, even before the mirror query.
    ``stages`` takes the recipe and the paths of its overlay's files.
    ``mirror_query`` returns the command that prints a `MirrorState`.
    ``packages_query`` runs inside the root and prints name and version of each package, one package per line.
    ``packages_check`` runs inside the root and fails if a package is not completely installed.
    """

    name: str
    releases: tuple[str, ...]
    bootstraps: tuple[str, ...]
    kernel: str
    containerfile: str
    base_image: str
    base_suite: str
    capabilities: tuple[str, ...]
    find_mistakes: Callable[[Recipe], list[str]]
    set_up_builder: Callable[[Recipe], tuple[Command | Tree, ...]]
    stages: Callable[[Recipe, tuple[str, ...]], tuple[Stage, ...]]
    mirror_query: Callable[[Recipe], Command]
    packages_query: tuple[str, ...]
    packages_check: tuple[str, ...]

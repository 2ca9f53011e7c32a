"""What a distribution has to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Command, Stage, Tree


@dataclass(frozen=True)
class Distro:
    """A distribution; the first of ``releases`` and of ``bootstraps`` is the default.

    ``containerfile`` names the builder's, ``base_image`` what a registry has for it, ``base_suite`` what the mirror
    has. ``mirror_query`` is the command that prints a `MirrorState`. ``stages`` takes the recipe and the paths of its
    overlay's files. ``packages_query`` prints, inside the root, name and version of each package, a line each;
    ``packages_check`` fails there where a package is not wholly installed.
    ``refuses`` returns what a recipe asks that this distribution does not have, as ``key: why``. ``capabilities`` are
    those its bootstrapper needs beyond a container's default ones; ``set_up_builder`` comes before all else, also
    before the mirror is asked.
    """

    name: str
    releases: tuple[str, ...]
    bootstraps: tuple[str, ...]
    kernel: str
    containerfile: str
    base_image: str
    base_suite: str
    capabilities: tuple[str, ...]
    refuses: Callable[[Recipe], list[str]]
    set_up_builder: Callable[[Recipe], tuple[Command | Tree, ...]]
    stages: Callable[[Recipe, tuple[str, ...]], tuple[Stage, ...]]
    mirror_query: Callable[[Recipe], Command]
    packages_query: tuple[str, ...]
    packages_check: tuple[str, ...]

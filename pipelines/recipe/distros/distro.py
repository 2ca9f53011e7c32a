"""What a distribution has to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.recipe.stage import Command, Stage, Tree

if TYPE_CHECKING:
    from pipelines.recipe.recipe import Recipe


@dataclass(frozen=True)
class Distro:
    """A distribution; the first of ``releases`` and of ``bootstraps`` is the default.

    ``builder`` names the Containerfile, ``base_image`` what a registry has for it, ``base_suite`` what the mirror has.
    ``mirror_state`` is a command whose output changes when the offered packages do; its first line is the date of the
    newest change in seconds since 1970. ``stages`` takes the recipe and the paths of its overlay's files.
    ``packages_query`` prints, inside the root, name and version of each package, a line each. ``refuses`` returns what
    a recipe asks that this distribution does not have, as ``key: why``. ``capabilities`` are those its bootstrapper
    needs beyond a container's default ones; ``prepare`` sets the builder itself up, before the mirror is asked.
    """

    name: str
    releases: tuple[str, ...]
    bootstraps: tuple[str, ...]
    kernel: str
    builder: str
    base_image: str
    base_suite: str
    capabilities: tuple[str, ...]
    refuses: Callable[[Recipe], list[str]]
    prepare: Callable[[Recipe], tuple[Command | Tree, ...]]
    stages: Callable[[Recipe, tuple[str, ...]], tuple[Stage, ...]]
    mirror_state: Callable[[Recipe], Command]
    packages_query: tuple[str, ...]

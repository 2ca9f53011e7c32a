"""What a distribution has to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.recipe.stage import Command, Stage

if TYPE_CHECKING:
    from pipelines.recipe.recipe import Recipe


@dataclass(frozen=True)
class Distro:
    """A distribution; the first of ``releases``, ``bootstraps`` and ``generators`` is the default.

    ``builder`` names the Containerfile, ``base_image`` what a registry has for it, ``base_suite`` what the mirror has.
    ``mirror_state`` is a command whose output changes when the offered packages do; its first line is the date of the
    newest change in seconds since 1970. ``stages`` takes the recipe and the paths of its overlay's files.
    ``packages_query`` prints ``name<TAB>version`` for each package in the root.
    """

    name: str
    releases: tuple[str, ...]
    bootstraps: tuple[str, ...]
    generators: tuple[str, ...]
    kernel: str
    builder: str
    base_image: str
    base_suite: str
    stages: Callable[[Recipe, tuple[str, ...]], tuple[Stage, ...]]
    mirror_state: Callable[[Recipe], Command]
    packages_query: tuple[str, ...]

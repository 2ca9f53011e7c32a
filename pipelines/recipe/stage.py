"""Stages are data: what is done in the builder, and nothing about how."""

from __future__ import annotations

from dataclasses import dataclass

#: Where the root is made, in the builder.
ROOT = "/rootfs/root"
#: Where packages are kept between builds, in the builder: a named volume.
CACHE = "/var/cache/virtroot"


@dataclass(frozen=True)
class Command:
    """A command in the builder, or inside the root (``chroot``), with variables added to its environment.

    One that is ``contained`` runs in a container that is made of the root, with a /proc and a /dev of its own; what it
    changes in /boot is kept.
    """

    argv: tuple[str, ...]
    chroot: bool = False
    env: tuple[tuple[str, str], ...] = ()
    contained: bool = False

    @property
    def full_argv(self) -> tuple[str, ...]:
        """The argv as run in the builder."""
        return ("chroot", ROOT, *self.argv) if self.chroot else self.argv


@dataclass(frozen=True)
class Tree:
    """A tree of files to copy, owned by root: into the root, or into the directory ``builder`` of the builder.

    ``kind`` is ``skeleton`` (``name`` is a folder of the skeletons), ``overlay`` (a folder beside the recipe) or
    ``keyring`` (a file beside the recipe).
    """

    kind: str
    name: str
    builder: str = ""


@dataclass(frozen=True)
class Stage:
    """A named run of steps.

    ``cached`` says that the root after it is kept for builds whose stages are the same up to here; ``foreign`` that it
    runs what the recipe's author wrote: no root from there on is kept, and it runs away from whatever later builds
    trust.
    """

    name: str
    steps: tuple[Command | Tree, ...] = ()
    cached: bool = False
    foreign: bool = False

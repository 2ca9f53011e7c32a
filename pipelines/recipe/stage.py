"""The stages of a build, as data: commands to run and trees to copy."""

from __future__ import annotations

from dataclasses import dataclass

#: The root, in the builder.
ROOT = "/rootfs/root"
#: The cache of downloaded packages, in the builder: a volume that outlives it.
CACHE = "/var/cache/virtroot"


@dataclass(frozen=True)
class Command:
    """A command in the builder, or in the root with ``chroot``, with additional environment variables ``env``.

    A ``contained`` command runs in a container made from the root, with its own /proc and /dev. Its changes in /boot
    are kept.
    """

    argv: tuple[str, ...]
    chroot: bool = False
    env: tuple[tuple[str, str], ...] = ()
    contained: bool = False

    @property
    def full_argv(self) -> tuple[str, ...]:
        """The argv to run in the builder."""
        return ("chroot", ROOT, *self.argv) if self.chroot else self.argv


@dataclass(frozen=True)
class Tree:
    """A tree of files, owned by root, to copy into the root, or into the directory ``builder`` of the builder.

    ``kind`` is ``skeleton`` (``name`` is a folder of the skeletons), ``overlay`` (a folder relative to the recipe) or
    ``keyring`` (a file relative to the recipe).
    """

    kind: str
    name: str
    builder: str = ""


@dataclass(frozen=True)
class Stage:
    """A named list of steps.

    With ``cached`` the root after the stage is kept in the stage cache. A ``foreign`` stage runs commands of the
    recipe's author: the root is not cached from there on, and the stage has no access to anything that later builds
    trust.
    """

    name: str
    steps: tuple[Command | Tree, ...] = ()
    cached: bool = False
    foreign: bool = False

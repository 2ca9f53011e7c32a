"""What a recipe or a manifest requests from the host in addition to the guest's root, and the user's consent to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.log import confirm, say
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ShareSpec
from pipelines.text import one_line

#: Asks the user the question it is called with, and returns the answer.
Consent = Callable[[str], bool]

#: Networks that need no consent: libvirt's default network, or less.
_USUAL_NETWORKS = ("auto", "default", "none", "user")


class Recorded(Protocol):
    """The part of a recipe, or of the recipe recorded in a manifest, that requests something from the host."""

    @property
    def network(self) -> str:
        """The name of a libvirt network, or one of `_USUAL_NETWORKS`."""

    @property
    def overlayfs(self) -> bool:
        """Whether the guest may mount overlayfs."""


def get_consent(accept: bool) -> Consent:
    """Return a function that consents if the user gave ``--accept``, and asks the user otherwise."""
    return grant if accept else confirm


def grant(_: str) -> bool:
    """Consent to everything."""
    return True


def describe(recorded: Recorded, *, overlayfs_given: bool = False) -> tuple[str, ...]:
    """Return one line for each thing except shares that ``recorded`` requests from the host.

    ``overlayfs_given`` says that the user gave --overlayfs on the command line.
    """
    lines = []
    if recorded.overlayfs and not overlayfs_given:
        lines.append("overlayfs: the virtiofsd of its root keeps CAP_SYS_ADMIN on the host")
    if recorded.network not in _USUAL_NETWORKS:
        lines.append(f"network {one_line(recorded.network)!r} of libvirt, instead of the default one")
    return tuple(lines)


def describe_shares(wanted: Sequence[ShareSpec], found: Sequence[Share], others: Iterable[Guest]) -> tuple[str, ...]:
    """Return one line for each of the shares ``wanted``: its directory ``found`` and the guests that share it, too."""
    users: dict[str, list[str]] = {}
    for guest in others:
        for each in guest.shares:
            users.setdefault(each.directory, []).append(guest.name)
    lines = []
    for share, there in zip(wanted, found, strict=True):
        shown = f"share {share.tag}: {there.directory} of the host, {'read-only' if share.readonly else 'read-write'}"
        having = ", ".join(sorted({*users.get(there.directory, ())}))
        lines.append(f"{shown}, at {share.point}" + (f", which {having} shares" if having else ""))
    return tuple(lines)


def refuse_absolute(shares: Iterable[ShareSpec], source: str) -> None:
    """Raise `VirtrootError` for a share of ``source``, a recipe or an artifact, that has a directory of the host."""
    for share in shares:
        if not share.named:
            word = ":ro" if share.readonly else ""
            raise VirtrootError(
                f"{source} requests the directory {share.source} of the host as the share {share.tag}",
                f"use --share {share.tag}:{share.source}:{share.point}{word}, which replaces this share: "
                "only the command line may name directories of the host",
            )


def refuse_unaccepted(name: str, source: str, lines: Sequence[str], consent: Consent | None) -> None:
    """Show what ``source`` requests from the host for the guest ``name``; raise `VirtrootError` without ``consent``."""
    if not lines:
        return
    say(f"{source} requests from the host, for {name}:")
    for line in lines:
        say(f"  {line}")
    if consent is None or not consent(f"give {name} all of that?"):
        raise VirtrootError(
            f"{source} requests more from the host than a guest gets by default: {'; '.join(lines)}",
            "use --accept to grant this",
        )

"""What a recipe or a manifest asks of the host beyond a guest's own root, and the user's consent to that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.log import confirm, say
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ShareSpec
from pipelines.text import one_line

#: Answers the question that it is given.
Consent = Callable[[str], bool]

#: Networks that a guest gets without asking: libvirt's own, or less.
_USUAL_NETWORKS = ("auto", "default", "none", "user")


class Recorded(Protocol):
    """The part of a recipe, or of a manifest's record of it, that asks of the host."""

    @property
    def network(self) -> str:
        """A network of libvirt's, or one of the usual words."""

    @property
    def overlayfs(self) -> bool:
        """Whether the guest may mount overlayfs."""


def consent(accept: bool) -> Consent:
    """Return the consent of a user who gave ``--accept``, or who is to be asked."""
    return granted if accept else confirm


def granted(_: str) -> bool:
    """Consent to everything."""
    return True


def describe(recorded: Recorded, *, overlayfs_given: bool = False) -> tuple[str, ...]:
    """Return a line for each thing except shares that ``recorded`` asks of the host.

    With ``overlayfs_given`` the user asked for overlayfs on the command line.
    """
    lines = []
    if recorded.overlayfs and not overlayfs_given:
        lines.append("overlayfs: the virtiofsd of its root keeps CAP_SYS_ADMIN on the host")
    if recorded.network not in _USUAL_NETWORKS:
        lines.append(f"network {one_line(recorded.network)!r} of libvirt, instead of the default one")
    return tuple(lines)


def describe_shares(wanted: Sequence[ShareSpec], found: Sequence[Share], others: Iterable[Guest]) -> tuple[str, ...]:
    """Return a line for each of the shares ``wanted``, which are ``found`` on the host, and which guests have it."""
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
    """Raise `VirtrootError` for a share of ``source``, a recipe or an artifact, that names a directory of the host."""
    for share in shares:
        if not share.named:
            word = ":ro" if share.readonly else ""
            raise VirtrootError(
                f"{source} asks for the host's directory {share.source}, as the share {share.tag}",
                "only the user names directories of the host: "
                f"--share {share.tag}:{share.source}:{share.point}{word}, which replaces it",
            )


def refuse_unaccepted(name: str, source: str, lines: Sequence[str], consent: Consent | None) -> None:
    """Show what ``source`` asks of the host for the guest ``name``; raise `VirtrootError` without ``consent`` to it."""
    if not lines:
        return
    say(f"{source} asks of the host, for {name}:")
    for line in lines:
        say(f"  {line}")
    if consent is None or not consent(f"give {name} all of that?"):
        raise VirtrootError(
            f"{source} asks more of the host than a guest gets by itself: {'; '.join(lines)}",
            "give --accept, if the host is to give that",
        )

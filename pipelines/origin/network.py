"""Decides what an existing system's network needs, so that the guest's card gets an address and name servers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.origin.signs import Shown

#: The card's name in a line about a network card, see `system_facts`.
_CARD = re.compile(r" names the network card (\S+)$")


@dataclass(frozen=True)
class Network:
    """What a guest needs in addition to its system's configuration.

    ``rename`` is the new name of the guest's card, or empty. ``fallback`` means that systemd-networkd has to configure
    cards that no file of the system matches; ``enable`` that it has to be enabled for this. ``resolver`` is the source
    of etc/resolv.conf: ``stub`` (a link to systemd-resolved's file), ``install`` (the same, but its package is
    missing), ``remove`` (a program of the system writes it), ``missing`` (no program does), empty to keep the file.
    """

    rename: str = ""
    fallback: bool = False
    enable: bool = False
    resolver: str = ""


def plan(signs: Shown, cards: tuple[str, ...], found: frozenset[str], distro: str) -> Network:
    """Return what the network of a system with these facts needs; ``found`` are existing paths of `system.ASKED`."""
    configured = (
        bool({"interfaces", "managers", "netplan"} & signs.keys()) or {"networkd", "networkd-files"} <= signs.keys()
    )
    by_networkd = "networkd" in signs or ("netplan" in signs and "managers" not in signs)
    names = {match[1] for line in cards if (match := _CARD.search(line))}
    names |= {text for _, texts in signs.get("card-names", ()) for text in texts}
    # The guest's card is not a wireless one.
    names = {name for name in names if not name.startswith("wl")}
    fallback = not configured or ("hardware" in signs and by_networkd)
    resolver = ""
    if "container-resolver" in signs or "etc/resolv.conf" not in found:
        if "resolved" in signs:
            resolver = "stub"
        elif "writes-resolver" in signs and not fallback:
            resolver = "remove" if "container-resolver" in signs else ""
        else:
            resolver = "install" if distro == "debian" else "missing"
    return Network(
        rename=names.pop() if len(names) == 1 else "",
        fallback=fallback,
        enable=fallback and "networkd" not in signs,
        resolver=resolver,
    )

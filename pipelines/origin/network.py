"""The network of an existing system: whether the guest's card gets an address and name servers from it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.origin.signs import Shown

#: What a line about a network card says, see `looking`.
_CARD = re.compile(r" names the network card (\S+)$")


@dataclass(frozen=True)
class Network:
    """What a guest needs beyond what its system configures.

    ``rename`` is the name that the guest's card gets, empty for its own. ``fallback`` says that systemd-networkd has to
    configure what no file of the system's matches, and ``enable`` that it is not enabled. ``resolver`` is how
    etc/resolv.conf comes about: ``stub`` (a link to systemd-resolved's), ``install`` (the same, with a package that is
    missing), ``remove`` (a program of the system's writes it), ``missing`` (none does), empty where it stays.
    """

    rename: str = ""
    fallback: bool = False
    enable: bool = False
    resolver: str = ""


def plan(signs: Shown, cards: tuple[str, ...], found: frozenset[str], distro: str) -> Network:
    """Return what the network of a system with these facts needs; ``found`` are paths that are there."""
    configured = (
        bool({"interfaces", "managers", "netplan"} & signs.keys()) or {"networkd", "networkd-files"} <= signs.keys()
    )
    by_networkd = "networkd" in signs or ("netplan" in signs and "managers" not in signs)
    names = {match[1] for line in cards if (match := _CARD.search(line))}
    names |= {text for _, texts in signs.get("card-names", ()) for text in texts}
    # The guest's card is none of a wireless network.
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

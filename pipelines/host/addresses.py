"""Addresses that others tell: libvirt of its leases, a guest's agent of itself."""

from __future__ import annotations

import ipaddress


def parse(text: str) -> str:
    """Return ``text`` as an IP address in its usual spelling; empty for anything else, and for no address of a machine.

    Whatever comes of a guest becomes an argument of ssh or nc, where a hyphen at the beginning would be an option. An
    address with a zone is none: a zone may be any text.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address) and found.scope_id is not None:
        return ""
    really = (found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None) or found
    nowhere = really.is_loopback or really.is_link_local or really.is_multicast or really.is_unspecified
    return "" if nowhere else str(found)

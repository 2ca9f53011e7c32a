"""IP addresses from libvirt's leases and from guest agents."""

from __future__ import annotations

import ipaddress


def parse(text: str) -> str:
    """Return ``text`` as an IP address in canonical form; empty if it is not a usable address of a machine.

    An address from a guest becomes an argument of ssh or nc, where a leading hyphen would be an option. An address with
    a zone is rejected, since a zone may be any text.
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

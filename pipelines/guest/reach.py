"""How a guest is reached by ssh: its address, and the host keys that are in its root."""

from __future__ import annotations

import re
import time

from pipelines.errors import VirtrootError
from pipelines.guest.guest import Guest
from pipelines.host.relay import PATIENCE
from pipelines.libvirt import beside
from pipelines.text import trim

#: Where sshd listens.
PORT = 22

#: Host keys in the order in which ssh prefers them; one is enough.
_KEYS = tuple(f"etc/ssh/ssh_host_{kind}_key.pub" for kind in ("ed25519", "ecdsa", "rsa"))

_KEY = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp[0-9]{3}|ssh-rsa) ([A-Za-z0-9+/]{40,2000}={0,2})( .*)?")


def address(guest: Guest) -> str:
    """Return where a running guest can be reached; empty for one that cannot, or that does not say so soon."""
    if not guest.hypervisor.on_a_network(guest.uuid):
        return ""
    for source in ("lease", "arp"):
        found = guest.hypervisor.address(guest.uuid, source)
        if found:
            return found
    try:
        return next(iter(guest.agent.addresses()), "")
    except VirtrootError:
        return ""


def reachable(guest: Guest) -> str:
    """Return the address of a guest that runs; raises `VirtrootError` saying why it has none."""
    if not guest.running:
        raise VirtrootError(f"the guest {guest.name} is not running", f"start it first: ./inv start {guest.name}")
    if not guest.hypervisor.on_a_network(guest.uuid):
        raise VirtrootError(
            f"{guest.name} is on no network that it can be reached by, only on QEMU's own or none",
            f"./inv exec and ./inv console work; to change it: virsh edit {guest.name}, "
            "<interface type='network'><source network='default'/>",
        )
    found = address(guest)
    if not found:
        raise VirtrootError(
            f"{guest.name} has no address yet", f"wait for it: ./inv wait {guest.name}; or see ./inv logs {guest.name}"
        )
    return found


def known_host(guest: Guest) -> str:
    """Return the line of a known_hosts file with the guest's name and the host key in its root.

    sshd makes its keys at the first boot, a moment after the agent is up: that is waited for. Raises `VirtrootError`
    where there is none then.
    """
    deadline = time.monotonic() + PATIENCE
    while not (line := _key(guest)) and time.monotonic() < deadline:
        time.sleep(0.5)
    if line:
        return line
    raise VirtrootError(
        f"the root of {guest.name} has no ssh host key",
        f"see whether openssh-server is installed in it, and ./inv exec {guest.name} -- systemctl status ssh",
    )


def _key(guest: Guest) -> str:
    for path in _KEYS:
        try:
            text = beside.read(guest.target, guest.root, path).decode()
        except (VirtrootError, UnicodeDecodeError):
            continue
        # The guest wrote it: nothing but a key goes into a file that ssh believes.
        match = _KEY.fullmatch(trim(text))
        if match:
            return f"{guest.name} {match[1]} {match[2]}\n"
    return ""

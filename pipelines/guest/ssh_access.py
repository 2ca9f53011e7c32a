"""How a guest is reached by ssh: its address, and the host keys that are in its root."""

from __future__ import annotations

import re
import time

from pipelines.errors import VirtrootError
from pipelines.guest import sshd
from pipelines.guest.guest import Guest
from pipelines.guest.sshd import Sshd
from pipelines.target.relay import PATIENCE
from pipelines.text import one_line, trim

#: Kinds of host keys in the order in which ssh prefers them; one is enough.
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp", "ssh-rsa")

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


def known_host(guest: Guest) -> tuple[str, Sshd]:
    """Return the line of a known_hosts file with the guest's name and the host key in its root, and its sshd.

    sshd makes its keys at the first boot, a moment after the agent is up: that is waited for. Raises `VirtrootError`
    where there is none then.
    """
    deadline = time.monotonic() + PATIENCE
    while not (line := _key(guest, found := sshd.read(guest.target, guest.root))) and time.monotonic() < deadline:
        time.sleep(0.5)
    if line:
        return line, found
    paths = ", ".join(f"/{one_line(path)}.pub" for path in found.public_keys)
    raise VirtrootError(
        f"the root of {guest.name} has no ssh host key",
        f"see whether openssh-server is installed in it, ./inv exec {guest.name} -- systemctl status ssh, and whether "
        f"one of these is there: {paths}",
    )


def _key(guest: Guest, found: Sshd) -> str:
    # The guest wrote them: nothing but a key goes into a file that ssh believes.
    keys = [match for text in found.public_keys.values() if (match := _KEY.fullmatch(trim(text)))]
    for kind in _KINDS:
        for key in keys:
            if key[1].startswith(kind):
                return f"{guest.name} {key[1]} {key[2]}\n"
    return ""

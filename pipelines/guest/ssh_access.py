"""Access to a guest by ssh: its address, and the host keys in its root."""

from __future__ import annotations

import re
import time

from pipelines.errors import VirtrootError
from pipelines.guest import sshd
from pipelines.guest.guest import Guest
from pipelines.guest.sshd import Sshd
from pipelines.target.relay import PATIENCE
from pipelines.text import one_line, trim

#: Types of host keys in ssh's order of preference; one is enough.
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp", "ssh-rsa")

_KEY = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp[0-9]{3}|ssh-rsa) ([A-Za-z0-9+/]{40,2000}={0,2})( .*)?")


def find_address(guest: Guest) -> str:
    """Return the address of a running guest; empty if it has none, or does not report it soon."""
    if not guest.hypervisor.has_network(guest.uuid):
        return ""
    for source in ("lease", "arp"):
        found = guest.hypervisor.find_address(guest.uuid, source)
        if found:
            return found
    try:
        return next(iter(guest.agent.list_addresses()), "")
    except VirtrootError:
        return ""


def get_address(guest: Guest) -> str:
    """Return the address of a running guest; raises `VirtrootError` with the reason if it has none."""
    if not guest.running:
        raise VirtrootError(f"the guest {guest.name} is not running", f"run ./inv start {guest.name} first")
    if not guest.hypervisor.has_network(guest.uuid):
        raise VirtrootError(
            f"{guest.name} is not on a network that the host can reach, only on QEMU's user network or on none",
            f"use ./inv exec and ./inv console; or change its network: virsh edit {guest.name}, "
            "<interface type='network'><source network='default'/>",
        )
    found = find_address(guest)
    if not found:
        raise VirtrootError(
            f"{guest.name} has no address yet", f"run ./inv wait {guest.name}, or see ./inv logs {guest.name}"
        )
    return found


def make_known_hosts_line(guest: Guest) -> tuple[str, Sshd]:
    """Return the line for a known_hosts file with the guest's name and the host key in its root, and its sshd.

    sshd makes its keys at the first boot, shortly after the agent is up, so this waits for them. Raises `VirtrootError`
    if there is none after that.
    """
    deadline = time.monotonic() + PATIENCE
    while not (line := _make_line(guest, found := sshd.read(guest.target, guest.root))) and time.monotonic() < deadline:
        time.sleep(0.5)
    if line:
        return line, found
    paths = ", ".join(f"/{one_line(path)}.pub" for path in found.public_keys)
    raise VirtrootError(
        f"the root of {guest.name} has no ssh host key",
        f"check whether openssh-server is installed, ./inv exec {guest.name} -- systemctl status ssh, and whether "
        f"one of these files exists: {paths}",
    )


def _make_line(guest: Guest, found: Sshd) -> str:
    # The guest wrote the file: only a valid key may get into a file that ssh trusts.
    keys = [match for text in found.public_keys.values() if (match := _KEY.fullmatch(trim(text)))]
    for kind in _KINDS:
        for key in keys:
            if key[1].startswith(kind):
                return f"{guest.name} {key[1]} {key[2]}\n"
    return ""

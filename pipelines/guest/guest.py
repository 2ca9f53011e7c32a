"""A guest as libvirt knows it: found by name, with what virtroot's metadata says of it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from pipelines.errors import VirtrootError
from pipelines.guest.agent import Agent
from pipelines.guest.domain import console_log
from pipelines.libvirt import beside
from pipelines.libvirt.handover import NAMESPACE
from pipelines.libvirt.hypervisor import Hypervisor

#: Where libvirt itself keeps kernels it boots from; each guest has a directory of its own there.
BOOT = "/var/lib/libvirt/boot"

#: What a guest prints that will not come up any more.
_HOPELESS = re.compile(r"Kernel panic - not syncing|\(initramfs\)|Entering emergency mode")

_POLL = 0.5


def boot_directory(name: str) -> str:
    """Return the host-owned directory with the guest's kernel, initramfs and manifest."""
    return f"{BOOT}/virtroot.{name}"


@dataclass(frozen=True)
class Guest:
    """A domain that virtroot defined; ``artifact`` is the id of what it was made from."""

    hypervisor: Hypervisor
    name: str
    artifact: str
    root: str
    kernel: str
    initrd: str
    uuid: str

    @property
    def boot(self) -> str:
        """The guest's host-owned directory."""
        return boot_directory(self.name)

    @property
    def agent(self) -> Agent:
        """The agent inside the guest."""
        return Agent(self.hypervisor, self.name)

    @property
    def running(self) -> bool:
        """Whether the guest is anything but shut off."""
        return self.hypervisor.state(self.name) != "shut off"

    def hand_over(self) -> None:
        """Copy the kernel and initramfs out of the root anew; raises `VirtrootError` where they are not safe to."""
        beside.hand_over(self.hypervisor.target, self.root, self.boot, self.kernel, self.initrd)

    def start(self, timeout: float) -> float:
        """Boot the guest and wait for its agent; return the seconds that took.

        Raises `VirtrootError` with the console's tail when the guest gives up or ``timeout`` (seconds) passes.
        """
        self.hand_over()
        begin = time.monotonic()
        self.hypervisor.virsh("start", self.name)
        while time.monotonic() - begin < timeout:
            if self.agent.answers():
                return time.monotonic() - begin
            if not self.running:
                raise self._did_not_come_up(f"libvirt says {self.hypervisor.state(self.name, reason=True)}")
            hopeless = _HOPELESS.search(self.console_tail())
            if hopeless:
                raise self._did_not_come_up(f"its console says {hopeless[0]!r}")
            time.sleep(_POLL)
        raise self._did_not_come_up(f"no agent answered within {timeout:.0f} s")

    def _did_not_come_up(self, why: str) -> VirtrootError:
        return VirtrootError(
            f"the guest {self.name} did not come up: {why}",
            f"read its console above and QEMU's log, /var/log/libvirt/qemu/{self.name}.log on libvirt's machine; "
            f"while it runs, ./inv console --name {self.name} shows it, ./inv stop --name {self.name} --force ends it",
            self.console_tail(),
        )

    def console_tail(self, lines: int = 30) -> str:
        """Return the last lines of the serial console, without terminal colours."""
        tail = self.hypervisor.target.run(["tail", "-n", str(lines), console_log(self.name)], check=False)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r|\x1bc", "", tail.text)

    def stop(self, timeout: float, *, force: bool = False) -> float:
        """Shut the guest down and return the seconds that took; ``force`` pulls the plug instead."""
        begin = time.monotonic()
        if force:
            self.hypervisor.virsh("destroy", self.name)
        else:
            self.hypervisor.virsh("shutdown", self.name)
        while time.monotonic() - begin < timeout:
            if not self.running:
                return time.monotonic() - begin
            time.sleep(_POLL)
        raise VirtrootError(
            f"the guest {self.name} did not shut down within {timeout:.0f} s",
            f"look at ./inv console --name {self.name}, or end it with ./inv stop --name {self.name} --force",
            self.console_tail(),
        )


def find(hypervisor: Hypervisor, name: str) -> Guest:
    """Return the guest ``name``; raises `VirtrootError` when there is none, or when virtroot did not make it."""
    if name not in hypervisor.domains():
        known = ", ".join(guest.name for guest in every(hypervisor)) or "none yet; see ./inv install"
        raise VirtrootError(f"no guest {name}", f"guests here: {known}")
    guest = _read(hypervisor, name)
    if guest is None:
        raise VirtrootError(f"{name} is a domain that virtroot did not make", "use virsh for it")
    return guest


def every(hypervisor: Hypervisor) -> list[Guest]:
    """Return all guests that virtroot made, sorted by name."""
    found = (_read(hypervisor, name) for name in sorted(hypervisor.domains()))
    return [guest for guest in found if guest is not None]


def _read(hypervisor: Hypervisor, name: str) -> Guest | None:
    domain = hypervisor.xml(name)
    metadata = domain.find(f"metadata/{{{NAMESPACE}}}guest")
    if metadata is None:
        return None
    values = {key: metadata.findtext(f"{{{NAMESPACE}}}{key}") or "" for key in ("artifact", "root", "kernel", "initrd")}
    return Guest(hypervisor, name, uuid=domain.findtext("uuid") or "", **values)

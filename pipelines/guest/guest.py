"""A guest: a domain with virtroot's metadata. It is found by name and addressed by UUID."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import Phase, VirtrootError
from pipelines.guest import logs, root_source, virtiofsd_wrapper
from pipelines.guest.agent import Agent, Silent
from pipelines.guest.logs import Logs
from pipelines.guest.root_source import RootSource
from pipelines.guest.virtiofsd import find_unserved
from pipelines.libvirt import host_files, wrappers
from pipelines.libvirt.hypervisor import Hypervisor, ListedDomain
from pipelines.pool import place, shares
from pipelines.pool.shares import Share
from pipelines.symptom.known import GONE, OVERLAYFS, SYMPTOMS
from pipelines.symptom.recognise import find_symptom
from pipelines.symptom.symptom import Symptom
from pipelines.target import mounts, programs
from pipelines.target.payload import metadata
from pipelines.target.target import Target
from pipelines.text import plain, split_lines, trim

#: What the console prints after a boot has failed for good; grep reads this pattern, too.
_GAVE_UP = re.compile(r"Kernel panic - not syncing|\(initramfs\)|(Entering|You are in) emergency mode")

_WATCH = Path(__file__).with_name("watch_guest.sh").read_text(encoding="utf-8")

#: Seconds that one such command runs.
_WATCH_SECONDS = 10

#: Lines of the console's end that are searched for the reason of a failure.
_CONSOLE_LINES = 1000

#: Bytes of the console's end that are read: the guest decides how long its lines are.
_TAIL_BYTES = 64 << 10


@dataclass(frozen=True)
class Guest:
    """A domain that virtroot defined.

    ``root`` is its root, ``source`` what that was made from and how it boots, ``boot`` its boot directory on the host,
    from which the kernel is loaded. ``transient`` names the task that made it as a temporary guest; empty for a
    permanent one. ``overlayfs`` says whether its virtiofsd keeps CAP_SYS_ADMIN. ``cache`` is the cache mode of its
    root, see `shares.parse_cache`, and ``shares`` are its shares. ``binaries`` are the programs that its devices name,
    with "" for libvirt's default.
    """

    hypervisor: Hypervisor
    name: str
    uuid: str
    source: RootSource
    root: str
    boot: str
    console_log: str
    transient: str = ""
    overlayfs: bool = False
    cache: str = "auto"
    shares: tuple[Share, ...] = ()
    binaries: tuple[str, ...] = ()

    @property
    def usr(self) -> bool:
        """Whether the root's /usr is a device of its own."""
        return self.cache == shares.MIXED

    @property
    def agent(self) -> Agent:
        """The agent inside the guest."""
        return Agent(self.hypervisor, self.uuid, self.name)

    @property
    def target(self) -> Target:
        """The target that the guest's root and logs are on."""
        return self.hypervisor.target

    @property
    def state(self) -> str:
        """The state of the domain in libvirt's words."""
        return self.hypervisor.state(self.uuid)

    @property
    def running(self) -> bool:
        """Whether the guest is in any state other than shut off."""
        return self.state != "shut off"

    def check_running(self) -> None:
        """Raise `VirtrootError` if the guest is shut off."""
        if not self.running:
            raise VirtrootError(f"the guest {self.name} is not running", f"start it first: ./inv start {self.name}")

    def refuse_shared_root(self, *, active: bool = False) -> None:
        """Raise `VirtrootError` if another domain (an active one, with ``active``) uses this guest's root.

        A clone made by virt-clone does.
        """
        for what, path in (("root", self.root), ("boot directory", self.boot)):
            others = self.hypervisor.find_domains_using(path, besides=self.uuid, active=active)
            if others:
                names = " and ".join(known.name for known in others)
                raise VirtrootError(
                    f"the {what} of {self.name}, {path}, is the {what} of {names} too",
                    f"undefine the domain that is the copy, but keep its root: virsh undefine {others[0].name}",
                )

    def mount_layers(self) -> None:
        """Mount the root if it is a layer on a base tree; everything that reads a root has to call this first.

        Raises `VirtrootError` if the base tree has changed since the root was made.
        """
        if self.source.lower:
            programs.mount_layers(self.target, self.root, self.source.golden, self.source.lower)

    def refuse_mounts(self) -> None:
        """Raise `VirtrootError` if anything is mounted in the root, other than the root itself."""
        mounts.refuse(self.target, self.root, besides=self.root if self.source.lower else "")

    def copy_kernel(self) -> None:
        """Copy kernel and initramfs from the root to the boot directory; raises `VirtrootError` if that is unsafe."""
        programs.copy_kernel(self.target, self.root, self.boot, self.source.kernel, self.source.initrd)

    def start(self, timeout: float) -> float:
        """Boot the guest and wait for its agent; return the seconds that took.

        Raises `VirtrootError` with the end of the console if the boot fails or takes longer than ``timeout`` seconds.
        """
        self.refuse_shared_root(active=True)
        self.mount_layers()
        try:
            if self.usr:
                programs.check_not_replaced(self.target, self.root, shares.USR)
            self.copy_kernel()
        except VirtrootError as error:
            symptom = find_symptom([error.what], self.symptoms)
            if symptom is None:
                raise
            raise VirtrootError(
                symptom.format_error(error.what), symptom.format_hint(self.name), error.detail
            ) from error
        for path in filter(wrappers.parse, self.binaries):
            host_files.install_wrapper(self.target, path)
        before = self.logs.read_sizes()
        begin = time.monotonic()
        started = self.hypervisor.virsh("start", self.uuid, check=False)
        if started.returncode:
            said = started.complaint
            raise self._make_boot_error(said.rpartition("\n")[2] or "virsh start failed", before, said)
        self.wait(timeout, before)
        return time.monotonic() - begin

    def wait(self, timeout: float, before: Mapping[str, int] | None = None) -> float:
        """Wait until the agent of the running guest answers; return the seconds that took. Raises as `start` does.

        ``before`` has the sizes of the guest's logs before its start, if they are known.
        """
        begin = time.monotonic()
        while (left := timeout - (time.monotonic() - begin)) > 0:
            seen = self._watch(left, _GAVE_UP.pattern)
            if seen == "up":
                return time.monotonic() - begin
            if seen == "off":
                raise self._make_boot_error(f"libvirt says {self.hypervisor.state(self.uuid, reason=True)}", before)
            if seen == "hopeless":
                found = _GAVE_UP.search(self.read_console_tail(_CONSOLE_LINES))
                raise self._make_boot_error(
                    f"its console says {found[0] if found else 'that the boot failed'!r}", before
                )
            if gone := self.find_unserved():
                raise self._make_boot_error(gone, before)
        raise self._make_boot_error(f"no agent answered within {timeout:.0f} s", before)

    def _watch(self, left: float, hopeless: str = "") -> str:
        """Poll the guest for ``left`` seconds or fewer; return ``up``, ``hopeless``, ``off`` or ``neither``.

        ``hopeless`` is the pattern of a failed boot on the console; without it, only ``off`` is detected.
        """
        seconds = str(max(1, round(min(left, _WATCH_SECONDS))))
        argv = ["sh", "-c", _WATCH, "watch", seconds, self.console_log, hopeless, self.uuid]
        return trim(self.target.run([*argv, *self.hypervisor.virsh_argv()]).text)

    def _make_boot_error(self, why: str, before: Mapping[str, int] | None, said: str = "") -> VirtrootError:
        """Return the error of a failed start; ``said`` is the complete answer of libvirt."""
        written = {"libvirt": said if "\n" in said else "", **self.logs.read_since(before)}
        what = f"the guest {self.name} did not come up: {why}"
        hint = (
            f"read the logs above, or run ./inv logs {self.name} [--virtiofsd|--qemu] for all of them; if the guest "
            f"still runs, see ./inv console {self.name}, and run ./inv stop {self.name} --force to end it"
        )
        reasons = [symptom for symptom in self.symptoms if not symptom.comes_up]
        symptom = find_symptom([why, said, *written.values()], reasons)
        if symptom:
            what, hint = symptom.format_error(what), symptom.format_hint(self.name)
        return VirtrootError(what, hint, logs.format_tails(written), where=Phase.BOOT)

    @property
    def logs(self) -> Logs:
        """The logs of the guest."""
        paths = {"virtiofsd's log": place.virtiofsd_log(self.name)}
        if self.usr:
            paths["virtiofsd's log of /usr"] = place.virtiofsd_log(self.name, 1)
        for number, share in enumerate(self.shares, start=2 if self.usr else 1):
            paths[f"virtiofsd's log of the share {share.tag}"] = place.virtiofsd_log(self.name, number)
        return Logs(self.target, {**paths, logs.QEMU: place.qemu_log(self.name), logs.CONSOLE: self.console_log})

    @property
    def symptoms(self) -> tuple[Symptom, ...]:
        """The known symptoms that this guest can have."""
        return tuple(symptom for symptom in SYMPTOMS if not (self.overlayfs and symptom is OVERLAYFS))

    def find_unserved(self) -> str:
        """Return which directory of the running guest is not served by a virtiofsd any more; empty if none."""
        return find_unserved(self.hypervisor, self.uuid)

    def refuse_unserved(self) -> None:
        """Raise `VirtrootError` if a directory of the running guest is not served any more: the guest hangs then."""
        if gone := self.find_unserved():
            raise VirtrootError(GONE.format_error(f"{self.name} hangs: {gone}"), GONE.format_hint(self.name))

    @contextmanager
    def explain_silence(self) -> Iterator[None]:
        """Run code that asks the agent; if the agent does not answer, raise the reason if it is visible on the host."""
        try:
            yield
        except Silent:
            self.refuse_unserved()
            raise

    def read_console_tail(self, lines: int = 30) -> str:
        """Return the last lines of the serial console."""
        return self.read_log_tail(self.console_log, lines)

    def read_log_tail(self, path: str, lines: int) -> str:
        """Return the last lines of a log on libvirt's host; empty if there is no such log."""
        tail = self.target.run(["tail", "-c", str(_TAIL_BYTES), path], check=False)
        return "\n".join(split_lines(plain(tail.stdout.decode(errors="replace")))[-lines:])

    def stop(self, timeout: float, *, force: bool = False) -> float:
        """Shut the guest down and return the seconds that took; with ``force``, end it without a shutdown."""
        begin = time.monotonic()
        self.hypervisor.virsh("destroy" if force else "shutdown", self.uuid)
        while (left := timeout - (time.monotonic() - begin)) > 0:
            if self._watch(left) == "off":
                return time.monotonic() - begin
        self.refuse_unserved()
        raise VirtrootError(
            f"the guest {self.name} did not shut down within {timeout:.0f} s",
            f"see ./inv console {self.name}, or run ./inv stop {self.name} --force",
            self.read_console_tail(),
        )


def get(hypervisor: Hypervisor, name: str) -> Guest:
    """Return the guest ``name``; raises `VirtrootError` if there is none, or if virtroot did not define the domain."""
    known = next((known for known in hypervisor.domains() if known.name == name), None)
    if known is None:
        others = ", ".join(guest.name for guest in list_guests(hypervisor)) or "none; see ./inv install"
        raise VirtrootError(f"no guest {name}", f"use an existing guest: {others}")
    guest = _parse_guest(hypervisor, known, hypervisor.xml(known.uuid))
    if guest is None:
        raise VirtrootError(f"the domain {name} was not made by virtroot", "use virsh for it")
    return guest


def list_guests(hypervisor: Hypervisor) -> list[Guest]:
    """Return all guests that virtroot made, sorted by name."""
    domains = hypervisor.domains()
    definitions = hypervisor.definitions(domains)
    found = (_parse_guest(hypervisor, known, definitions.get(known.uuid)) for known in domains)
    return [guest for guest in found if guest is not None]


def find_guests_on(hypervisor: Hypervisor, golden: str) -> list[str]:
    """Return the names of the guests whose roots are layers on the base tree ``golden``."""
    return [guest.name for guest in list_guests(hypervisor) if guest.source.lower and guest.source.golden == golden]


def _parse_guest(hypervisor: Hypervisor, known: ListedDomain, definition: ET.Element | None) -> Guest | None:
    values = None if definition is None else metadata.read(definition)
    if definition is None or values is None:
        return None
    boot, log = _parse_boot_directory(definition, known.name), _parse_console_log(definition, known.name)
    return Guest(
        hypervisor,
        known.name,
        known.uuid,
        boot=boot,
        console_log=log,
        overlayfs=virtiofsd_wrapper.has_overlayfs(definition),
        binaries=virtiofsd_wrapper.list_binaries(definition),
        cache=shares.parse_cache(definition),
        shares=shares.parse_shares(definition),
        source=root_source.read(definition),
        root=values["root"],
        transient=values["transient"],
    )


def _parse_boot_directory(definition: ET.Element, name: str) -> str:
    """Return the boot directory that the definition names: a domain that was renamed keeps its first one."""
    directory = (definition.findtext("os/kernel") or "").rpartition("/")[0]
    return directory if place.is_boot(directory) else place.boot(name)


def _parse_console_log(definition: ET.Element, name: str) -> str:
    log = definition.find("devices/serial/log")
    path = "" if log is None else log.get("file", "")
    return path if place.is_console_log(path) else place.console_log(name)

"""A guest as libvirt knows it: found by name, addressed by UUID, with what virtroot's metadata says of it."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.artifact.build_id import BuildId
from pipelines.errors import Phase, VirtrootError
from pipelines.guest import logs, virtiofsd_wrapper
from pipelines.guest.agent import Agent, Silent
from pipelines.guest.logs import Logs
from pipelines.guest.virtiofsd import unserved
from pipelines.libvirt import beside, wrappers
from pipelines.libvirt.hypervisor import Hypervisor, Known
from pipelines.pool import place, shares
from pipelines.pool.shares import Share
from pipelines.symptom.known import GONE, OVERLAYFS, SYMPTOMS
from pipelines.symptom.recognise import find_symptom
from pipelines.symptom.symptom import Symptom
from pipelines.target import mounts
from pipelines.target.payload.handover import NAMESPACE
from pipelines.target.payload.layers import TREE
from pipelines.target.target import Target
from pipelines.text import plain, split_lines, trim

#: What a guest prints that will not come up any more; grep reads it, too.
_HOPELESS = re.compile(r"Kernel panic - not syncing|\(initramfs\)|(Entering|You are in) emergency mode")

# One command for many looks: to begin a command in a container takes longer than to look, and from the guest's
# processor. It ends soon by itself, since nothing ends it when its task is killed.
_WATCH = """
end=$(($(date +%s) + $1)) log=$2 hopeless=$3 domain=$4
shift 4
while :; do
    if [ -n "$hopeless" ]; then
        if "$@" qemu-agent-command --timeout 5 "$domain" '{"execute":"guest-ping"}' > /dev/null 2>&1; then
            echo up; exit
        fi
        if tail -c 65536 "$log" 2> /dev/null | grep --text -qE "$hopeless"; then echo hopeless; exit; fi
    fi
    if [ "$("$@" domstate "$domain")" = 'shut off' ]; then echo off; exit; fi
    if [ "$(date +%s)" -ge "$end" ]; then echo neither; exit; fi
    sleep 0.5
done
"""

#: Seconds that one such command goes on.
_LOOKING = 10

#: Lines of its end that are searched for why it gave up.
_CONSOLE_LINES = 1000

#: A guest's console is looked at from its end: a line may be as long as the guest likes.
_TAIL = 64 << 10


@dataclass(frozen=True)
class Guest:
    """A domain that virtroot defined; ``artifact`` is the id of what it was made from.

    ``root`` is its directory, ``boot`` the host-owned directory that its kernel is loaded from, ``kernel`` and
    ``initrd`` (empty: none) the paths in the root that are copied there before each start. ``transient`` says who made
    it to throw it away; empty for one that is kept. ``golden`` is the directory of the golden tree that its root was
    made from, ``lower`` that tree's digest where the root is a layer on top of it. ``overlayfs`` says that its
    virtiofsd keeps CAP_SYS_ADMIN, ``cache`` what its root is served with, see `shares.cache`, and ``shares`` what it
    has beside its root. ``binaries`` are the programs that its devices name, empty for libvirt's own choice.
    """

    hypervisor: Hypervisor
    name: str
    uuid: str
    artifact: BuildId
    root: str
    boot: str
    kernel: str
    initrd: str
    console_log: str
    transient: str = ""
    golden: str = ""
    lower: str = ""
    overlayfs: bool = False
    cache: str = "auto"
    shares: tuple[Share, ...] = ()
    binaries: tuple[str, ...] = ()

    @property
    def usr(self) -> bool:
        """Whether the root's /usr is a device of its own."""
        return self.cache == shares.MIXED

    @property
    def below(self) -> str:
        """The tree that the root is a layer on top of; empty for none."""
        return f"{self.golden}/{TREE}" if self.lower else ""

    @property
    def agent(self) -> Agent:
        """The agent inside the guest."""
        return Agent(self.hypervisor, self.uuid, self.name)

    @property
    def target(self) -> Target:
        """The machine that the guest's root and logs are on."""
        return self.hypervisor.target

    @property
    def state(self) -> str:
        """Libvirt's word for the guest's state."""
        return self.hypervisor.state(self.uuid)

    @property
    def running(self) -> bool:
        """Whether the guest is anything but shut off."""
        return self.state != "shut off"

    def check_running(self) -> None:
        """Raise `VirtrootError` where the guest is shut off."""
        if not self.running:
            raise VirtrootError(f"the guest {self.name} is not running", f"start it first: ./inv start {self.name}")

    def refuse_shared_root(self, *, active: bool = False) -> None:
        """Raise `VirtrootError` where another domain (that runs, with ``active``) names this guest's root.

        A copy made by virt-clone does.
        """
        for what, path in (("root", self.root), ("kernel's copy", self.boot)):
            others = self.hypervisor.naming(path, besides=self.uuid, active=active)
            if others:
                names = " and ".join(known.name for known in others)
                raise VirtrootError(
                    f"the {what} of {self.name}, {path}, is the {what} of {names} too",
                    f"undefine the domain that is the copy, with its root left alone: virsh undefine {others[0].name}",
                )

    def assemble(self) -> None:
        """Mount the root where it is a layer on a golden tree; whatever looks into a root calls this first.

        Raises `VirtrootError` where the golden tree is not what the root was made on.
        """
        if self.lower:
            beside.mount(self.target, self.root, self.golden, self.lower)

    def refuse_mounts(self) -> None:
        """Raise `VirtrootError` where anything is mounted in the root but the root itself."""
        mounts.refuse(self.target, self.root, besides=self.root if self.lower else "")

    def hand_over(self) -> None:
        """Copy the kernel and initramfs out of the root anew; raises `VirtrootError` where they are not safe to."""
        beside.hand_over(self.target, self.root, self.boot, self.kernel, self.initrd)

    def start(self, timeout: float) -> float:
        """Boot the guest and wait for its agent; return the seconds that took.

        Raises `VirtrootError` with the console's tail when the guest gives up or ``timeout`` (seconds) passes.
        """
        self.refuse_shared_root(active=True)
        self.assemble()
        try:
            if self.usr:
                beside.refuse_replaced(self.target, self.root, shares.USR)
            self.hand_over()
        except VirtrootError as error:
            symptom = find_symptom([error.what], self.symptoms)
            if symptom is None:
                raise
            raise VirtrootError(
                symptom.format_error(error.what), symptom.format_hint(self.name), error.detail
            ) from error
        for path in filter(wrappers.parse, self.binaries):
            beside.install_wrapper(self.target, path)
        before = self.logs.sizes()
        begin = time.monotonic()
        started = self.hypervisor.virsh("start", self.uuid, check=False)
        if started.returncode:
            said = started.complaint
            raise self._did_not_come_up(said.rpartition("\n")[2] or "virsh start failed", before, said)
        self.wait(timeout, before)
        return time.monotonic() - begin

    def wait(self, timeout: float, before: Mapping[str, int] | None = None) -> float:
        """Wait until the agent of the running guest answers; return the seconds that took, raise as `start` does.

        ``before`` are the sizes that its logs had before it was started, where they are known.
        """
        begin = time.monotonic()
        while (left := timeout - (time.monotonic() - begin)) > 0:
            seen = self._watch(left, _HOPELESS.pattern)
            if seen == "up":
                return time.monotonic() - begin
            if seen == "off":
                raise self._did_not_come_up(f"libvirt says {self.hypervisor.state(self.uuid, reason=True)}", before)
            if seen == "hopeless":
                found = _HOPELESS.search(self.console_tail(_CONSOLE_LINES))
                raise self._did_not_come_up(f"its console says {found[0] if found else 'that it gave up'!r}", before)
            if gone := self.unserved():
                raise self._did_not_come_up(gone, before)
        raise self._did_not_come_up(f"no agent answered within {timeout:.0f} s", before)

    def _watch(self, left: float, hopeless: str = "") -> str:
        """Look for ``left`` seconds, or fewer; say whether the guest is ``up``, ``hopeless``, ``off`` or ``neither``.

        Without ``hopeless``, the console of one that has given up, only ``off`` is looked for.
        """
        seconds = str(max(1, round(min(left, _LOOKING))))
        argv = ["sh", "-c", _WATCH, "watch", seconds, self.console_log, hopeless, self.uuid]
        return trim(self.target.run([*argv, *self.hypervisor.virsh_argv()]).text)

    def _did_not_come_up(self, why: str, before: Mapping[str, int] | None, said: str = "") -> VirtrootError:
        """Make the error of a start that failed; ``said`` is libvirt's whole answer."""
        written = {"libvirt": said if "\n" in said else "", **self.logs.since(before)}
        what = f"the guest {self.name} did not come up: {why}"
        hint = (
            f"read the logs above, whole by ./inv logs {self.name} [--virtiofsd|--qemu]; while it runs, "
            f"./inv console {self.name} shows it, ./inv stop {self.name} --force ends it"
        )
        reasons = [symptom for symptom in self.symptoms if not symptom.comes_up]
        symptom = find_symptom([why, said, *written.values()], reasons)
        if symptom:
            what, hint = symptom.format_error(what), symptom.format_hint(self.name)
        return VirtrootError(what, hint, logs.shown(written), where=Phase.BOOT)

    @property
    def logs(self) -> Logs:
        """What is written about the guest."""
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

    def unserved(self) -> str:
        """Say of the running guest which of its directories no virtiofsd serves any more; empty for none."""
        return unserved(self.hypervisor, self.uuid)

    def refuse_unserved(self) -> None:
        """Raise `VirtrootError` where a directory of the running guest is served no more: whatever it does hangs."""
        if gone := self.unserved():
            raise VirtrootError(GONE.format_error(f"{self.name} hangs: {gone}"), GONE.format_hint(self.name))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Where the agent is asked inside and does not answer, say why if that can be seen from outside."""
        try:
            yield
        except Silent:
            self.refuse_unserved()
            raise

    def console_tail(self, lines: int = 30) -> str:
        """Return the last lines of the serial console as text."""
        return self.log_tail(self.console_log, lines)

    def log_tail(self, path: str, lines: int) -> str:
        """Return the last lines of a log on libvirt's machine as text; empty where there is none."""
        tail = self.target.run(["tail", "-c", str(_TAIL), path], check=False)
        return "\n".join(split_lines(plain(tail.stdout.decode(errors="replace")))[-lines:])

    def stop(self, timeout: float, *, force: bool = False) -> float:
        """Shut the guest down and return the seconds that took; ``force`` pulls the plug instead."""
        begin = time.monotonic()
        self.hypervisor.virsh("destroy" if force else "shutdown", self.uuid)
        while (left := timeout - (time.monotonic() - begin)) > 0:
            if self._watch(left) == "off":
                return time.monotonic() - begin
        self.refuse_unserved()
        raise VirtrootError(
            f"the guest {self.name} did not shut down within {timeout:.0f} s",
            f"look at ./inv console {self.name}, or end it with ./inv stop {self.name} --force",
            self.console_tail(),
        )


def find(hypervisor: Hypervisor, name: str) -> Guest:
    """Return the guest ``name``; raises `VirtrootError` when there is none, or when virtroot did not make it."""
    known = next((known for known in hypervisor.domains() if known.name == name), None)
    if known is None:
        others = ", ".join(guest.name for guest in every(hypervisor)) or "none yet; see ./inv install"
        raise VirtrootError(f"no guest {name}", f"guests here: {others}")
    guest = _read(hypervisor, known)
    if guest is None:
        raise VirtrootError(f"{name} is a domain that virtroot did not make", "use virsh for it")
    return guest


def every(hypervisor: Hypervisor) -> list[Guest]:
    """Return all guests that virtroot made, sorted by name."""
    found = (_read(hypervisor, known) for known in hypervisor.domains())
    return [guest for guest in found if guest is not None]


def lying_on(hypervisor: Hypervisor, golden: str) -> list[str]:
    """Return the names of the guests whose roots are layers on the golden tree ``golden``."""
    return [guest.name for guest in every(hypervisor) if guest.lower and guest.golden == golden]


def _read(hypervisor: Hypervisor, known: Known) -> Guest | None:
    definition = hypervisor.xml(known.uuid)
    metadata = None if definition is None else definition.find(f"metadata/{{{NAMESPACE}}}guest")
    if definition is None or metadata is None:
        return None
    keys = ("artifact", "root", "kernel", "initrd", "transient", "golden", "lower")
    values = {key: metadata.findtext(f"{{{NAMESPACE}}}{key}") or "" for key in keys}
    boot, log = _boot(definition, known.name), _log(definition, known.name)
    return Guest(
        hypervisor,
        known.name,
        known.uuid,
        boot=boot,
        console_log=log,
        overlayfs=virtiofsd_wrapper.has_overlayfs(definition),
        binaries=virtiofsd_wrapper.binaries(definition),
        cache=shares.cache(definition),
        shares=shares.of(definition),
        artifact=BuildId(values["artifact"]),
        root=values["root"],
        kernel=values["kernel"],
        initrd=values["initrd"],
        transient=values["transient"],
        golden=values["golden"],
        lower=values["lower"],
    )


def _boot(definition: ET.Element, name: str) -> str:
    """Return the boot directory that the definition names: a renamed domain keeps the one of its first name."""
    directory = (definition.findtext("os/kernel") or "").rpartition("/")[0]
    return directory if place.is_boot(directory) else place.boot(name)


def _log(definition: ET.Element, name: str) -> str:
    log = definition.find("devices/serial/log")
    path = "" if log is None else log.get("file", "")
    return path if place.is_console_log(path) else place.console_log(name)

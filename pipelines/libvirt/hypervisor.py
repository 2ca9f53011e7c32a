"""The only door to virsh: a libvirt that answers, and what is asked of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cached_property

from pipelines.errors import VirtrootError
from pipelines.host import addresses
from pipelines.host.process import Completed
from pipelines.libvirt import kvm
from pipelines.target.target import Target
from pipelines.text import split_fields, split_lines, trim

#: The system's libvirt, on the host and in the embedded hypervisor alike.
URI = "qemu:///system"

#: Where its daemon keeps the definitions of domains.
DEFINITIONS = "/etc/libvirt/qemu"


@dataclass(frozen=True)
class Known:
    """A domain as libvirt lists it. Only ``uuid`` names one domain: where virsh is given a name, an id comes first."""

    uuid: str
    name: str


@dataclass
class Hypervisor:
    """A libvirt that answers, and the target it runs on. A ``domain`` is given by UUID."""

    target: Target
    uri: str = URI
    embedded: bool = False

    def virsh(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Completed:
        """Run virsh, in the language that its words are compared in."""
        return self.target.run(self.virsh_argv(*arguments), stdin=stdin, check=check)

    def virsh_argv(self, *arguments: str) -> list[str]:
        """Return the command that `virsh` runs."""
        return ["env", "LC_ALL=C", "virsh", "--quiet", "--connect", self.uri, *arguments]

    def console(self, domain: str) -> int:
        """Join the user's terminal to the domain's serial console; raises `VirtrootError` where virsh cannot."""
        status = self.target.attach(["virsh", "--connect", self.uri, "console", "--force", domain])
        if status:
            raise VirtrootError(
                f"virsh console ended with {status}, for the reason above",
                "see whether the guest still runs: ./inv list; what its console said: ./inv logs NAME",
            )
        return status

    def domains(self, *, active: bool = False) -> list[Known]:
        """Return all domains, virtroot's or not, sorted by name; with ``active`` those that run."""
        lines = split_lines(self.virsh("list", "--uuid", "--name", *([] if active else ["--all"])).text)
        pairs = (split_fields(line, 2) for line in lines if trim(line))
        return sorted((Known(uuid, name) for uuid, name in pairs), key=lambda known: known.name)

    def defined(self, name: str) -> bool:
        """Say whether there is a domain of that name."""
        return any(known.name == name for known in self.domains())

    def states(self) -> dict[str, str]:
        """Return libvirt's word for the state of each domain, by UUID; one that vanishes meanwhile is left out."""
        found = ((known.uuid, self.virsh("domstate", known.uuid, check=False)) for known in self.domains())
        return {uuid: trim(answer.text) for uuid, answer in found if not answer.returncode}

    def state(self, domain: str, *, reason: bool = False) -> str:
        """Return libvirt's word for a domain's state (``running``, ``shut off``, …); ``reason`` adds the reason."""
        return trim(self.virsh("domstate", domain, *(["--reason"] if reason else [])).text)

    def xml(self, domain: str, *, active: bool = False) -> ET.Element | None:
        """Return the definition of a domain, as it will be at its next start; None where it vanished meanwhile.

        With ``active`` it is the one that a running domain was started with.
        """
        answer = self.virsh("dumpxml", *([] if active else ["--inactive"]), domain, check=False)
        if not answer.returncode:
            return ET.fromstring(answer.text)  # noqa: S314 - libvirt's own
        if any(known.uuid == domain for known in self.domains()):
            raise VirtrootError(f"libvirt does not show the domain {domain}", "see libvirt's log", answer.complaint)
        return None

    def naming(self, path: str, *, besides: str = "", active: bool = False) -> list[Known]:
        """Return the domains, ``besides`` one, whose definition names ``path`` or anything below it."""
        return [known for known in self.domains(active=active) if known.uuid != besides and self._names(known, path)]

    def _names(self, known: Known, path: str) -> bool:
        definition = self.xml(known.uuid)
        if definition is None:
            return False
        words = [word for element in definition.iter() for word in (element.text or "", *element.attrib.values())]
        return any(word == path or word.startswith(f"{path}/") for word in words)

    def holds(self, domain: str) -> list[str]:
        """Return what libvirt keeps of a domain that would hinder its end: a managed save, snapshots, checkpoints."""
        info = split_lines(self.virsh("dominfo", domain).text)
        saved = any(line.split(":")[0] == "Managed save" and line.endswith("yes") for line in info)
        kept = ["a managed save (virsh managedsave-remove)"] if saved else []
        for kind in ("snapshot", "checkpoint"):
            listed = self.virsh(f"{kind}-list", domain, "--name", check=False)
            names = [] if listed.returncode else [trim(line) for line in split_lines(listed.text) if trim(line)]
            kept += [f"the {kind} {name} (virsh {kind}-delete)" for name in names]
        return kept

    def address(self, domain: str, source: str) -> str:
        """Return the address of a running domain by libvirt's ``source``, ``lease`` or ``arp``; empty for none."""
        listed = self.virsh("domifaddr", domain, "--source", source, check=False)
        words = [split_fields(line) for line in split_lines(listed.text)]
        told = (addresses.parse(each[3].partition("/")[0]) for each in words if len(each) == 4)
        return next(filter(None, told), "")

    def on_a_network(self, domain: str) -> bool:
        """Say whether a domain has a network card that others can reach; user-mode networking is none."""
        listed = self.virsh("domiflist", domain, check=False)
        return any(split_fields(line)[1:2] not in ([], ["user"]) for line in split_lines(listed.text))

    @cached_property
    def version(self) -> tuple[int, ...]:
        """The version of libvirt's daemon: major, minor, release."""
        said = self.virsh("version", "--daemon").text
        found = re.search(r"daemon:\D*(\d+)\.(\d+)\.(\d+)", said)
        if not found:
            raise VirtrootError("libvirt does not say which version it is", "look at virsh version --daemon", said)
        return tuple(map(int, found.groups()))

    @cached_property
    def kvm(self) -> bool:
        """Whether KVM really works on the target."""
        return kvm.works(self.target)

    def network(self, asked: str) -> str:
        """Resolve ``auto`` to ``default`` where that network is active, else to ``user``; check any other name."""
        if asked in {"user", "none"}:
            return asked
        active = [trim(line) for line in split_lines(self.virsh("net-list", "--name").text) if trim(line)]
        if asked == "auto":
            return "default" if "default" in active else "user"
        if asked not in active:
            raise VirtrootError(
                f"libvirt has no active network {asked}",
                f"use auto, user, none{''.join(f', {name}' for name in active)}",
            )
        return asked

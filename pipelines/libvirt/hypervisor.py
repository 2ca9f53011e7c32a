"""The interface to virsh, and what virtroot asks libvirt."""

from __future__ import annotations

import re
import secrets
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines.errors import VirtrootError
from pipelines.host import addresses
from pipelines.host.process import Completed
from pipelines.libvirt import kvm
from pipelines.target.target import Target
from pipelines.text import split_fields, split_lines, trim

#: The URI of the system's libvirt, the same on the host and in the embedded hypervisor.
URI = "qemu:///system"

#: The directory in which its daemon stores the definitions of domains.
DEFINITIONS = "/etc/libvirt/qemu"


@dataclass(frozen=True)
class ListedDomain:
    """A domain in libvirt's list. Only ``uuid`` is unambiguous: virsh takes a name for an ID first."""

    uuid: str
    name: str


#: How many commands one virsh gets, whose line has at most 128 KiB.
_BATCH = 500


@dataclass
class Hypervisor:
    """A libvirt that answers, and the target that it runs on. A ``domain`` is given by its UUID."""

    target: Target
    uri: str = URI
    embedded: bool = False

    def virsh(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Completed:
        """Run virsh in the C locale, since its output is compared with English words."""
        return self.target.run(self.virsh_argv(*arguments), stdin=stdin, check=check)

    def virsh_argv(self, *arguments: str) -> list[str]:
        """Return the command line that `virsh` runs."""
        return ["env", "LC_ALL=C", "virsh", "--quiet", "--connect", self.uri, *arguments]

    def console(self, domain: str) -> int:
        """Connect the user's terminal to the domain's serial console; raises `VirtrootError` if virsh fails."""
        status = self.target.attach(["virsh", "--connect", self.uri, "console", "--force", domain])
        if status:
            raise VirtrootError(
                f"virsh console failed with status {status}, see above",
                "check whether the guest is running: ./inv list; see its console so far: ./inv logs NAME",
            )
        return status

    def domains(self, *, active: bool = False) -> list[ListedDomain]:
        """Return all domains, virtroot's or not, sorted by name; with ``active`` only the active ones."""
        lines = split_lines(self.virsh("list", "--uuid", "--name", *([] if active else ["--all"])).text)
        pairs = (split_fields(line, 2) for line in lines if trim(line))
        return sorted((ListedDomain(uuid, name) for uuid, name in pairs), key=lambda known: known.name)

    def is_defined(self, name: str) -> bool:
        """Return whether there is a domain of that name."""
        return any(known.name == name for known in self.domains())

    def list_states(self) -> dict[str, str]:
        """Return the state of each domain in libvirt's words, by UUID; domains that vanish meanwhile are left out."""
        domains = self.domains()
        states = self._run_each("domstate", domains)
        return {known.uuid: trim(state) for known, state in zip(domains, states, strict=True) if trim(state)}

    def state(self, domain: str, *, reason: bool = False) -> str:
        """Return the state of a domain in libvirt's words (``running``, ``shut off``, …), with ``reason`` also why."""
        return trim(self.virsh("domstate", domain, *(["--reason"] if reason else [])).text)

    def xml(self, domain: str, *, active: bool = False) -> ET.Element | None:
        """Return the definition of a domain for its next start; None if the domain vanished meanwhile.

        With ``active``, return the definition that a running domain was started with.
        """
        answer = self.virsh("dumpxml", *([] if active else ["--inactive"]), domain, check=False)
        if not answer.returncode:
            return ET.fromstring(answer.text)  # noqa: S314 - libvirt wrote it
        if any(known.uuid == domain for known in self.domains()):
            raise VirtrootError(f"cannot read the definition of domain {domain}", "see libvirt's log", answer.complaint)
        return None

    def definitions(self, domains: Sequence[ListedDomain]) -> dict[str, ET.Element]:
        """Return the definitions of ``domains`` for their next start, by UUID; those that vanish are left out."""
        texts = self._run_each("dumpxml --inactive", domains)
        found = {
            # What virsh could not print is either gone, or an error to report.
            known.uuid: ET.fromstring(text) if trim(text) else self.xml(known.uuid)  # noqa: S314 - libvirt wrote it
            for known, text in zip(domains, texts, strict=True)
        }
        return {uuid: definition for uuid, definition in found.items() if definition is not None}

    def _run_each(self, command: str, domains: Sequence[ListedDomain]) -> list[str]:
        """Run a command of virsh for each of ``domains``, and return its outputs; empty where it failed.

        One virsh runs many of them, since it takes longer to start and to connect than to answer.
        """
        outputs: list[str] = []
        for start in range(0, len(domains), _BATCH):
            part = domains[start : start + _BATCH]
            mark = f"-{secrets.token_hex(8)}-"
            line = "; ".join(f"{command} {known.uuid}; echo {mark}" for known in part)
            found = self.virsh(line, check=False).text.split(mark)
            if len(found) != len(part) + 1:
                answers = [self.virsh(*command.split(" "), known.uuid, check=False) for known in part]
                found = ["" if answer.returncode else answer.text for answer in answers]
            outputs += found[: len(part)]
        return outputs

    def find_domains_using(self, path: str, *, besides: str = "", active: bool = False) -> list[ListedDomain]:
        """Return the domains, except ``besides``, whose definition contains ``path`` or a path below it."""
        others = [known for known in self.domains(active=active) if known.uuid != besides]
        definitions = self.definitions(others)
        return [
            known for known in others if known.uuid in definitions and self._refers_to(definitions[known.uuid], path)
        ]

    @staticmethod
    def _refers_to(definition: ET.Element, path: str) -> bool:
        words = [word for element in definition.iter() for word in (element.text or "", *element.attrib.values())]
        return any(word == path or word.startswith(f"{path}/") for word in words)

    def list_saved_state(self, domain: str) -> list[str]:
        """Return what libvirt stores for a domain that prevents undefining it: managed save, snapshots, checkpoints."""
        info = split_lines(self.virsh("dominfo", domain).text)
        saved = any(line.split(":")[0] == "Managed save" and line.endswith("yes") for line in info)
        kept = ["a managed save (virsh managedsave-remove)"] if saved else []
        for kind in ("snapshot", "checkpoint"):
            listed = self.virsh(f"{kind}-list", domain, "--name", check=False)
            names = [] if listed.returncode else [trim(line) for line in split_lines(listed.text) if trim(line)]
            kept += [f"the {kind} {name} (virsh {kind}-delete)" for name in names]
        return kept

    def find_address(self, domain: str, source: str) -> str:
        """Return the address of a running domain by libvirt's ``source``, ``lease`` or ``arp``; empty if none."""
        listed = self.virsh("domifaddr", domain, "--source", source, check=False)
        words = [split_fields(line) for line in split_lines(listed.text)]
        found = (addresses.parse(each[3].partition("/")[0]) for each in words if len(each) == 4)
        return next(filter(None, found), "")

    def has_network(self, domain: str) -> bool:
        """Return whether a domain has an interface that others can reach; user-mode networking does not count."""
        listed = self.virsh("domiflist", domain, check=False)
        return any(split_fields(line)[1:2] not in ([], ["user"]) for line in split_lines(listed.text))

    @cached_property
    def version(self) -> tuple[int, ...]:
        """The version of libvirt's daemon: major, minor, release."""
        said = self.virsh("version", "--daemon").text
        found = re.search(r"daemon:\D*(\d+)\.(\d+)\.(\d+)", said)
        if not found:
            raise VirtrootError("libvirt does not report its version", "see virsh version --daemon", said)
        return tuple(map(int, found.groups()))

    @cached_property
    def kvm(self) -> bool:
        """Whether KVM works on the target."""
        return kvm.is_working(self.target)

    def resolve_network(self, asked: str) -> str:
        """Resolve ``auto`` to ``default`` if that network is active, else to ``user``; check any other name."""
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

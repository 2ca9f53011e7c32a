"""What libvirt's machine has of what guests need: judged on facts, which `programs.collect_facts` gathers."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import VirtrootError
from pipelines.health import confinement, daemon
from pipelines.health.daemon import Tried, Virtiofsd
from pipelines.health.finding import Facts, Finding, Fix, fault, fine
from pipelines.libvirt import host_files
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import NO_HANDLES, Wrapper
from pipelines.target.target import Target
from pipelines.text import split_lines, trim

OF = "libvirt's machine"

#: Where libvirt looks for hooks when its daemon starts.
HOOKS = host_files.HOOK.rpartition("/")[0]

#: The programs that tasks run there, and the package of each that is called otherwise.
_PROGRAMS = {"python3": "python3", "tar": "tar", "zstd": "zstd", "flock": "util-linux"}

#: So many files of a guest a virtiofsd should be able to know at once; each takes it a descriptor.
_FILES = 65536

#: What virsh domcapabilities has of what a virtiofs root needs: an element, the name of its list, and a value in it.
_DEVICES = {"memoryBacking": ("sourceType", "memfd"), "filesystem": ("driverType", "virtiofs")}


#: The guests that name a wrapper of virtiofsd, by its path; empty for those that name none.
Wrapped = Mapping[str, Sequence[str]]


def examine(hypervisor: Hypervisor, seen: Facts, wrapped: Wrapped, *, handles: bool) -> list[Finding]:
    """Judge what was seen there, and ask libvirt and virtiofsd, which is started for a moment.

    ``handles`` says that new guests get file handles.
    """
    target = hypervisor.target
    described = [each["binary"] for each in seen["descriptions"] if each["runs"]]
    served = next((path for path in described if "virtiofsd" in path), "") or _installed(target)
    return [
        _hypervisor(hypervisor),
        programs(seen),
        sandbox(seen),
        openat2(seen),
        *_daemon(target, served, wrapped, handles=handles),
        description(seen),
        devices(hypervisor.virsh("domcapabilities", check=False).text),
        security(seen),
        hook(target, seen),
        hook_is_read(seen, embedded=hypervisor.embedded),
        wrapper(target, seen, wrapped),
        open_files(seen, embedded=hypervisor.embedded),
    ]


def _hypervisor(hypervisor: Hypervisor) -> Finding:
    which = "the embedded hypervisor's" if hypervisor.embedded else "the host's"
    try:
        return fine(OF, "libvirt", f"{which}, {'.'.join(map(str, hypervisor.version))}")
    except VirtrootError as error:
        return fault(OF, "libvirt", error.what, error.hint)


def _installed(target: Target) -> str:
    script = 'for path do [ ! -x "$path" ] || { echo "$path"; exit; }; done'
    return target.run(["sh", "-c", script, "installed", *daemon.PLACES], check=False).text


def programs(seen: Facts) -> Finding:
    """Judge whether the programs are there that tasks run."""
    missing = [name for name in _PROGRAMS if not seen["programs"].get(name)]
    if missing:
        packages = " ".join(_PROGRAMS[name] for name in missing)
        return fault(OF, "programs", f"missing: {', '.join(missing)}", f"install there: {packages}")
    return fine(OF, "programs", f"{', '.join(_PROGRAMS)} are there")


def sandbox(seen: Facts) -> Finding:
    """Judge whether programs of a root that a guest wrote to can be run apart."""
    if seen["programs"].get("bwrap"):
        return fine(OF, "bubblewrap", "here")
    do = "install bubblewrap there; ./inv verify GUEST needs it for a guest's root"
    return fault(OF, "bubblewrap", "missing", do, needed=False)


def openat2(seen: Facts) -> Finding:
    """Judge whether paths can be opened beneath a root."""
    if seen["openat2"]:
        return fine(OF, "openat2", "works: a kernel is handed over without leaving the guest's root")
    do = "use Linux 5.6 or newer, and a container runtime whose seccomp profile knows openat2"
    return fault(OF, "openat2", "refused: no kernel can be handed over", do)


def _daemon(target: Target, path: str, wrapped: Wrapped, *, handles: bool) -> list[Finding]:
    """Ask the virtiofsd ``path`` what it is, and start it as the guests do, and as a new one does."""
    if not path:
        return virtiofsd(None, {}, wrapped)
    found = daemon.ask(target, path)
    wrappers = sorted({Wrapper(acl=True, handles=handles).path, *wrapped})
    tried = {each: daemon.start(target, found, each.rpartition("/")[2]) for each in wrappers}
    return virtiofsd(found, tried, wrapped)


def virtiofsd(found: Virtiofsd | None, tried: Mapping[str, Tried], wrapped: Wrapped) -> list[Finding]:
    """Judge the virtiofsd that libvirt takes, by what it can do and what became of its starts.

    They are ``tried`` by the path of the wrapper, and without one by an empty path.
    """
    name = "virtiofsd"
    if found is None:
        return [fault(OF, name, "missing: no guest can have its root", "install the package virtiofsd there")]
    failed = {path: each for path, each in tried.items() if not each.serves}
    findings = [_cannot_start(found, path, each.said, wrapped.get(path, ())) for path, each in failed.items()]
    said = " ".join(each.said for each in tried.values())
    if NO_HANDLES in said:
        do = "set inode_file_handles to never, or let libvirt's daemon have CAP_DAC_READ_SEARCH"
        says = "it may not use file handles there, as inode_file_handles asks: it keeps each file open"
        findings.append(fault(OF, name, says, do, needed=False))
    if not failed and "modcaps" not in found.abilities:
        do = "use a newer virtiofsd for guests with overlayfs"
        findings.append(fault(OF, name, f"{found}", do, needed=False))
    return findings or [fine(OF, name, f"{found}; it starts")]


def _cannot_start(found: Virtiofsd, wrapper: str, said: str, names: Sequence[str]) -> Finding:
    last = (split_lines(trim(said)) or ["it prints nothing, and does not wait for a guest"])[-1]
    reason = re.sub(r"^\[[^]]*\] ", "", last)
    how = f"as {wrapper}" if wrapper else "without virtroot's wrapper"
    says = f"{found.path} {found.version} does not start {how}: {reason}"
    do = f'./inv help "{reason}" says what is known of that'
    if not wrapper:
        do = f"--fix lets {', '.join(names)} name the wrapper, which gives it other options"
    return fault(OF, "virtiofsd", says, do)


def description(seen: Facts) -> Finding:
    """Judge whether libvirt finds a virtiofsd by itself: by the first description of one that can be run."""
    name = "vhost-user"
    described = seen["descriptions"]
    runs = [each for each in described if each["runs"]]
    if runs:
        return fine(OF, name, f"{runs[0]['path']} describes {runs[0]['binary']}")
    do = "install the package virtiofsd there (anew): it brings /usr/share/qemu/vhost-user/50-virtiofsd.json"
    if described:
        each = described[0]
        return fault(OF, name, f"{each['path']} describes {each['binary'] or 'nothing'}, which cannot be run", do)
    return fault(OF, name, "nothing describes virtiofsd: libvirt will say 'Unable to find a satisfying virtiofsd'", do)


def devices(capabilities: str) -> Finding:
    """Judge what virsh domcapabilities says of shared memory and of virtiofs."""
    name = "memfd, virtiofs"
    try:
        said = ET.fromstring(capabilities)  # noqa: S314 - libvirt's own
    except ET.ParseError:
        do = "see whether QEMU is installed there: virsh domcapabilities"
        return fault(OF, name, "libvirt does not say what its QEMU can", do)
    missing = []
    for path, (enum, value) in _DEVICES.items():
        part = said.find(path if said.find(path) is not None else f"devices/{path}")
        # libvirt says nothing of them before 8.0.
        if part is not None and value not in [each.text for each in part.iterfind(f"enum[@name='{enum}']/value")]:
            missing.append(value)
    if missing:
        do = "use QEMU 4.2 or newer, with memfd in its kernel"
        return fault(OF, name, f"libvirt's QEMU has no {' and no '.join(missing)}", do)
    return fine(OF, name, "libvirt's QEMU has both")


def security(seen: Facts) -> Finding:
    """Judge whether AppArmor lets libvirt run what virtroot puts beside it; SELinux is only named."""
    name, found = "AppArmor, SELinux", seen["security"]
    selinux = {"1": "SELinux enforces: where a start is refused, ausearch -m avc says what", "0": "SELinux only warns"}
    if not found["apparmor"]:
        return fine(OF, name, selinux.get(found["selinux"], "neither is on"))
    profiles = found["profiles"]
    if profiles and not confinement.may_run(profiles.values(), host_files.WRAPPER):
        path = min(profiles)
        do = f"add to /etc/apparmor.d/local/{path.rpartition('/')[2]}: {host_files.WRAPPER} rmix, and load it anew"
        return fault(OF, name, f"AppArmor is on, and {path} does not let libvirt run {host_files.WRAPPER}", do)
    return fine(OF, name, f"AppArmor is on{', and lets libvirt run what virtroot puts there' if profiles else ''}")


def hook(target: Target, seen: Facts) -> Finding:
    """Judge whether libvirt's hook is there, this version's, and can be run."""
    wrong = _wrong(seen["files"].get(host_files.HOOK), host_files.hook())
    if not wrong:
        return fine(OF, "hook", f"{host_files.HOOK} is this version's")
    do = "--fix puts it there, as ./inv install does"
    says = f"{host_files.HOOK} {wrong}: a start by virsh, or at boot, hands over no new kernel, or by old rules"
    fix = Fix(f"put {host_files.HOOK} in place", lambda: host_files.install_hook(target))
    return fault(OF, "hook", says, do, fix=fix)


def hook_is_read(seen: Facts, *, embedded: bool) -> Finding:
    """Judge whether libvirt knows of its hooks: it looks for them once, when its daemon starts."""
    name, running, hooks = "hook is read", seen["daemons"], seen["directories"].get(HOOKS)
    if not running:
        return fine(OF, name, "libvirt's daemon starts when it is needed, and looks for hooks then")
    if hooks is None:
        return fine(OF, name, f"there is no {HOOKS}; see the hook")
    if hooks["changed"] <= min(each["since"] for each in running):
        return fine(OF, name, "it was there when libvirt's daemon started")
    if embedded:
        return fine(OF, name, "libvirt's daemon started with the one that the image has")
    do = f"systemctl restart {running[0]['name']}; guests go on running"
    says = f"{HOOKS} was changed after {running[0]['name']} started, which may know of no hook yet"
    return fault(OF, name, says, do, needed=False)


def wrapper(target: Target, seen: Facts, wrapped: Wrapped) -> Finding:
    """Judge the wrapper of virtiofsd under each name that a guest has for it."""
    checked = {path: _wrong(seen["files"].get(path), host_files.wrapper()) for path in wrapped if path}
    wrong = {path: reason for path, reason in checked.items() if reason}
    if not checked:
        return fine(OF, "wrapper", "no guest names one")
    if not wrong:
        return fine(OF, "wrapper", f"{', '.join(checked)}: this version's")

    def put() -> None:
        for path in wrong:
            host_files.install_wrapper(target, path)

    says = "; ".join(f"{path} {reason}, which serves {', '.join(wrapped[path])}" for path, reason in wrong.items())
    do = "--fix puts it there, as ./inv start does"
    return fault(OF, "wrapper", says, do, fix=Fix(f"put {', '.join(wrong)} in place", put))


def _wrong(found: Mapping[str, Any] | None, content: bytes) -> str:
    if found is None:
        return "is missing"
    if found["sha256"] != hashlib.sha256(content).hexdigest():
        return "is not this version's"
    return "" if found["mode"] & 0o111 else "is not executable"


def open_files(seen: Facts, *, embedded: bool) -> Finding:
    """Judge how many files virtiofsd may have open: it keeps one for each that its guest knows of."""
    name = "open files"
    do = "raise LimitNOFILE of libvirt's service (systemctl edit), then start it and the guests anew"
    if embedded:
        do = "raise nofile in default-ulimits of the Docker engine, then start the embedded hypervisor anew"
    full = [
        each for each in seen["virtiofsds"] if each["files"] and each["open"] and each["open"] * 5 > each["files"] * 4
    ]
    if full:
        worst = max(full, key=lambda each: float(each["open"]) / each["files"])
        says = f"a virtiofsd (process {worst['pid']}) has {worst['open']} of {worst['files']} open"
        return fault(OF, name, says, f"echo 2 > /proc/sys/vm/drop_caches in the guest frees some; {do}")
    serving = [each["files"] for each in seen["virtiofsds"] if each["files"]]
    # virtiofsd lifts its limit to a million by itself, as far as it may.
    begun = [each["most"] for each in seen["daemons"] if each["most"] and not each["raises"]]
    least = min(serving or begun, default=None)
    if least is None or least >= _FILES:
        return fine(OF, name, f"virtiofsd may have {least or 'a million'} open")
    says = f"virtiofsd may have {least} open: a guest that knows of more files gets 'Too many open files'"
    return fault(OF, name, says, do, needed=False)

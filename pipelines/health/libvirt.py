"""What guests need on libvirt's host: rules about the facts that `programs.collect_facts` gathers."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import VirtrootError
from pipelines.health import confinement, daemon
from pipelines.health.daemon import Trial, Virtiofsd
from pipelines.health.finding import Facts, Finding, Fix, fault, fine
from pipelines.libvirt import host_files
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.libvirt.wrappers import NO_HANDLES, Wrapper
from pipelines.target.target import Target
from pipelines.text import split_lines, trim

OF = "libvirt's machine"

#: Where libvirt looks for hooks when its daemon starts.
HOOKS = host_files.HOOK.rpartition("/")[0]

#: The programs that tasks run there, and the package of each.
_PROGRAMS = {"python3": "python3", "tar": "tar", "zstd": "zstd", "flock": "util-linux"}

#: How many files a virtiofsd should be able to keep open: it needs one descriptor for each file that its guest knows.
_FILES = 65536

#: What virsh domcapabilities has to list for a root on virtiofs: an element, the name of its enum, and a value.
_DEVICES = {"memoryBacking": ("sourceType", "memfd"), "filesystem": ("driverType", "virtiofs")}


#: The names of the guests that use a wrapper of virtiofsd, by its path; under "" those that use none.
Wrapped = Mapping[str, Sequence[str]]


def examine(hypervisor: Hypervisor, seen: Facts, wrapped: Wrapped, *, handles: bool) -> list[Finding]:
    """Judge the facts ``seen``, and those that libvirt and virtiofsd report, which is started for a trial.

    ``handles`` says that new guests use file handles.
    """
    target = hypervisor.target
    described = [each["binary"] for each in seen["descriptions"] if each["runs"]]
    served = next((path for path in described if "virtiofsd" in path), "") or _find_installed(target)
    return [
        _judge_version(hypervisor),
        judge_programs(seen),
        judge_sandbox(seen),
        judge_openat2(seen),
        *_judge_daemon(target, served, wrapped, handles=handles),
        judge_description(seen),
        judge_devices(hypervisor.virsh("domcapabilities", check=False).text),
        judge_security(seen),
        judge_hook(target, seen),
        judge_hook_loaded(seen, embedded=hypervisor.embedded),
        judge_wrapper(target, seen, wrapped),
        judge_open_files(seen, embedded=hypervisor.embedded),
    ]


def _judge_version(hypervisor: Hypervisor) -> Finding:
    which = "the embedded hypervisor's" if hypervisor.embedded else "the host's"
    try:
        return fine(OF, "libvirt", f"{which}, {'.'.join(map(str, hypervisor.version))}")
    except VirtrootError as error:
        return fault(OF, "libvirt", error.what, error.hint)


def _find_installed(target: Target) -> str:
    script = 'for path do [ ! -x "$path" ] || { echo "$path"; exit; }; done'
    return target.run(["sh", "-c", script, "installed", *daemon.PLACES], check=False).text


def judge_programs(seen: Facts) -> Finding:
    """Judge whether the programs that tasks run are installed."""
    missing = [name for name in _PROGRAMS if not seen["programs"].get(name)]
    if missing:
        packages = " ".join(_PROGRAMS[name] for name in missing)
        return fault(OF, "programs", f"missing: {', '.join(missing)}", f"install there: {packages}")
    return fine(OF, "programs", f"{', '.join(_PROGRAMS)} are installed")


def judge_sandbox(seen: Facts) -> Finding:
    """Judge whether programs of a root that a guest wrote to can be run in a sandbox."""
    if seen["programs"].get("bwrap"):
        return fine(OF, "bubblewrap", "installed")
    do = "install bubblewrap there; ./inv verify GUEST needs it for the root of a guest"
    return fault(OF, "bubblewrap", "missing", do, needed=False)


def judge_openat2(seen: Facts) -> Finding:
    """Judge whether the kernel can open paths beneath a root."""
    if seen["openat2"]:
        return fine(OF, "openat2", "works: kernels are copied without following links out of the root")
    do = "use Linux 5.6 or newer, and a container runtime whose seccomp profile knows openat2"
    return fault(OF, "openat2", "refused: no kernel can be copied from a root", do)


def _judge_daemon(target: Target, path: str, wrapped: Wrapped, *, handles: bool) -> list[Finding]:
    """Identify the virtiofsd ``path``, and start it for a trial as the existing guests do, and as a new one would."""
    if not path:
        return judge_virtiofsd(None, {}, wrapped)
    found = daemon.identify(target, path)
    wrappers = sorted({Wrapper(acl=True, handles=handles).path, *wrapped})
    tried = {each: daemon.try_start(target, found, each.rpartition("/")[2]) for each in wrappers}
    return judge_virtiofsd(found, tried, wrapped)


def judge_virtiofsd(found: Virtiofsd | None, tried: Mapping[str, Trial], wrapped: Wrapped) -> list[Finding]:
    """Judge the virtiofsd that libvirt uses, by its options and the trial starts.

    ``tried`` has the trials by the path of the wrapper; without a wrapper the path is "".
    """
    name = "virtiofsd"
    if found is None:
        return [fault(OF, name, "missing: guests cannot have their roots", "install the package virtiofsd there")]
    failed = {path: each for path, each in tried.items() if not each.serves}
    findings = [_make_start_fault(found, path, each.output, wrapped.get(path, ())) for path, each in failed.items()]
    said = " ".join(each.output for each in tried.values())
    if NO_HANDLES in said:
        do = "set inode_file_handles to never, or give libvirt's daemon CAP_DAC_READ_SEARCH"
        says = "it may not use file handles, which inode_file_handles requests: it keeps each file open instead"
        findings.append(fault(OF, name, says, do, needed=False))
    if not failed and "modcaps" not in found.abilities:
        do = "use a newer virtiofsd for guests with overlayfs"
        findings.append(fault(OF, name, f"{found}", do, needed=False))
    return findings or [fine(OF, name, f"{found}; it starts")]


def _make_start_fault(found: Virtiofsd, wrapper: str, said: str, names: Sequence[str]) -> Finding:
    last = (split_lines(trim(said)) or ["it prints nothing, and does not wait for a guest"])[-1]
    reason = re.sub(r"^\[[^]]*\] ", "", last)
    how = f"as {wrapper}" if wrapper else "without virtroot's wrapper"
    says = f"{found.path} {found.version} does not start {how}: {reason}"
    do = f'./inv help "{reason}" tells what is known about that'
    if not wrapper:
        do = f"run doctor with --fix: {', '.join(names)} will use the wrapper, which starts it with other options"
    return fault(OF, "virtiofsd", says, do)


def judge_description(seen: Facts) -> Finding:
    """Judge whether libvirt finds a virtiofsd: it takes the first description of one that can be run."""
    name = "vhost-user"
    described = seen["descriptions"]
    runs = [each for each in described if each["runs"]]
    if runs:
        return fine(OF, name, f"{runs[0]['path']} describes {runs[0]['binary']}")
    do = "install the package virtiofsd there again: it has /usr/share/qemu/vhost-user/50-virtiofsd.json"
    if described:
        each = described[0]
        return fault(OF, name, f"{each['path']} describes {each['binary'] or 'nothing'}, which cannot be run", do)
    return fault(OF, name, "no file describes virtiofsd: libvirt says 'Unable to find a satisfying virtiofsd'", do)


def judge_devices(capabilities: str) -> Finding:
    """Judge what virsh domcapabilities reports about shared memory and virtiofs."""
    name = "memfd, virtiofs"
    try:
        said = ET.fromstring(capabilities)  # noqa: S314 - libvirt wrote it
    except ET.ParseError:
        do = "check whether QEMU is installed there: virsh domcapabilities"
        return fault(OF, name, "libvirt does not report the capabilities of its QEMU", do)
    missing = []
    for path, (enum, value) in _DEVICES.items():
        part = said.find(path if said.find(path) is not None else f"devices/{path}")
        # libvirt before 8.0 does not report them.
        if part is not None and value not in [each.text for each in part.iterfind(f"enum[@name='{enum}']/value")]:
            missing.append(value)
    if missing:
        do = "use QEMU 4.2 or newer, with memfd in its kernel"
        return fault(OF, name, f"libvirt's QEMU has no {' and no '.join(missing)}", do)
    return fine(OF, name, "libvirt's QEMU has both")


def judge_security(seen: Facts) -> Finding:
    """Judge whether AppArmor lets libvirt run virtroot's wrapper; the state of SELinux is only reported."""
    name, found = "AppArmor, SELinux", seen["security"]
    selinux = {"1": "SELinux enforces: if a start is refused, ausearch -m avc shows why", "0": "SELinux only warns"}
    if not found["apparmor"]:
        return fine(OF, name, selinux.get(found["selinux"], "neither is on"))
    profiles = found["profiles"]
    if profiles and not confinement.is_run_allowed(profiles.values(), host_files.WRAPPER):
        path = min(profiles)
        do = (
            f"add to /etc/apparmor.d/local/{path.rpartition('/')[2]}: {host_files.WRAPPER} rmix, and reload the profile"
        )
        return fault(OF, name, f"AppArmor is on, and {path} does not let libvirt run {host_files.WRAPPER}", do)
    return fine(OF, name, f"AppArmor is on{', and lets libvirt run the wrapper of virtiofsd' if profiles else ''}")


def judge_hook(target: Target, seen: Facts) -> Finding:
    """Judge whether libvirt's hook is installed, is this version's, and is executable."""
    wrong = _compare_file(seen["files"].get(host_files.HOOK), host_files.hook())
    if not wrong:
        return fine(OF, "hook", f"{host_files.HOOK} is this version's")
    do = "run doctor with --fix, or ./inv install: both install it"
    says = f"{host_files.HOOK} {wrong}: a start by virsh or at boot copies no new kernel, or checks it by old rules"
    fix = Fix(f"install {host_files.HOOK}", lambda: host_files.install_hook(target))
    return fault(OF, "hook", says, do, fix=fix)


def judge_hook_loaded(seen: Facts, *, embedded: bool) -> Finding:
    """Judge whether libvirt's daemon knows its hooks: it looks for them only when it starts."""
    name, running, hooks = "hook is read", seen["daemons"], seen["directories"].get(HOOKS)
    if not running:
        return fine(OF, name, "libvirt's daemon is not running, and looks for hooks when it starts")
    if hooks is None:
        return fine(OF, name, f"there is no {HOOKS}; see the hook")
    if hooks["changed"] <= min(each["since"] for each in running):
        return fine(OF, name, "it was installed when libvirt's daemon started")
    if embedded:
        return fine(OF, name, "libvirt's daemon started with the hook in its image")
    do = f"systemctl restart {running[0]['name']}; guests keep running"
    says = f"{HOOKS} was changed after {running[0]['name']} started, which may not know the hook"
    return fault(OF, name, says, do, needed=False)


def judge_wrapper(target: Target, seen: Facts, wrapped: Wrapped) -> Finding:
    """Judge the wrapper of virtiofsd under each name that guests use."""
    checked = {path: _compare_file(seen["files"].get(path), host_files.wrapper()) for path in wrapped if path}
    wrong = {path: reason for path, reason in checked.items() if reason}
    if not checked:
        return fine(OF, "wrapper", "no guest uses one")
    if not wrong:
        return fine(OF, "wrapper", f"{', '.join(checked)}: this version's")

    def put() -> None:
        for path in wrong:
            host_files.install_wrapper(target, path)

    says = "; ".join(f"{path} {reason}, used by {', '.join(wrapped[path])}" for path, reason in wrong.items())
    do = "run doctor with --fix, or ./inv start: both install it"
    return fault(OF, "wrapper", says, do, fix=Fix(f"install {', '.join(wrong)}", put))


def _compare_file(found: Mapping[str, Any] | None, content: bytes) -> str:
    if found is None:
        return "is missing"
    if found["sha256"] != hashlib.sha256(content).hexdigest():
        return "is not this version's"
    return "" if found["mode"] & 0o111 else "is not executable"


def judge_open_files(seen: Facts, *, embedded: bool) -> Finding:
    """Judge how many files virtiofsd may keep open: it keeps one open for each file that its guest knows."""
    name = "open files"
    do = "raise LimitNOFILE of libvirt's service (systemctl edit), then restart it and the guests"
    if embedded:
        do = "raise nofile in default-ulimits of the Docker engine, then restart the embedded hypervisor"
    full = [
        each for each in seen["virtiofsds"] if each["files"] and each["open"] and each["open"] * 5 > each["files"] * 4
    ]
    if full:
        worst = max(full, key=lambda each: float(each["open"]) / each["files"])
        says = f"a virtiofsd (process {worst['pid']}) has {worst['open']} of {worst['files']} open"
        return fault(OF, name, says, f"echo 2 > /proc/sys/vm/drop_caches in the guest frees some; {do}")
    serving = [each["files"] for each in seen["virtiofsds"] if each["files"]]
    # virtiofsd raises its limit to a million, if it may.
    begun = [each["most"] for each in seen["daemons"] if each["most"] and not each["raises"]]
    least = min(serving or begun, default=None)
    if least is None or least >= _FILES:
        return fine(OF, name, f"virtiofsd may have {least or 'a million'} open")
    says = f"virtiofsd may have {least} open: a guest that knows more files gets 'Too many open files'"
    return fault(OF, name, says, do, needed=False)

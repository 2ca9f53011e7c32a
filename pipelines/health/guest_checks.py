"""Checks of one guest: its definition, its root, its kernel, and its virtiofsd and agent while it runs."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from collections.abc import Callable

from pipelines.guest import hold, virtiofsd_wrapper
from pipelines.guest.guest import Guest
from pipelines.health import definition as definitions
from pipelines.health import finding
from pipelines.health.finding import Facts, Finding, Fix, fault, fine
from pipelines.libvirt import wrappers
from pipelines.origin import signs
from pipelines.pool import base_trees, exposure, place, shares
from pipelines.recipe.share_spec import ROOT_TAG, USR_TAG
from pipelines.text import size, split_fields, split_lines

#: The mode of a root: sshd in the guest refuses others.
_ROOT_MODE = 0o755

# The root's own name is not the guest's to change; nothing in the root is opened.
_CHMOD = '[ -d "$2" ] && [ ! -L "$2" ] && chmod -- "$1" "$2"'

_OPEN_BOOT = """
chmod o+x -- "${1%/*}"
chmod 0711 -- "$1"
for name in kernel initrd; do [ ! -f "$1/$name" ] || chmod "$2" -- "$1/$name"; done
"""


def make_query(guest: Guest) -> dict[str, object]:
    """Return what to gather about a guest; see `guest_facts` of the payload."""
    return {
        "root": guest.root,
        "boot": guest.boot,
        "kernel": guest.source.kernel,
        "initrd": guest.source.initrd,
        "shares": [share.directory for share in guest.shares],
        "signs": {sign.name: sign.query for sign in signs.SIGNS if sign.remedy},
    }


def examine(guest: Guest, seen: Facts, *, running: bool, handles: bool = False) -> list[Finding]:
    """Check a guest by the facts ``seen`` and by its definition; a ``running`` one by its virtiofsd and agent, too.

    ``handles`` says that virtiofsd shall use file handles.
    """
    definition = guest.hypervisor.xml(guest.uuid)
    if definition is None:
        return [fault(guest.name, "definition", "the domain was removed meanwhile", "run this again", needed=False)]
    its = seen["guests"][guest.name]
    if "unread" in its:
        do = f"check {guest.root} with ls -l"
        return [fault(guest.name, "root", f"cannot read {guest.root}: {its['unread']}", do)]
    findings: list[Finding | None] = [*definitions.judge(guest, definition), *judge_root(guest, its)]
    findings.append(judge_wrapper(guest, definition, its, handles=handles))
    if its["directory"] and (its["layers"] or not guest.source.lower):
        findings += [judge_fstab(guest, its), judge_usr(guest, its), *judge_signs(guest, its)]
        findings += judge_kernel(guest, its, running=running)
    findings += [
        judge_boot_directory(guest, its, seen),
        judge_shares(guest, its),
        judge_exposure(guest),
        judge_base_tree(guest),
        judge_space(guest, seen),
    ]
    if running:
        findings += [judge_virtiofsd(guest, definition, seen), judge_agent(guest)]
    return [each for each in findings if each]


def _make_locked_fix(guest: Guest, do: Callable[[Guest], object], *, off: bool = False) -> finding.Action:
    """Return the action of a fix, which holds the guest's lock and is called with the guest's current state."""

    what_to_do = f"run ./inv restart {guest.name}, which does the same" if off else ""

    def fix() -> None:
        with hold.hold(guest.hypervisor, guest.name, off=what_to_do) as now:
            do(now)

    return fix


def judge_root(guest: Guest, its: Facts) -> list[Finding]:
    """Check the directory that is the guest's root."""
    if not its["directory"]:
        what = "is missing" if its.get("missing") else "is not a directory"
        do = f"mount or restore it, see ./inv snapshots {guest.name}; or run ./inv remove {guest.name}"
        return [fault(guest.name, "root", f"{guest.root} {what}", do)]
    if guest.source.lower and not its["layers"]:
        do = f"run doctor with --fix, or ./inv start {guest.name}: both mount them"
        fix = Fix(f"mount the layers of {guest.root}", _make_locked_fix(guest, Guest.mount_layers))
        return [fault(guest.name, "root", f"the layers of {guest.root} are not mounted", do, needed=False, fix=fix)]
    if its["uid"] != 0:
        do = f"chown root:root {guest.root}"
        return [fault(guest.name, "root", f"{guest.root} belongs to user {its['uid']}: sshd refuses all logins", do)]
    if its["mode"] & 0o7777 != _ROOT_MODE:

        def change_mode(now: Guest) -> None:
            now.target.run(["sh", "-ec", _CHMOD, "chmod", f"{_ROOT_MODE:o}", now.root])

        says = f"{guest.root} has mode {its['mode']:04o}: logins by ssh fail, or all users except root cannot enter /"
        do = f"run doctor with --fix, or chmod 0755 {guest.root}"
        fix = Fix(f"chmod 0755 {guest.root}", _make_locked_fix(guest, change_mode))
        return [fault(guest.name, "root", says, do, fix=fix)]
    return [fine(guest.name, "root", f"{guest.root}, mode 0755, owner root")]


def judge_wrapper(guest: Guest, definition: ET.Element, its: Facts, *, handles: bool) -> Finding:
    """Check whether the guest's devices name the wrapper of virtiofsd that fits its kernel and the settings."""
    name, release = "wrapper of virtiofsd", its["release"]
    named = virtiofsd_wrapper.list_binaries(definition)
    wanted = copy.deepcopy(definition)
    if not virtiofsd_wrapper.update(wanted, release, handles=handles):
        foreign = [path for path in named if not wrappers.parse(path)]
        if foreign:
            return fine(guest.name, name, f"{', '.join(foreign)} is not virtroot's, and stays")
        return fine(guest.name, name, ", ".join(path.rpartition("/")[2] for path in named))
    now = ", ".join(path.rpartition("/")[2] or "none" for path in named)
    right = ", ".join(path.rpartition("/")[2] for path in virtiofsd_wrapper.list_binaries(wanted))
    says = f"its devices name {now}, but with the kernel {release or 'that it has'} it should be {right}"
    # Only virtiofsd before 1.14 requires ACLs, and then refuses such a kernel.
    boots = wrappers.has_acl_support(release) or not any(each and each.acl for each in map(wrappers.parse, named))

    def update(now: Guest) -> None:
        virtiofsd_wrapper.refresh(now.hypervisor, now.uuid, now.boot, handles=handles)

    fix = Fix(f"make the devices of {guest.name} name {right} from its next start", _make_locked_fix(guest, update))
    do = "run doctor with --fix, or ./inv upgrade"
    return fault(guest.name, name, says, do, needed=not boots, fix=fix)


def judge_fstab(guest: Guest, its: Facts) -> Finding:
    """Check the lines for virtiofs in the guest's fstab."""
    name, text = "fstab", its.get("fstab")
    if text is None:
        do = f"write it in {guest.root}: {ROOT_TAG} / virtiofs defaults 0 0"
        return fault(guest.name, name, "etc/fstab in its root is missing or not readable", do)
    lines = [fields for line in split_lines(text) if (fields := split_fields(line)) and fields[0][:1] != "#"]
    mounted = {line[0]: line for line in lines if len(line) > 2 and line[2] == "virtiofs"}
    on_root = [line for line in lines if len(line) > 2 and line[1] == "/"]
    if [line[:3] for line in on_root] != [[ROOT_TAG, "/", "virtiofs"]]:
        found = "; ".join(" ".join(line[:3]) for line in on_root) or "nothing"
        do = f"one line in it: {ROOT_TAG} / virtiofs defaults 0 0"
        return fault(guest.name, name, f"it mounts {found} at /: the boot waits for a disk, or / stays read-only", do)
    devices = {ROOT_TAG, *([USR_TAG] if guest.usr else []), *(share.tag for share in guest.shares)}
    waiting = [tag for tag, line in mounted.items() if tag not in devices and "nofail" not in ",".join(line[3:4])]
    if waiting:
        do = f"remove its line from etc/fstab in {guest.root}, or add nofail"
        return fault(guest.name, name, f"it mounts {waiting[0]}, a device that the guest does not have", do)
    missing = [tag for tag in sorted(devices) if tag not in mounted]
    if USR_TAG in missing and guest.usr:
        do = f"one line in it: {USR_TAG} /{shares.USR} virtiofs defaults 0 0"
        return fault(guest.name, name, "it does not mount /usr: its cache has no effect", do, needed=False)
    if missing:
        do = f"run ./inv unshare {guest.name} {missing[0]}, and share it again"
        return fault(guest.name, name, f"it does not mount the share {missing[0]}", do, needed=False)
    return fine(guest.name, name, f"mounts {', '.join(sorted(devices))}")


def judge_usr(guest: Guest, its: Facts) -> Finding | None:
    """Check whether /usr, if it is a device of its own, is still a directory inside the root."""
    if not guest.usr or its["usr"]:
        return None
    do = f"check it with ls -l {guest.root}; restore the directory, or run ./inv remove {guest.name}"
    return fault(guest.name, "usr", "usr is not a directory inside the root, and would be served as one", do)


def judge_signs(guest: Guest, its: Facts) -> list[Finding]:
    """Check for signs of the environment that the root's system came from; see `pipelines.origin.signs`."""
    shown = signs.parse_answer(its.get("signs", {}))
    return [
        fault(
            guest.name,
            sign.name,
            f"{signs.describe_origin(sign)}: {signs.format_paths(shown[sign.name])}",
            sign.remedy,
            needed=False,
        )
        for sign in signs.SIGNS
        if sign.name in shown
    ]


def judge_kernel(guest: Guest, its: Facts, *, running: bool) -> list[Finding]:
    """Check whether kernel and initramfs can be copied from the root, and whether the copies are current."""
    found = []
    names = [name for name in ("kernel", "initrd") if name in its]
    other = [name for name in names if its[name]["same"] is False]
    gone = [name for name in names if its["files"][name] is None]
    for name in names:
        if its[name]["refused"]:
            do = f"fix it in {guest.root}: it has to be a file, or a link to one, inside the root"
            found.append(fault(guest.name, name, f"cannot be copied: {its[name]['refused']}", do))
    if found:
        return found
    if not other and not gone:
        return [fine(guest.name, "kernel", "it boots the kernel of its root")]
    copied = "the one that runs" if running else "the one that was copied"
    says = f"the {' and '.join(other)} in its root differs from {copied}"
    if gone:
        says = f"{guest.boot} has no copy of its {' and '.join(gone)}"
    if running:
        do = f"run ./inv restart {guest.name} to boot the one in the root"
        return [fault(guest.name, "kernel", says, do, needed=False)]
    do = f"run doctor with --fix, or ./inv start {guest.name}: both copy it"
    action = _make_locked_fix(guest, Guest.copy_kernel, off=True)
    fix = Fix(f"copy the kernel of {guest.name} to {guest.boot} again", action)
    return [fault(guest.name, "kernel", says, do, needed=False, fix=fix)]


def judge_boot_directory(guest: Guest, its: Facts, seen: Facts) -> Finding | None:
    """Check whether QEMU's user can read the kernel."""
    above = seen["directories"].get(place.BOOT)
    wrong = []
    if above and not above["mode"] & 0o001:
        wrong.append(f"{place.BOOT} has mode {above['mode']:04o}")
    if its["boot"] is not None and not its["boot"] & 0o001:
        wrong.append(f"{guest.boot} has mode {its['boot']:04o}")
    wanted = seen["boot_file_mode"]
    wrong += [
        f"{guest.boot}/{name} has mode {mode:04o}"
        for name, mode in its["files"].items()
        if mode is not None and mode & wanted != wanted
    ]
    name = "boot directory"
    if above and above["closed_above"]:
        do = f"chmod o+x {above['closed_above']}"
        return fault(guest.name, name, f"QEMU's user cannot enter {above['closed_above']}, and read the kernel", do)
    if not wrong:
        return fine(guest.name, name, f"QEMU's user can read {guest.boot}") if its["boot"] is not None else None

    def open_boot(now: Guest) -> None:
        now.target.run(["sh", "-ec", _OPEN_BOOT, "open", now.boot, f"{wanted:o}"])

    fix = Fix(f"change the modes of {guest.boot} and its files", _make_locked_fix(guest, open_boot))
    says = f"{' and '.join(wrong)}: QEMU's user cannot read the kernel"
    do = f"run doctor with --fix, which gives it mode 0711, and its files {wanted:04o}"
    return fault(guest.name, name, says, do, fix=fix)


def judge_shares(guest: Guest, its: Facts) -> Finding | None:
    """Check whether each share is still a directory, and was not replaced by a link."""
    for share in guest.shares:
        real = its["shares"].get(share.directory, "")
        if real != share.directory:
            what = f"leads to {real} now" if real else "is missing"
            do = f"make it again, or run ./inv unshare {guest.name} {share.tag}"
            return fault(guest.name, "shares", f"{share.directory}, the share {share.tag}, {what}", do)
    return fine(guest.name, "shares", f"{len(guest.shares)}, all exist") if guest.shares else None


def judge_exposure(guest: Guest) -> Finding | None:
    """Check whether other users of the host can enter the guest's writable shares; None if they cannot."""
    writable = [share.directory for share in guest.shares if not share.readonly]
    lie = zip(writable, exposure.inspect(guest.target, writable), strict=True)
    reached = [directory for directory, lies in lie if lies.is_dangerous]
    if not reached:
        return None
    says = f"other users of the host can enter {', '.join(reached)}, and use setuid programs and devices there"
    return fault(guest.name, "open shares", says, exposure.REMEDY, needed=False)


def judge_base_tree(guest: Guest) -> Finding | None:
    """Check whether the base tree of an overlay root is unchanged."""
    if not guest.source.lower:
        return None
    if base_trees.compute_digest(guest.target, guest.source.golden) == guest.source.lower:
        return fine(guest.name, "golden tree", f"{guest.source.golden} is unchanged")
    do = f"restore its original content (a copy is not enough), or run ./inv remove {guest.name}"
    return fault(guest.name, "golden tree", f"{guest.source.golden} has changed since the root was made", do)


def judge_space(guest: Guest, seen: Facts) -> Finding | None:
    """Check the free space of the root's file system; df in the guest shows the same."""
    found = seen["directories"].get(guest.root)
    if not found:
        return None
    says = f"{size(found['free'])} of {size(found['size'])} free on {found['kind']}"
    if not finding.is_scarce(found["free"], found["size"]):
        return fine(guest.name, "room", says)
    do = "run ./inv prune, remove snapshots, or use a larger disk"
    return fault(guest.name, "room", says, do, needed=False)


def judge_virtiofsd(guest: Guest, definition: ET.Element, seen: Facts) -> Finding:
    """Check whether each directory of a running guest has a virtiofsd."""
    wanted = [source.get("dir", "") for source in definition.iterfind("devices/filesystem/source") if source.get("dir")]
    words = [word for each in seen["virtiofsds"] for word in each["arguments"]]
    dead = [path for path in wanted if not any(_has_directory(word, path) for word in words)]
    if dead:
        do = f"read ./inv logs {guest.name} --virtiofsd; then run ./inv stop {guest.name} --force, and start it"
        return fault(guest.name, "virtiofsd", f"none serves {', '.join(dead)}: the guest hangs when it uses it", do)
    return fine(guest.name, "virtiofsd", f"{len(wanted)}, running")


def _has_directory(word: str, path: str) -> bool:
    """Return whether an argument of virtiofsd is the directory ``path``, or contains it among other options."""
    return any(part.rpartition("=")[2] == path for part in (word, *word.split(",")))


def judge_agent(guest: Guest) -> Finding:
    """Check whether the agent in a running guest answers."""
    if guest.agent.is_answering():
        return fine(guest.name, "agent", "answers")
    do = f"unless it is still booting, see ./inv logs {guest.name}, or ./inv console {guest.name}"
    return fault(guest.name, "agent", "does not answer", do, needed=False)

"""Whether one guest is sound: its definition, its root, what it boots from, and what serves it while it runs."""

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

#: The mode of a root.
_ENTERED = 0o755

# A root's name is the host's; what is in it is not looked at.
_CHMOD = '[ -d "$2" ] && [ ! -L "$2" ] && chmod -- "$1" "$2"'

_OPEN_BOOT = """
chmod o+x -- "${1%/*}"
chmod 0711 -- "$1"
for name in kernel initrd; do [ ! -f "$1/$name" ] || chmod "$2" -- "$1/$name"; done
"""


def asked(guest: Guest) -> dict[str, object]:
    """Return what of a guest is to be looked at; see `look`."""
    return {
        "root": guest.root,
        "boot": guest.boot,
        "kernel": guest.kernel,
        "initrd": guest.initrd,
        "shares": [share.directory for share in guest.shares],
        "signs": {sign.name: sign.query for sign in signs.SIGNS if sign.remedy},
    }


def examine(guest: Guest, seen: Facts, *, running: bool, handles: bool = False) -> list[Finding]:
    """Judge a guest by what was ``seen``, and ask libvirt for its definition; one that is ``running`` is asked, too.

    ``handles`` says that virtiofsd shall use file handles.
    """
    definition = guest.hypervisor.xml(guest.uuid)
    if definition is None:
        return [fault(guest.name, "definition", "the domain went while it was looked at", "look again", needed=False)]
    its = seen["guests"][guest.name]
    if "unread" in its:
        do = f"look at {guest.root} with ls -l"
        return [fault(guest.name, "root", f"{guest.root} cannot be looked at: {its['unread']}", do)]
    findings: list[Finding | None] = [*definitions.judge(guest, definition), *root(guest, its)]
    findings.append(wrapped(guest, definition, its, handles=handles))
    if its["directory"] and (its["layers"] or not guest.lower):
        findings += [fstab(guest, its), usr(guest, its), *left_over(guest, its)]
        findings += kernels(guest, its, running=running)
    findings += [boot(guest, its, seen), shared(guest, its), exposed(guest), golden_tree(guest), room(guest, seen)]
    if running:
        findings += [served(guest, definition, seen), agent(guest)]
    return [each for each in findings if each]


def _locked(guest: Guest, do: Callable[[Guest], object], *, off: bool = False) -> finding.Doing:
    """Return what does a fix while no other task works on the guest, as it is by then."""

    what_to_do = f"./inv restart {guest.name} does the same" if off else ""

    def fix() -> None:
        with hold.hold(guest.hypervisor, guest.name, off=what_to_do) as now:
            do(now)

    return fix


def root(guest: Guest, its: Facts) -> list[Finding]:
    """Judge the directory that is the guest's root."""
    if not its["directory"]:
        what = "is missing" if its.get("missing") else "is no directory"
        do = f"mount or restore it: ./inv snapshots {guest.name}; or ./inv remove {guest.name}"
        return [fault(guest.name, "root", f"{guest.root} {what}", do)]
    if guest.lower and not its["layers"]:
        do = f"--fix mounts it, as ./inv start {guest.name} does"
        fix = Fix(f"mount the layers of {guest.root}", _locked(guest, Guest.assemble))
        return [fault(guest.name, "root", f"the layers of {guest.root} are not mounted", do, needed=False, fix=fix)]
    if its["uid"] != 0:
        do = f"chown root:root {guest.root}"
        return [fault(guest.name, "root", f"{guest.root} belongs to user {its['uid']}: sshd lets nobody in", do)]
    if its["mode"] & 0o7777 != _ENTERED:

        def mend(now: Guest) -> None:
            now.target.run(["sh", "-ec", _CHMOD, "chmod", f"{_ENTERED:o}", now.root])

        says = f"{guest.root} has mode {its['mode']:04o}: sshd or everybody but root in the guest stumbles over it"
        do = f"--fix does it: chmod 0755 {guest.root}"
        return [fault(guest.name, "root", says, do, fix=Fix(f"chmod 0755 {guest.root}", _locked(guest, mend)))]
    return [fine(guest.name, "root", f"{guest.root}, mode 0755, root's own")]


def wrapped(guest: Guest, definition: ET.Element, its: Facts, *, handles: bool) -> Finding:
    """Judge whether the guest's devices name the wrapper of virtiofsd that its kernel and the settings ask for."""
    name, release = "wrapper of virtiofsd", its["release"]
    named = virtiofsd_wrapper.binaries(definition)
    wanted = copy.deepcopy(definition)
    if not virtiofsd_wrapper.update(wanted, release, handles=handles):
        foreign = [path for path in named if not wrappers.parse(path)]
        if foreign:
            return fine(guest.name, name, f"{', '.join(foreign)} is not virtroot's, and left as it is")
        return fine(guest.name, name, ", ".join(path.rpartition("/")[2] for path in named))
    now = ", ".join(path.rpartition("/")[2] or "none" for path in named)
    right = ", ".join(path.rpartition("/")[2] for path in virtiofsd_wrapper.binaries(wanted))
    says = f"its devices name {now}, and with the kernel {release or 'that it has'} it should be {right}"
    # Only a daemon before 1.14 insists on ACLs, and it then refuses such a kernel.
    boots = wrappers.takes_acls(release) or not any(each and each.acl for each in map(wrappers.parse, named))

    def update(now: Guest) -> None:
        virtiofsd_wrapper.refresh(now.hypervisor, now.uuid, now.boot, handles=handles)

    fix = Fix(f"let the devices of {guest.name} name {right}, from its next start on", _locked(guest, update))
    return fault(guest.name, name, says, "--fix does it, as ./inv upgrade does", needed=not boots, fix=fix)


def fstab(guest: Guest, its: Facts) -> Finding:
    """Judge the lines of the guest's own fstab that are about virtiofs."""
    name, text = "fstab", its.get("fstab")
    if text is None:
        do = f"write it in {guest.root}: {ROOT_TAG} / virtiofs defaults 0 0"
        return fault(guest.name, name, "etc/fstab in its root is missing, or no file that can be read", do)
    lines = [fields for line in split_lines(text) if (fields := split_fields(line)) and fields[0][:1] != "#"]
    mounted = {line[0]: line for line in lines if len(line) > 2 and line[2] == "virtiofs"}
    on_root = [line for line in lines if len(line) > 2 and line[1] == "/"]
    if [line[:3] for line in on_root] != [[ROOT_TAG, "/", "virtiofs"]]:
        found = "; ".join(" ".join(line[:3]) for line in on_root) or "nothing"
        do = f"one line in it: {ROOT_TAG} / virtiofs defaults 0 0"
        return fault(guest.name, name, f"it mounts {found} at /: a boot waits for a disk, or stays read-only", do)
    devices = {ROOT_TAG, *([USR_TAG] if guest.usr else []), *(share.tag for share in guest.shares)}
    waiting = [tag for tag, line in mounted.items() if tag not in devices and "nofail" not in ",".join(line[3:4])]
    if waiting:
        do = f"take its line out of etc/fstab in {guest.root}, or give it nofail"
        return fault(guest.name, name, f"it mounts {waiting[0]}, a device that the guest does not have", do)
    missing = [tag for tag in sorted(devices) if tag not in mounted]
    if USR_TAG in missing and guest.usr:
        do = f"one line in it: {USR_TAG} /{shares.USR} virtiofs defaults 0 0"
        return fault(guest.name, name, "it does not mount /usr: what its cache is for is lost", do, needed=False)
    if missing:
        do = f"./inv unshare {guest.name} {missing[0]}, and share it again"
        return fault(guest.name, name, f"it does not mount the share {missing[0]}", do, needed=False)
    return fine(guest.name, name, f"mounts {', '.join(sorted(devices))}")


def usr(guest: Guest, its: Facts) -> Finding | None:
    """Judge whether /usr, where it is a device of its own, still is a directory of the root's."""
    if not guest.usr or its["usr"]:
        return None
    do = f"look at it with ls -l {guest.root}; put the directory back, or ./inv remove {guest.name}"
    return fault(guest.name, "usr", "usr is no directory of the root's own, and would be served as one", do)


def left_over(guest: Guest, its: Facts) -> list[Finding]:
    """Judge what is left in the root of where its system came from; see `pipelines.origin.signs`."""
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


def kernels(guest: Guest, its: Facts, *, running: bool) -> list[Finding]:
    """Judge whether kernel and initramfs can be handed over, and whether that was done of those that are there now."""
    found = []
    names = [name for name in ("kernel", "initrd") if name in its]
    other = [name for name in names if its[name]["same"] is False]
    gone = [name for name in names if its["files"][name] is None]
    for name in names:
        if its[name]["refused"]:
            do = f"mend it in {guest.root}: it has to be a file, or a link to one, inside the root"
            found.append(fault(guest.name, name, f"cannot be handed over: {its[name]['refused']}", do))
    if found:
        return found
    if not other and not gone:
        return [fine(guest.name, "kernel", "what it boots from is what its root has")]
    copied = "runs" if running else "was copied"
    says = f"its root has another {' and '.join(other)} than what {copied}"
    if gone:
        says = f"{guest.boot} has no copy of its {' and '.join(gone)}"
    if running:
        do = f"./inv restart {guest.name} boots what the root has"
        return [fault(guest.name, "kernel", says, do, needed=False)]
    do = f"--fix hands it over, as the next ./inv start {guest.name} does"
    fix = Fix(f"copy the kernel of {guest.name} to {guest.boot} anew", _locked(guest, Guest.hand_over, off=True))
    return [fault(guest.name, "kernel", says, do, needed=False, fix=fix)]


def boot(guest: Guest, its: Facts, seen: Facts) -> Finding | None:
    """Judge whether QEMU's user reaches the kernel."""
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
        return fault(guest.name, name, f"QEMU's user cannot enter {above['closed_above']}, and finds no kernel", do)
    if not wrong:
        return fine(guest.name, name, f"{guest.boot}, within reach of QEMU's user") if its["boot"] is not None else None

    def mend(now: Guest) -> None:
        now.target.run(["sh", "-ec", _OPEN_BOOT, "open", now.boot, f"{wanted:o}"])

    fix = Fix(f"give {guest.boot} and what is in it their modes", _locked(guest, mend))
    says = f"{' and '.join(wrong)}: QEMU's user cannot read the kernel"
    return fault(guest.name, name, says, f"--fix gives it 0711, and the files in it {wanted:04o}", fix=fix)


def shared(guest: Guest, its: Facts) -> Finding | None:
    """Judge whether each share is the directory still that was given."""
    for share in guest.shares:
        real = its["shares"].get(share.directory, "")
        if real != share.directory:
            what = f"leads to {real} now" if real else "is gone"
            do = f"make it again, or take the share away: ./inv unshare {guest.name} {share.tag}"
            return fault(guest.name, "shares", f"{share.directory}, which is {share.tag}, {what}", do)
    return fine(guest.name, "shares", f"{len(guest.shares)}, all there") if guest.shares else None


def exposed(guest: Guest) -> Finding | None:
    """Judge whether other users of the host reach what the guest may leave in its shares; None where they do not."""
    writable = [share.directory for share in guest.shares if not share.readonly]
    lie = zip(writable, exposure.look(guest.target, writable), strict=True)
    reached = [directory for directory, lies in lie if lies.dangerous]
    if not reached:
        return None
    says = f"other users of the host enter {', '.join(reached)}, and what the guest makes there: setuid, devices"
    return fault(guest.name, "open shares", says, exposure.REMEDY, needed=False)


def golden_tree(guest: Guest) -> Finding | None:
    """Judge whether the golden tree below a root of two layers is what it was."""
    if not guest.lower:
        return None
    if base_trees.digest(guest.target, guest.golden) == guest.lower:
        return fine(guest.name, "golden tree", f"{guest.golden} is as the root was made on it")
    do = f"put it back as it was (a copy does not do), or ./inv remove {guest.name}"
    return fault(guest.name, "golden tree", f"{guest.golden} is not what the root was made on", do)


def room(guest: Guest, seen: Facts) -> Finding | None:
    """Judge how much space the guest's file system has: its own df shows that of the host's."""
    found = seen["directories"].get(guest.root)
    if not found:
        return None
    says = f"{size(found['free'])} of {size(found['size'])} free on {found['kind']}"
    if not finding.scarce(found["free"], found["size"]):
        return fine(guest.name, "room", says)
    do = "./inv prune, or remove snapshots; or give it a larger disk"
    return fault(guest.name, "room", says, do, needed=False)


def served(guest: Guest, definition: ET.Element, seen: Facts) -> Finding:
    """Judge whether each of a running guest's directories has a virtiofsd."""
    wanted = [source.get("dir", "") for source in definition.iterfind("devices/filesystem/source") if source.get("dir")]
    words = [word for each in seen["virtiofsds"] for word in each["arguments"]]
    dead = [path for path in wanted if not any(_serves(word, path) for word in words)]
    if dead:
        do = f"read ./inv logs {guest.name} --virtiofsd; then ./inv stop {guest.name} --force, and start it"
        return fault(guest.name, "virtiofsd", f"none serves {', '.join(dead)}: what is mounted of it hangs", do)
    return fine(guest.name, "virtiofsd", f"{len(wanted)}, alive")


def _serves(word: str, path: str) -> bool:
    """Say whether an argument of virtiofsd is, or has among others, the directory that it serves."""
    return any(part.rpartition("=")[2] == path for part in (word, *word.split(",")))


def agent(guest: Guest) -> Finding:
    """Judge whether the agent in a running guest answers."""
    if guest.agent.answers():
        return fine(guest.name, "agent", "answers")
    do = f"where it does not boot still: ./inv logs {guest.name}, or ./inv console {guest.name}"
    return fault(guest.name, "agent", "does not answer", do, needed=False)

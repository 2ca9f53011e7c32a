"""Collects the facts of an existing system's tree; see `pipelines.origin.system`."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.origin import owners as owning
from pipelines.origin import signs as origins
from pipelines.origin.system import ASKED, System
from pipelines.target import programs
from pipelines.target.payload import signs as searching
from pipelines.target.payload.beneath import open_beneath, open_regular
from pipelines.target.payload.errors import Refused
from pipelines.target.target import Target
from pipelines.text import plain, split_lines, trim

#: How many bytes of a file are read; a larger fstab is refused.
_MAX_SIZE = 64 << 10

#: Programs whose ELF header has the system's processor, the length of that header, and their maximum size in bytes.
_PROGRAMS = (
    "usr/lib/systemd/systemd", "lib/systemd/systemd", "usr/bin/bash", "usr/bin/dash", "usr/bin/busybox",
)  # fmt: skip
_ELF, _MAX_PROGRAM = 20, 1 << 30

# The tree is not trusted: only regular files are read, up to a limit, and the two characters that separate the sections
# are removed from their content.
_FACTS = r"""
cd "$1"; limit=$2; shift 2
section() { head -c 1048576 | { printf '\036%s\037' "$1"; tr -d '\036\037\000'; }; }
disks='["'"'"'=[:space:]](resume|resume_offset|root|rootfstype|rootflags|rd\.(luks|lvm|md|dm)[a-z.]*)='
cards='(en|wl)(o[0-9]+|[sP][0-9]+|p[0-9]+s[0-9]+|x[0-9a-f]{12})[0-9a-z]*|eth[0-9]+|wlan[0-9]+'
plain() { [ -f "$1" ] && [ ! -L "$1" ]; }
show() { if plain "$1"; then head -c "$limit" "$1"; fi; }
ls -A | section top
for path do if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\n' "$path"; fi; done | section found
for path in @PROGRAMS@; do
    if plain "$path"; then od -An -tx2 -j18 -N2 "$path"; break; fi
done | section machine
show usr/lib/os-release | section release
if plain etc/fstab; then stat --format=%s etc/fstab; fi | section size
show etc/fstab | section fstab
for path in etc/initramfs-tools/conf.d/* etc/initramfs-tools/initramfs.conf; do
    if plain "$path" && grep -Eqs '^[[:space:]]*(export[[:space:]]+)?RESUME=' "$path"; then printf '%s\n' "$path"; fi
done | section resume
for path in etc/initramfs-tools/conf.d/* etc/initramfs-tools/initramfs.conf; do
    if plain "$path" && grep -Es '^[[:space:]]*(export +)?FSTYPE=' "$path" | grep -Evq '="?auto"?[[:space:]]*$'
    then printf '%s\n' "$path"; fi
done | section fstype
for path in etc/dracut.conf etc/dracut.conf.d/*.conf; do
    if plain "$path" && grep -Es '^[[:space:]]*kernel_cmdline' "$path" | grep -Eq "$disks"
    then printf '%s\n' "$path"; fi
done | section dracut
for path in etc/mkinitcpio.d/*.preset; do
    if plain "$path" && grep -Eqs "^[[:space:]]*[A-Za-z_]+_config=[\"']?/etc/mkinitcpio.conf[\"']?[[:space:]]*$" "$path"
    then printf '%s\n' "$path"; fi
done | section presets
{ show etc/default/grub; for path in etc/default/grub.d/*.cfg; do show "$path"; done; } |
    grep -E '^[[:space:]]*GRUB_CMDLINE_LINUX' | section cmdline
show etc/machine-id | section machine-id
show etc/hostname | section hostname
show etc/crypttab | grep -Ev '^[[:space:]]*(#|$)' | section crypttab
what='^[[:space:]]*What=(/dev/|[A-Z]+=)'
for directory in etc usr/local/lib usr/lib; do
    for path in "$directory"/systemd/system/*.swap "$directory"/systemd/system/*.mount; do
        plain "$path" && [ ! -L "etc/systemd/system/${path##*/}" ] || continue
        # Swap on a file is swap on virtiofs, too.
        case $path in *.swap) shown=. ;; *) shown=$what ;; esac
        if grep -Eq "$shown" "$path"; then printf '%s\n' "${path##*/}"; fi
    done
done | sort -u | section units
for path in etc/network/interfaces etc/network/interfaces.d/* etc/netplan/*.yaml etc/netplan/*.yml \
    etc/systemd/network/*.network etc/systemd/network/*.link etc/NetworkManager/system-connections/* \
    etc/udev/rules.d/70-persistent-net.rules etc/udev/rules.d/*-persistent-net.rules; do
    if plain "$path"; then
        head -c "$limit" "$path" | grep -Ev '^[[:space:]]*#' | grep -Eo "\b($cards)\b" | sort -u |
            while read -r card; do printf '%s names the network card %s\n' "$path" "$card"; done
    fi
done | section cards
for path in boot/vmlinuz-*; do
    if plain "$path"; then printf '%s\n' "${path#boot/vmlinuz-}"; fi
done | sort -V | section kernels
for path in vmlinuz initrd.img boot/vmlinuz boot/initrd.img; do
    if [ -L "$path" ]; then printf '%s %s\n' "$path" "$(readlink "$path")"; fi
done | section links
for path in usr/lib/modules/*; do printf '%s\n' "${path##*/}"; done | section modules
"""


def collect(target: Target, root: str) -> System:
    """Collect the facts of the tree ``root`` on ``target``. Raises VirtrootError if its fstab is too large."""
    script = _FACTS.replace("@PROGRAMS@", " ".join(_PROGRAMS))
    argv = ["sh", "-c", script, "facts", root, str(_MAX_SIZE), *ASKED]
    answer = target.run(argv, limit=32 << 20, timeout=300).stdout.decode(errors="replace")
    sections = dict(part.split("\037", 1) for part in answer.split("\036")[1:])
    lines = {name: tuple(line for line in split_lines(body) if trim(line)) for name, body in sections.items()}
    if int(trim(sections["size"]) or 0) > _MAX_SIZE:
        raise VirtrootError(f"etc/fstab: larger than {_MAX_SIZE >> 10} KiB", "fix it in the system first")
    links = dict(line.split(" ", 1) for line in lines["links"])
    machine_id, hostname = trim(sections["machine-id"]), trim(sections["hostname"])
    modules = set(lines["modules"])
    shown, owners = _find_signs(target, root)
    return System(
        top=frozenset(lines["top"]),
        found=frozenset(lines["found"]),
        machine=trim(sections["machine"]),
        release=_parse_fields(lines["release"]),
        fstab=sections["fstab"],
        resume=lines["resume"],
        fstype=lines["fstype"],
        dracut=lines["dracut"],
        presets=lines["presets"],
        cmdline=" ".join(lines["cmdline"]),
        crypttab=lines["crypttab"],
        units=lines["units"],
        cards=lines["cards"],
        machine_id=machine_id if re.fullmatch(r"[0-9a-f]{32}", machine_id) else "",
        hostname=hostname if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", hostname) else "",
        # Debian names kernels by version, Arch by package.
        kernels=tuple(name for name in lines["kernels"] if name in modules or not name[:1].isdigit()),
        # For the host, an absolute link is a file outside the root.
        links={path: to for path, to in links.items() if not to.startswith("/")},
        signs=shown,
        owners=owners,
    )


def read_owners(target: Target, root: str) -> dict[str, tuple[int, int, int]]:
    """Return the owners of the paths that belong to root in every system."""
    return _find_signs(target, root)[1]


def _find_signs(target: Target, root: str) -> tuple[origins.Shown, dict[str, tuple[int, int, int]]]:
    """Return the signs in a tree, and the owners of the paths that belong to root in every system."""
    answer = programs.find_signs(target, root, origins.make_queries(), owning.ASKED)
    if not answer["openat2"]:
        raise VirtrootError(
            "cannot open files of a root in the builder: the engine denies openat2",
            "use a newer container engine, or kernel 5.6 or newer",
        )
    return origins.parse_answer(answer["signs"]), {path: tuple(each) for path, each in answer["owners"].items()}


def collect_basics(root: Path) -> System:
    """Collect the facts to refuse a tree on this machine; follow no link out of it, and read files up to a limit."""
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        known = set()
        for path in ASKED:
            with suppress(Refused):
                os.close(open_beneath(descriptor, path, os.O_PATH))
                known.add(path)
        heads = filter(None, (_read_head(descriptor, path, _ELF) for path in _PROGRAMS))
        release = _read_head(descriptor, "usr/lib/os-release", _MAX_SIZE).decode(errors="replace")
        return System(
            top=frozenset(each.name for each in root.iterdir()),
            found=frozenset(known),
            machine=next((f"{head[19]:02x}{head[18]:02x}" for head in heads if len(head) == _ELF), ""),
            release=_parse_fields(tuple(split_lines(plain(release)))),
            fstab=_read_head(descriptor, "etc/fstab", _MAX_SIZE).decode(errors="replace"),
            owners=searching.find_owners(descriptor, list(owning.ASKED)),
        )
    finally:
        os.close(descriptor)


def _read_head(root: int, path: str, length: int) -> bytes:
    """Return the first bytes of a regular file of the root; empty if there is no such file."""
    try:
        with os.fdopen(open_regular(root, path, _MAX_PROGRAM), "rb") as content:
            return content.read(length)
    except (Refused, OSError):
        return b""


def _parse_fields(lines: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of an os-release file (see os-release(5))."""
    pairs = (re.fullmatch(r"([A-Z_]+)=(.*)", line) for line in lines)
    return {pair[1]: pair[2].strip("\"'") for pair in pairs if pair}

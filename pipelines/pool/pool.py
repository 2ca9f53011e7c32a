"""The pool: libvirt's dir pool, in which each guest's root is a directory."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import warn
from pipelines.settings import Settings
from pipelines.target import lock
from pipelines.target.payload.names import LOCKS
from pipelines.text import split_lines, trim

#: In a pool that virtroot made: it may insist on the mode it gave it.
MARK = ".virtroot"

# Of what is there already, only libvirt's own directory, with nothing in it yet, may be closed to other users.
_PREPARE = """
path=$1 own=$2 mark=$3
if [ -e "$path" ]; then
    [ -d "$path" ] || { echo "$path is no directory"; exit 3; }
    closed=$(find "$path" -maxdepth 0 -user 0 ! -perm /077)
    if [ -z "$closed" ]; then
        [ "$path" = "$own" ] && [ -z "$(ls -A "$path")" ] ||
            { echo "$path is there already, and open to other users"; exit 3; }
    fi
else
    mkdir -p "$path"
fi
chmod 0700 "$path"
: > "$path/$mark"
"""


def find(hypervisor: Hypervisor, settings: Settings) -> str:
    """Return the directory of the settings' pool, started where it was not and made where it is missing."""
    known = look(hypervisor, settings)
    if known is None or not _runs(hypervisor, settings):
        # Of two first users at once, the second finds the pool that the first has made.
        with lock.on(hypervisor.target, f"{LOCKS}/pool.lock", f"the pool {settings.pool}", wait=lock.PATIENCE):
            known = look(hypervisor, settings)
            if known is None:
                _define(hypervisor, settings.pool, settings.pool_path)
                return settings.pool_path
            if not _runs(hypervisor, settings):
                hypervisor.virsh("pool-start", settings.pool)
    mode = hypervisor.target.run(["stat", "--format=%a", known]).text
    if int(mode, 8) & 0o077:
        # Not ours to change: guests of the user's own may boot kernels from inside it.
        warn(
            f"other users can enter {known}, and run what guests leave there; chmod 0700 it unless guests boot from it"
        )
    return known


def _runs(hypervisor: Hypervisor, settings: Settings) -> bool:
    return "running" in hypervisor.virsh("pool-info", settings.pool).text


def look(hypervisor: Hypervisor, settings: Settings) -> str | None:
    """Return the directory of the pool, or None where there is no such pool; change nothing.

    Raises `VirtrootError` for a pool that is no directory.
    """
    answer = hypervisor.virsh("pool-dumpxml", settings.pool, check=False)
    if answer.returncode:
        return None
    pool = ET.fromstring(answer.text)  # noqa: S314 - libvirt's own
    if pool.get("type") != "dir":
        raise VirtrootError(
            f"the pool {settings.pool} is of type {pool.get('type')}", "name a pool of type dir with --pool"
        )
    return (pool.findtext("target/path") or "").rstrip("/")


def directories(hypervisor: Hypervisor) -> list[str]:
    """Return the directories of all pools, whatever their type, as far as they have one."""
    names = split_lines(hypervisor.virsh("pool-list", "--all", "--name").text)
    answers = [hypervisor.virsh("pool-dumpxml", trim(name), check=False) for name in names if trim(name)]
    paths = [ET.fromstring(each.text).findtext("target/path") for each in answers if not each.returncode]  # noqa: S314
    return [path.rstrip("/") for path in paths if path and not path.startswith("/dev")]


def _define(hypervisor: Hypervisor, name: str, path: str) -> None:
    # A setuid program that a guest plants in its root must be out of reach of the host's users.
    prepare = ["sh", "-ec", _PREPARE, "prepare", path, Settings().pool_path, MARK]
    prepared = hypervisor.target.run(prepare, check=False)
    if prepared.returncode:
        raise VirtrootError(
            f"cannot make the pool {name}: {prepared.complaint}",
            f"roots have to be closed to other users: name a directory that does not exist, like {path}/virtroot, "
            "or one of root's with mode 0700",
        )
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    ET.SubElement(ET.SubElement(pool, "target"), "path").text = path
    hypervisor.virsh("pool-define", "/dev/stdin", stdin=ET.tostring(pool))
    try:
        hypervisor.virsh("pool-start", name)
        hypervisor.virsh("pool-autostart", name)
    except VirtrootError:
        hypervisor.virsh("pool-undefine", name, check=False)
        raise

"""The storage pool of type ``dir``: each guest's root is a directory in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import warn
from pipelines.settings import Settings
from pipelines.target import lock
from pipelines.target.payload.names import LOCKS
from pipelines.text import split_lines, trim

#: The file that marks a pool as made by virtroot: `doctor --fix` may change its mode back to 0700.
MARK = ".virtroot"

_PREPARE = Path(__file__).with_name("prepare_directory.sh").read_text(encoding="utf-8")


def ensure_directory(hypervisor: Hypervisor, settings: Settings) -> str:
    """Return the directory of the configured pool; define the pool if it is missing, and start it if it is inactive."""
    known = find_directory(hypervisor, settings)
    if known is None or not _is_running(hypervisor, settings):
        # Two tasks may find the pool missing at the same time: the second one waits and uses the first one's.
        with lock.on(hypervisor.target, f"{LOCKS}/pool.lock", f"the pool {settings.pool}", wait=lock.PATIENCE):
            known = find_directory(hypervisor, settings)
            if known is None:
                _define(hypervisor, settings.pool, settings.pool_path)
                return settings.pool_path
            if not _is_running(hypervisor, settings):
                hypervisor.virsh("pool-start", settings.pool)
    mode = hypervisor.target.run(["stat", "--format=%a", known]).text
    if int(mode, 8) & 0o077:
        # The mode is left unchanged: guests that the user defined may boot kernels from inside this directory.
        warn(
            f"other users can enter {known}, and run what guests write there; chmod 0700 it unless guests boot from it"
        )
    return known


def _is_running(hypervisor: Hypervisor, settings: Settings) -> bool:
    return "running" in hypervisor.virsh("pool-info", settings.pool).text


def find_directory(hypervisor: Hypervisor, settings: Settings) -> str | None:
    """Return the directory of the configured pool, or None if there is no such pool; change nothing.

    Raises `VirtrootError` if the pool is not of type ``dir``.
    """
    answer = hypervisor.virsh("pool-dumpxml", settings.pool, check=False)
    if answer.returncode:
        return None
    pool = ET.fromstring(answer.text)  # noqa: S314 - libvirt wrote it
    if pool.get("type") != "dir":
        raise VirtrootError(
            f"the pool {settings.pool} is of type {pool.get('type')}", "use --pool with a pool of type dir"
        )
    return (pool.findtext("target/path") or "").rstrip("/")


def list_directories(hypervisor: Hypervisor) -> list[str]:
    """Return the directories of all pools of any type that have one."""
    names = split_lines(hypervisor.virsh("pool-list", "--all", "--name").text)
    answers = [hypervisor.virsh("pool-dumpxml", trim(name), check=False) for name in names if trim(name)]
    paths = [ET.fromstring(each.text).findtext("target/path") for each in answers if not each.returncode]  # noqa: S314
    return [path.rstrip("/") for path in paths if path and not path.startswith("/dev")]


def _define(hypervisor: Hypervisor, name: str, path: str) -> None:
    # Users of the host must not reach a setuid program that a guest writes into its root.
    prepare = ["sh", "-ec", _PREPARE, "prepare", path, Settings().pool_path, MARK]
    prepared = hypervisor.target.run(prepare, check=False)
    if prepared.returncode:
        raise VirtrootError(
            f"cannot define the pool {name}: {prepared.complaint}",
            f"use a directory that does not exist, like {path}/virtroot, or one with owner root and mode 0700: "
            "other users must not be able to enter roots",
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

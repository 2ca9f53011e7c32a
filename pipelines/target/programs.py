"""The programs that run on libvirt's host, as functions: each runs a command of the payload on a target."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pipelines.errors import VirtrootError
from pipelines.host.feed import Source
from pipelines.host.process import Completed, Overran
from pipelines.target.payload.beneath import LARGEST_READ
from pipelines.target.payload.copy_plan import CopyPlan
from pipelines.target.payload.errors import IsDirectory, TooLong
from pipelines.target.payload.owners import Owners
from pipelines.target.payload_call import call
from pipelines.target.target import Target
from pipelines.text import trim

#: Seconds that reading a whole root may take: some ten million files.
_WHOLE_ROOT = 1200

#: Seconds beyond its own limit after which the measuring of a root is given up.
_GRACE = 20

#: Seconds that reading the sshd configuration of a guest may take.
_SSHD = 60

#: Seconds that collecting facts about libvirt's host may take, and the limit of their size in bytes.
_FACTS, _FACTS_SIZE = 300, 64 << 20

#: Seconds that searching a root for signs may take, and the limit of what is found in bytes.
_SIGNS, _SIGNS_SIZE = 300, 32 << 20

#: A path has at most this many bytes; see PATH_MAX in path_resolution(7).
_LONGEST_PATH = 4095


class DirectoryExists(VirtrootError):
    """A file cannot be written because there is a directory of its name."""


def copy_kernel(target: Target, root: str, directory: str, kernel: str, initrd: str) -> None:
    """Copy ``kernel`` and ``initrd`` (paths in ``root``) to ``directory`` on the target.

    ``initrd`` is empty if the guest has none.
    """
    _run(target, "copy-kernel", root=root, directory=directory, kernel=kernel, initrd=initrd)


def read_kernel_release(target: Target, directory: str) -> str:
    """Return the release of the kernel in a boot directory, like ``uname -r`` prints it; empty if it is unknown."""
    return str(_result(_run(target, "read-kernel-release", kernel=f"{directory}/kernel")))


def write(target: Target, root: str, path: str, mode: int, content: str) -> None:
    """Write the file ``path`` in a guest's root; never follow a link out of it."""
    put(target, root, path, mode, content.encode())


def put(target: Target, root: str, path: str, mode: int, content: Source, *, over_files: bool = False) -> None:
    """Write ``content`` of any length to the file ``path`` in a guest's root; never follow a link out of it.

    With ``over_files`` only a regular file is replaced. Raises `DirectoryExists` if ``path`` is a directory.
    """
    arguments = {"root": root, "path": path, "mode": mode, "over_files": over_files}
    done = call(target, "write-file", arguments, stdin=content)
    if done.returncode == IsDirectory.status:
        raise DirectoryExists(f"cannot write to the guest's root: {_reason(done)}", "name a file")
    _check(done)


def read(target: Target, root: str, path: str, largest: int = LARGEST_READ) -> bytes:
    """Return a file of a guest's root that has at most ``largest`` bytes."""
    return _run(target, "read-file", root=root, path=path, largest=largest)


def read_if_exists(target: Target, root: str, path: str, largest: int) -> bytes:
    """Return a file of a guest's root that has at most ``largest`` bytes; nothing if it does not exist."""
    return _run(target, "read-file", root=root, path=path, largest=largest, if_exists=True)


def check_not_replaced(target: Target, root: str, path: str) -> None:
    """Raise `VirtrootError` if ``path`` is not a directory of a guest's root, but a link or another file."""
    _run(target, "check-not-replaced", root=root, path=path)


def delete_files(target: Target, root: str, *paths: str) -> list[str]:
    """Delete files of a guest's root and its ssh host keys; return the paths behind a link that leads out."""
    return list(_result(_run(target, "delete-files", root=root, paths=paths)))


def substitute(target: Target, root: str, old: str, new: str, paths: Iterable[str]) -> None:
    """Replace ``old`` by ``new`` in files of a guest's root; never follow a link out of it."""
    _run(target, "substitute", root=root, old=old, new=new, paths=list(paths))


def make_directory(target: Target, root: str, path: str) -> None:
    """Make the directory ``path`` in a guest's root if it is missing; never follow a link out of it."""
    _run(target, "make-directory", root=root, path=path)


def read_sshd(target: Target, root: str) -> dict[str, Any]:
    """Return the sshd configuration and the public host keys in a guest's root; see `sshd.read_sshd`."""
    done = call(target, "read-sshd", {"root": root}, timeout=_SSHD)
    return cast("dict[str, Any]", _result(_check(done)))


def exchange(target: Target, one: str, other: str) -> None:
    """Exchange the names of two directories of the host on one file system."""
    _run(target, "exchange", one=one, other=other)


def digest(target: Target, tree: str) -> str:
    """Return the digest of a base tree; see `layers.digest`."""
    return str(_result(_run_layers(target, "digest", tree=tree)))


def mount_layers(target: Target, root: str, golden: str, lower: str) -> None:
    """Mount the layers of ``root`` over the base tree ``golden``, whose digest must be ``lower``."""
    _run_layers(target, "mount-layers", root=root, golden=golden, lower=lower)


def unmount_layers(target: Target, root: str) -> None:
    """Unmount the layers of ``root`` if they are mounted."""
    _run_layers(target, "unmount-layers", root=root)


def detach_layers(target: Target, root: str) -> None:
    """Delete from layers that were copied to ``root`` the reference to the original ones."""
    _run_layers(target, "detach-layers", root=root)


def measure(target: Target, seconds: int, roots: Sequence[tuple[str, str]]) -> list[tuple[int, int] | None]:
    """Return how many bytes each root uses, and how many of them other trees use too; see `usage.measure_all`.

    ``roots`` are given with the base tree that they are layered on, empty for none. None stands for a root that takes
    longer than ``seconds``.
    """
    # The program has its own time limit, but a disk may not answer.
    timeout = (seconds + _GRACE) * len(roots)
    done = _check(call(target, "measure", {"roots": roots, "seconds": seconds}, timeout=timeout))
    return [None if each is None else (each[0], each[1]) for each in _result(done)]


def check_path_length(target: Target, tree: str, *others: str) -> None:
    """Raise `VirtrootError` if cp cannot copy ``tree`` to one of ``others``, which are paths on the target.

    cp takes paths, and a guest can nest directories deeper than a path can reach.
    """
    most = _LONGEST_PATH - max(len(path.encode(errors="surrogateescape")) + 1 for path in (tree, *others))
    done = _call_on_whole_root(target, "check-path-length", {"tree": tree, "most": most}, tree)
    if done.returncode == TooLong.status:
        hint = "delete those directories in the guest, which rm -rf can, or move them up"
        raise VirtrootError(f"{tree} cannot be copied: {_reason(done)}", hint)
    if done.returncode:
        raise VirtrootError(f"cannot copy {tree}: {_reason(done)}", "see whether it exists, and run this again")


def save_inventory(target: Target, root: str, since: int, path: str, *, links: bool = True) -> None:
    """Write the inventory of ``root`` to the file ``path``, for root alone; see `inventory.take`.

    ``links`` says that links are read, which is right for a root that no guest shares blocks with yet.
    """
    arguments = {"root": root, "since": since, "path": path, "links": links}
    _check(_call_on_whole_root(target, "save-inventory", arguments, root))


def take_inventory(target: Target, root: str, since: int, known: Iterable[str]) -> bytes:
    """Return the inventory of ``root`` as a compressed tar; see `inventory.take`.

    ``since`` is in seconds of the epoch. ``known`` are the paths that existed then.
    """
    arguments = {"root": root, "since": since, "known": sorted(known)}
    return _check(_call_on_whole_root(target, "write-inventory", arguments, root))


def find_owners(target: Target, root: str, other: str, trees: Iterable[str], foreign: Iterable[str] = ()) -> Owners:
    """Return the owners of entries in ``trees`` of a root that are copied to ``other``; see `owners.find_owners`."""
    arguments = {"path": root, "other": other, "trees": list(trees), "foreign": list(foreign)}
    return cast("Owners", _result(_check(_call_on_whole_root(target, "find-owners", arguments, root))))


def copy_state(target: Target, root: str, other: str, plan: CopyPlan) -> None:
    """Copy what ``plan`` says from one root to another; see `tree_copy.copy_state`."""
    # Without a time limit: most of it is copying.
    _run(target, "copy-state", source=root, destination=other, plan=plan)


def collect_facts(target: Target, asked: Mapping[str, object]) -> dict[str, Any]:
    """Return the facts about ``target`` that are ``asked``, and change nothing; see `facts.collect`."""
    done = call(target, "collect-facts", {"asked": asked}, timeout=_FACTS, limit=_FACTS_SIZE, in_memory=True)
    try:
        return cast("dict[str, Any]", _result(done.stdout))
    except ValueError as error:
        raise VirtrootError(
            "cannot collect facts about libvirt's host", "see whether it has python3, 3.9 or newer", done.complaint
        ) from error


def inspect_exposure(target: Target, directories: Sequence[str]) -> list[dict[str, Any]]:
    """Return which users can enter ``directories``, or can replace them; see `exposure.inspect`."""
    return cast("list[dict[str, Any]]", _result(_run(target, "inspect-exposure", directories=list(directories))))


def find_unserved(target: Target, directories: Sequence[str]) -> list[str]:
    """Return the ``directories`` that no virtiofsd serves; see `virtiofsd_processes.find_unserved`."""
    return [str(each) for each in _result(_run(target, "find-unserved", directories=list(directories)))]


def find_signs(target: Target, root: str, signs: Mapping[str, object], owned: Iterable[str]) -> dict[str, Any]:
    """Return which ``signs`` are in ``root``, and the owners of the paths ``owned``; see `signs.search`."""
    arguments = {"root": root, "signs": signs, "owned": list(owned)}
    done = call(target, "find-signs", arguments, timeout=_SIGNS, limit=_SIGNS_SIZE)
    if done.returncode:
        raise VirtrootError(f"cannot search {root}: {_reason(done)}", "see whether it is complete", done.complaint)
    return cast("dict[str, Any]", _result(done.stdout))


def _run(target: Target, command: str, **arguments: object) -> bytes:
    return _check(call(target, command, arguments))


def _result(printed: bytes) -> Any:
    return json.loads(printed)


def _run_layers(target: Target, command: str, **arguments: object) -> bytes:
    done = call(target, command, arguments)
    if done.returncode:
        raise VirtrootError(_reason(done), "restore the base tree, which must not change, or install the guest again")
    return done.stdout


def _call_on_whole_root(target: Target, command: str, arguments: Mapping[str, object], root: str) -> Completed:
    """Run a program that reads a whole ``root``; raises `VirtrootError` if it takes too long.

    A guest decides how much there is to read, and its lock is held, or it is off, meanwhile.
    """
    try:
        return call(target, command, arguments, timeout=_WHOLE_ROOT)
    except Overran as error:
        raise VirtrootError(
            f"{root} contains so many files that reading it did not end within {_WHOLE_ROOT // 60} minutes",
            "find them with du --inodes, and delete them in the guest or put them into a share",
        ) from error


def _check(done: Completed) -> bytes:
    if done.returncode:
        raise VirtrootError(
            f"refused to touch the guest's root: {_reason(done)}",
            "look at the path with ls -l: it was made or changed in the guest; then fix it, or remove the guest",
        )
    return done.stdout


def _reason(done: Completed) -> str:
    return trim(done.complaint.rpartition("\n")[2].removeprefix("virtroot: ")) or "no reason given"

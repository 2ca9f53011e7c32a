"""Changes of a guest that happen as a whole or not at all: publication, removal, and the swap of its root.

One process on libvirt's host makes each of them, so a task that is killed meanwhile changes nothing. See the modules
`publish`, `withdraw` and `swap` of the payload.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.host.process import Completed
from pipelines.target.payload_call import call
from pipelines.target.target import Target


def publish(
    target: Target,
    journal: str,
    root: tuple[str, str],
    boot: tuple[str, str],
    definitions: str,
    define: Sequence[str],
    definition: str,
) -> Completed:
    """Publish a guest; ``root`` and ``boot`` are hidden name and name. See `publish.publish`."""
    arguments = {
        "path": journal,
        "partial_root": root[0],
        "root": root[1],
        "partial_boot": boot[0],
        "boot": boot[1],
        "definitions": definitions,
        "define": list(define),
        "definition": definition,
    }
    with process.defer_interrupt():
        return call(target, "publish", arguments)


def find_published(target: Target, journal: str, root: str, boot: str) -> list[str]:
    """Return which of ``root`` and ``boot`` an interrupted publication has renamed; see `publish.find_published`."""
    done = call(target, "find-published", {"path": journal, "root": root, "boot": boot})
    return [str(each) for each in _result(done, journal)]


def end_publication(target: Target, journal: str, root: str, boot: str) -> None:
    """Delete the journal of a guest that is defined; see `publish.end`."""
    done = call(target, "end-publication", {"path": journal, "root": root, "boot": boot})
    if done.returncode:
        raise VirtrootError(f"cannot delete {journal}", "read the reason above", done.complaint)


def withdraw(
    target: Target,
    journal: str,
    renames: Sequence[tuple[str, str]],
    domain: str,
    definitions: str,
    virsh: Sequence[str],
) -> Completed:
    """Remove a guest; ``renames`` are names and hidden names. See `withdraw.withdraw`."""
    arguments = {
        "path": journal,
        "renames": list(renames),
        "domain": domain,
        "definitions": definitions,
        "virsh": list(virsh),
    }
    with process.defer_interrupt():
        return call(target, "withdraw", arguments)


def undo_removal(target: Target, journal: str) -> Completed:
    """Restore the names that an interrupted removal has taken; see `withdraw.undo`."""
    return call(target, "undo-removal", {"path": journal})


def wait_for(target: Target, journals: Sequence[str]) -> Completed:
    """Wait for processes that have locked ``journals``: those of a task that was killed still work."""
    return call(target, "wait-for-journals", {"paths": list(journals)})


def begin_swap(
    target: Target, journal: str, directory: str, final: str, root: str, boot: str, partial_boot: str
) -> Completed:
    """Write the journal of a swap; see `swap.begin`."""
    arguments = {
        "path": journal,
        "directory": directory,
        "final": final,
        "root": root,
        "boot": boot,
        "partial_boot": partial_boot,
    }
    return call(target, "begin-swap", arguments)


def finish_swap(
    target: Target, journal: str, definitions: str, domain: str, virsh: Sequence[str], *, may_exchange: bool
) -> Completed:
    """Do what is left of a swap; see `swap.finish`."""
    arguments = {
        "path": journal,
        "definitions": definitions,
        "domain": domain,
        "virsh": list(virsh),
        "may_exchange": may_exchange,
    }
    return call(target, "finish-swap", arguments)


def find_pending_swap(target: Target, journal: str) -> dict[str, Any] | None:
    """Return what is known of an interrupted swap; None if there is none. See `swap.find_pending`."""
    return cast("dict[str, Any] | None", _result(call(target, "find-pending-swap", {"path": journal}), journal))


def _result(done: Completed, journal: str) -> Any:
    if done.returncode:
        raise VirtrootError(f"cannot read {journal}", "read the reason above", done.complaint)
    return json.loads(done.stdout) if done.stdout else None

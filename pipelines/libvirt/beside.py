"""What runs beside libvirt: programs that are sent along, and libvirt's hook made of them; a wrapper of virtiofsd."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.host.target import Target
from pipelines.libvirt import carry as carrying
from pipelines.libvirt import handover, layers, sizes, wrappers
from pipelines.libvirt import look as looking
from pipelines.libvirt import survey as surveying
from pipelines.libvirt.carry import Owners, Plan

_PROGRAM = Path(handover.__file__)
_LAYERS = Path(layers.__file__)
_SIZES = Path(sizes.__file__)
_SURVEY = Path(surveying.__file__)
_CARRY = Path(carrying.__file__)
_LOOK = Path(looking.__file__)

#: Where libvirt looks for hooks of QEMU domains; each file there is run.
HOOK = "/etc/libvirt/hooks/qemu.d/virtroot"

#: The wrapper of virtiofsd by the name that former versions gave guests with overlayfs; see `wrappers` for the others.
WRAPPER = wrappers.FORMER

#: Seconds that looking at libvirt's machine may take, and bytes that it may say.
_LOOKING, _SEEN = 300, 64 << 20


def hook() -> bytes:
    """Return libvirt's hook: a shell script with the programs in it that it runs."""
    script = _PROGRAM.with_name("hook").read_bytes()
    return script.replace(b"@LAYERS@\n", _LAYERS.read_bytes()).replace(b"@HANDOVER@\n", _PROGRAM.read_bytes())


def kernel_release(target: Target, directory: str) -> str:
    """Return the release of the kernel that was copied to ``directory``, like ``uname -r`` has it; empty if unknown."""
    return run(target, "--release", f"{directory}/kernel").decode().strip()


def run(target: Target, *arguments: str) -> bytes:
    """Run the hand-over program on ``target`` and return what it printed; raises `VirtrootError` when it refuses."""
    # Sent along, not installed: the program on the target is then always this version's. Isolated, so that no module
    # comes from the current directory, which may be a guest's.
    return _checked(target.run([target.python, "-I", "-", *arguments], stdin=_PROGRAM.read_bytes(), check=False))


def _checked(done: Completed) -> bytes:
    if done.returncode:
        reason = done.complaint.splitlines()[-1].removeprefix("virtroot: ") if done.complaint else "no reason given"
        raise VirtrootError(
            f"refused to touch the guest's root: {reason}",
            "the path was made or changed inside the guest; look at it with ls -l, then mend it or remove the guest",
        )
    return done.stdout


def hand_over(target: Target, root: str, directory: str, kernel: str, initrd: str) -> None:
    """Copy ``kernel`` and ``initrd`` (paths inside ``root``) to ``directory`` on the target, mode 0644.

    ``initrd`` is empty where the guest has none.
    """
    run(target, "--hand-over", root, directory, kernel, *filter(None, [initrd]))


def write(target: Target, root: str, path: str, mode: int, content: str) -> None:
    """Write the file ``path`` in a guest's root, never through a link out of it."""
    run(target, "--write", root, path, f"{mode:o}", content)


def put(target: Target, root: str, path: str, mode: int, content: IO[bytes]) -> None:
    """Write ``content``, however long it is, as the file ``path`` in a guest's root, never through a link out of it."""
    program = [target.python, "-I", "-c", _PROGRAM.read_text(encoding="utf-8")]
    _checked(target.run([*program, "--put", root, path, f"{mode:o}"], stdin=content, check=False))


def read(target: Target, root: str, path: str, largest: int = handover.LARGEST_READ) -> bytes:
    """Return a file of a guest's root that has ``largest`` bytes at most."""
    return run(target, "--read", root, path, str(largest))


def refuse_replaced(target: Target, root: str, path: str) -> None:
    """Raise `VirtrootError` where ``path`` is no directory of a guest's root, but a link or anything else."""
    run(target, "--refuse-replaced", root, path)


def exchange(target: Target, one: str, other: str) -> None:
    """Let two directories of the host's, on one file system, change their names with each other."""
    run(target, "--exchange", one, other)


def forget(target: Target, root: str, *paths: str) -> None:
    """Delete files of a guest's root, and its ssh host keys, never through a link out of it."""
    run(target, "--forget", root, *paths)


def make_directory(target: Target, root: str, path: str) -> None:
    """Make the directory ``path`` in a guest's root where it is missing, never through a link out of it."""
    run(target, "--directory", root, path)


def digest(target: Target, tree: str) -> str:
    """Return what tells ``tree`` from every other state of it; see `layers.digest`."""
    return _layers(target, "--digest", tree).text


def mount(target: Target, root: str, golden: str, lower: str) -> None:
    """Mount the layers of ``root`` over the golden tree ``golden``, whose digest has to be ``lower``."""
    _layers(target, "--mount", root, golden, lower)


def unmount(target: Target, root: str) -> None:
    """Unmount the layers of ``root``, where they are mounted."""
    _layers(target, "--unmount", root)


def forget_layers(target: Target, root: str) -> None:
    """Make layers that were copied to ``root`` forget which they are a copy of."""
    _layers(target, "--forget", root)


def _layers(target: Target, *arguments: str) -> Completed:
    done = target.run([target.python, "-I", "-", *arguments], stdin=_LAYERS.read_bytes(), check=False)
    if done.returncode:
        reason = done.complaint.rpartition("\n")[2].removeprefix("virtroot: ")
        raise VirtrootError(
            reason or "no reason given", "what is below a root of two layers has to stay as it was made"
        )
    return done


def measure(target: Target, seconds: int, roots: Sequence[tuple[str, str]]) -> list[tuple[int, int] | None]:
    """Return how many bytes each root takes, and how many of them other trees have too; see `sizes`.

    ``roots`` are given with the tree that they lie on, empty for none. None stands for one that takes longer.
    """
    arguments = [part for pair in roots for part in pair]
    argv = [target.python, "-I", "-", str(seconds), *arguments]
    lines = target.run(argv, stdin=_SIZES.read_bytes()).text.splitlines()
    return [None if line == "-" else (int(line.split()[0]), int(line.split()[1])) for line in lines]


def put_file(target: Target, path: str, content: bytes, mode: int) -> None:
    """Write a file of the host's own beside its place, and rename it."""
    script = 'umask 077; cat > "$1.partial"; chmod "$2" "$1.partial"; mv -T -- "$1.partial" "$1"'
    target.run(["sh", "-ec", script, "put", path, f"{mode:o}"], stdin=content)


def keep_survey(target: Target, root: str, since: int, path: str, what: str = "artifact") -> None:
    """Write to the file ``path``, for root alone, what is in ``root`` beside its packages' files; see `survey`.

    The root is ``what`` says: an ``artifact`` as it was made, or as it ``arrived`` at a guest.
    """
    script = 'umask 077; path=$1; shift; "$@" > "$path.partial"; mv -T -- "$path.partial" "$path"'
    argv = ["sh", "-ec", script, "keep", path, target.python, "-I", "-", root, str(since), what]
    _checked(target.run(argv, stdin=_SURVEY.read_bytes(), check=False))


def survey(target: Target, root: str, since: int, known: Iterable[str]) -> bytes:
    """Return what is in ``root`` beside its packages' files, as a compressed tar; see `survey`.

    ``since`` is in seconds of the epoch; ``known`` are the paths that were there then.
    """
    program = [target.python, "-I", "-c", _SURVEY.read_text(encoding="utf-8")]
    given = json.dumps(sorted(known)).encode()
    return _checked(target.run([*program, root, str(since)], stdin=given, check=False))


def program() -> str:
    """Return the hand-over program, for scripts that run it."""
    return _PROGRAM.read_text(encoding="utf-8")


def owners(target: Target, root: str, other: str, trees: Iterable[str]) -> Owners:
    """Return whose what is in ``trees`` of a root is that is carried into an ``other``; see `carry.owners`."""
    return cast("Owners", json.loads(_carry(target, list(trees), "--owners", root, other)))


def carry(target: Target, root: str, other: str, plan: Plan) -> None:
    """Carry what ``plan`` says from one root to another one; see `carry.carry`."""
    _carry(target, plan, "--carry", root, other)


def _carry(target: Target, given: object, *arguments: str) -> bytes:
    program = [target.python, "-I", "-c", _CARRY.read_text(encoding="utf-8")]
    return _checked(target.run([*program, *arguments], stdin=json.dumps(given).encode(), check=False))


def look(target: Target, asked: Mapping[str, object]) -> dict[str, Any]:
    """Return what ``target`` has of what is ``asked``, changing nothing; see `look`.

    Raises `VirtrootError` where it cannot be looked at.
    """
    program = [target.python, "-I", "-c", _LOOK.read_text(encoding="utf-8")]
    given = json.dumps({**asked, "handover": _PROGRAM.read_text(encoding="utf-8")}).encode()
    done = target.run(program, stdin=given, check=False, timeout=_LOOKING, limit=_SEEN)
    try:
        return cast("dict[str, Any]", json.loads(done.stdout))
    except ValueError as error:
        raise VirtrootError(
            "libvirt's machine cannot be looked at", "see whether it has python3, 3.10 or newer", done.complaint
        ) from error


def wrapper() -> bytes:
    """Return the wrapper of virtiofsd: a shell script."""
    return _PROGRAM.with_name("virtiofsd").read_bytes()


def trial() -> bytes:
    """Return the script that starts virtiofsd to see whether it can serve."""
    return _PROGRAM.with_name("trial").read_bytes()


def install_hook(target: Target) -> bool:
    """Put libvirt's hook in place, so that a start by virsh or at boot hands over as well; say whether it is new."""
    return _put(target, HOOK, hook())


def install_wrapper(target: Target, path: str = "") -> None:
    """Write the wrapper of virtiofsd to ``path``, `WRAPPER` by default, where it is not this version's."""
    _put(target, path or WRAPPER, wrapper())


def _put(target: Target, path: str, content: bytes) -> bool:
    there = ["sh", "-c", '[ -x "$1" ] && cmp -s - "$1"', "there", path]
    if target.run(there, stdin=content, check=False).returncode == 0:
        return False
    script = (
        'mkdir -p "${1%/*}"; partial=$(mktemp "${1%/*}/../.virtroot.XXXXXX"); '
        'cat > "$partial"; chmod 755 "$partial"; mv -T "$partial" "$1"'
    )
    target.run(["sh", "-ec", f"umask 022; {script}", "put", path], stdin=content)
    return True

"""What runs beside libvirt: programs that are sent along, and libvirt's hook made of them; a wrapper of virtiofsd."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pipelines.errors import VirtrootError
from pipelines.host.feed import Source
from pipelines.host.process import Completed, Overran
from pipelines.libvirt import wrappers
from pipelines.target import durable
from pipelines.target.payload import carry as carrying
from pipelines.target.payload import handover, layers, lengths, sizes, tree
from pipelines.target.payload import look as looking
from pipelines.target.payload import signs as searching
from pipelines.target.payload import sshd as reading
from pipelines.target.payload import survey as surveying
from pipelines.target.payload.carry import CopyPlan, Owners
from pipelines.target.target import Target
from pipelines.text import split_lines, trim

_PROGRAM = Path(handover.__file__)
_LAYERS = Path(layers.__file__)
_SIZES = Path(sizes.__file__)
_LENGTHS = Path(lengths.__file__)
_SURVEY = Path(surveying.__file__)
_CARRY = Path(carrying.__file__)
_LOOK = Path(looking.__file__)
_SIGNS = Path(searching.__file__)
_SSHD = Path(reading.__file__)

#: Where libvirt looks for hooks of QEMU domains; each file there is run.
HOOK = "/etc/libvirt/hooks/qemu.d/virtroot"

#: The wrapper of virtiofsd by the name that former versions gave guests with overlayfs; see `wrappers` for the others.
WRAPPER = wrappers.FORMER

_KEEP = """
umask 077
path=$1
shift
"$@" > "$path.partial"
sync "$path.partial"
mv -T -- "$path.partial" "$path"
sync "${path%/*}"
"""
#: Seconds that looking through a whole root may take: some ten million files.
_LOOKING_THROUGH = 1200

#: Seconds beyond its own time after which counting a root is given up.
_GRACE = 20

#: Seconds that reading some files of a guest's may take.
_READING = 60

#: Seconds that looking at libvirt's machine may take, and bytes that it may say.
_LOOKING, _SEEN = 300, 64 << 20


#: What imports the walker, and what stands there instead in a program that is sent.
_IMPORT = re.compile(r"^from pipelines\.target\.payload\.tree import .*\n", re.MULTILINE)


def _whole(program: Path) -> str:
    """Return the text of a program with the walker in it: a program is sent alone."""
    walker = Path(tree.__file__).read_text(encoding="utf-8")
    return _IMPORT.sub(lambda _: walker, program.read_text(encoding="utf-8"), count=1)


def hook() -> bytes:
    """Return libvirt's hook: a shell script with the programs in it that it runs."""
    script = _PROGRAM.with_name("hook").read_bytes()
    return script.replace(b"@LAYERS@\n", _LAYERS.read_bytes()).replace(b"@HANDOVER@\n", _PROGRAM.read_bytes())


def kernel_release(target: Target, directory: str) -> str:
    """Return the release of the kernel that was copied to ``directory``, like ``uname -r`` has it; empty if unknown."""
    return trim(run(target, "--release", f"{directory}/kernel").decode())


def run(target: Target, *arguments: str) -> bytes:
    """Run the hand-over program on ``target`` and return what it printed; raises `VirtrootError` when it refuses."""
    # Sent along, not installed: the program on the target is then always this version's. Isolated, so that no module
    # comes from the current directory, which may be a guest's.
    return _checked(target.run([target.python, "-I", "-", *arguments], stdin=_PROGRAM.read_bytes(), check=False))


def _within(target: Target, argv: Sequence[str], root: str, *, stdin: Source) -> Completed:
    """Run a program that looks at a whole ``root``; raises `VirtrootError` where it does not end in time.

    A guest decides how much there is to look at, and its lock is held, or it is off, meanwhile.
    """
    try:
        return target.run(argv, stdin=stdin, check=False, timeout=_LOOKING_THROUGH)
    except Overran as error:
        raise VirtrootError(
            f"{root} has so much in it that looking through it did not end within {_LOOKING_THROUGH // 60} minutes",
            "see what takes so many files with du --inodes, and delete it in the guest or let it lie in a share",
        ) from error


def _checked(done: Completed) -> bytes:
    if done.returncode:
        reason = done.complaint.rpartition("\n")[2].removeprefix("virtroot: ") or "no reason given"
        raise VirtrootError(
            f"refused to touch the guest's root: {reason}",
            "the path was made or changed inside the guest; look at it with ls -l, then mend it or remove the guest",
        )
    return done.stdout


def hand_over(target: Target, root: str, directory: str, kernel: str, initrd: str) -> None:
    """Copy ``kernel`` and ``initrd`` (paths inside ``root``) to ``directory`` on the target.

    ``initrd`` is empty where the guest has none.
    """
    run(target, "--hand-over", root, directory, kernel, *filter(None, [initrd]))


def write(target: Target, root: str, path: str, mode: int, content: str) -> None:
    """Write the file ``path`` in a guest's root, never through a link out of it."""
    run(target, "--write", root, path, f"{mode:o}", content)


def put(target: Target, root: str, path: str, mode: int, content: Source, *, over_files: bool = False) -> None:
    """Write ``content``, however long it is, as the file ``path`` in a guest's root, never through a link out of it.

    With ``over_files`` nothing but a file is replaced.
    """
    program = [target.python, "-I", "-c", _PROGRAM.read_text(encoding="utf-8")]
    command = "--put-over-files" if over_files else "--put"
    _checked(target.run([*program, command, root, path, f"{mode:o}"], stdin=content, check=False))


def read(target: Target, root: str, path: str, largest: int = handover.LARGEST_READ) -> bytes:
    """Return a file of a guest's root that has ``largest`` bytes at most."""
    return run(target, "--read", root, path, str(largest))


def read_if_there(target: Target, root: str, path: str, largest: int) -> bytes:
    """Return a file of a guest's root that has ``largest`` bytes at most; nothing where it is missing."""
    return run(target, "--read-if-there", root, path, str(largest))


def refuse_replaced(target: Target, root: str, path: str) -> None:
    """Raise `VirtrootError` where ``path`` is no directory of a guest's root, but a link or anything else."""
    run(target, "--refuse-replaced", root, path)


def exchange(target: Target, one: str, other: str) -> None:
    """Let two directories of the host's, on one file system, change their names with each other."""
    run(target, "--exchange", one, other)


def forget(target: Target, root: str, *paths: str) -> list[str]:
    """Delete files of a guest's root, and its ssh host keys; return those that stay behind a link that leads out."""
    return [path for path in split_lines(run(target, "--forget", root, *paths).decode(errors="replace")) if path]


def substitute(target: Target, root: str, old: str, new: str, paths: Iterable[str]) -> None:
    """Replace ``old`` by ``new`` in files of a guest's root, never through a link out of it."""
    run(target, "--substitute", root, old, new, *paths)


def sshd(target: Target, root: str) -> dict[str, Any]:
    """Return the sshd configuration and the public host keys in a guest's root; see `sshd.look`."""
    program = [target.python, "-I", "-c", _SSHD.read_text(encoding="utf-8"), root]
    done = target.run(program, stdin=_PROGRAM.read_bytes(), check=False, timeout=_READING)
    return cast("dict[str, Any]", json.loads(_checked(done)))


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
    # Each of them ends by itself in time, but where the disk does not answer.
    longest = (seconds + _GRACE) * len(roots)
    lines = split_lines(target.run(argv, timeout=longest, stdin=_whole(_SIZES).encode()).text)
    return [None if line == "-" else (int(line.split(" ")[0]), int(line.split(" ")[1])) for line in lines]


def refuse_too_long(target: Target, tree: str, *others: str) -> None:
    """Raise `VirtrootError` where cp cannot copy ``tree`` to one of ``others``, which are paths on the target.

    cp takes paths, and no path has more than 4095 bytes; a guest can nest directories deeper.
    """
    most = 4095 - max(len(path.encode(errors="surrogateescape")) + 1 for path in (tree, *others))
    argv = [target.python, "-I", "-", tree, str(most)]
    done = _within(target, argv, tree, stdin=_whole(_LENGTHS).encode())
    reason = done.complaint.rpartition("\n")[2].removeprefix("virtroot: ")
    if done.returncode == lengths.TOO_LONG:
        hint = "delete those directories in the guest, which rm -rf can, or move them up"
        raise VirtrootError(f"{tree} cannot be copied: {reason}", hint)
    if done.returncode:
        raise VirtrootError(f"cannot copy {tree}: {reason}", "see whether it is there, and run this again")


def put_file(target: Target, path: str, content: bytes, mode: int) -> None:
    """Write a file of the host's own in one step."""
    durable.put(target, path, content, mode)


def keep_survey(target: Target, root: str, since: int, path: str, what: str = "artifact") -> None:
    """Write to the file ``path``, for root alone, what is in ``root`` beside its packages' files; see `survey`.

    The root is ``what`` says: an ``artifact`` as it was made, or as it ``arrived`` at a guest.
    """
    argv = ["sh", "-ec", _KEEP, "keep", path, target.python, "-I", "-", root, str(since), what]
    _checked(_within(target, argv, root, stdin=_whole(_SURVEY).encode()))


def survey(target: Target, root: str, since: int, known: Iterable[str]) -> bytes:
    """Return what is in ``root`` beside its packages' files, as a compressed tar; see `survey`.

    ``since`` is in seconds of the epoch; ``known`` are the paths that were there then.
    """
    program = [target.python, "-I", "-c", _whole(_SURVEY)]
    given = json.dumps(sorted(known)).encode()
    return _checked(_within(target, [*program, root, str(since)], root, stdin=given))


def program() -> str:
    """Return the hand-over program, for scripts that run it."""
    return _PROGRAM.read_text(encoding="utf-8")


def owners(target: Target, root: str, other: str, trees: Iterable[str], foreign: Iterable[str] = ()) -> Owners:
    """Return whose what is in ``trees`` of a root is that is carried into an ``other``; see `carry.owners`."""
    asked = {"trees": list(trees), "foreign": list(foreign)}
    program = [target.python, "-I", "-c", _whole(_CARRY), "--owners", root, other]
    done = _within(target, program, root, stdin=json.dumps(asked).encode())
    return cast("Owners", json.loads(_checked(done)))


def carry(target: Target, root: str, other: str, plan: CopyPlan) -> None:
    """Carry what ``plan`` says from one root to another one; see `carry.carry`."""
    # However long it takes: most of it is copying.
    program = [target.python, "-I", "-c", _whole(_CARRY), "--carry", root, other]
    _checked(target.run(program, stdin=json.dumps(plan).encode(), check=False))


def look(target: Target, asked: Mapping[str, object]) -> dict[str, Any]:
    """Return what ``target`` has of what is ``asked``, changing nothing; see `look`.

    Raises `VirtrootError` where it cannot be looked at.
    """
    program = [target.python, "-I", "-c", _LOOK.read_text(encoding="utf-8")]
    programs = {"handover": _PROGRAM.read_text(encoding="utf-8"), "signs": _SIGNS.read_text(encoding="utf-8")}
    given = json.dumps({**asked, **programs}).encode()
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


def renew_hook(target: Target) -> None:
    """Put this version's hook in place of another version's; where there is none, none is made."""
    there = ["sh", "-c", '[ -e "$1" ] && ! cmp -s - "$1"', "there", HOOK]
    if target.run(there, stdin=hook(), check=False).returncode == 0:
        install_hook(target)


def install_wrapper(target: Target, path: str = "") -> None:
    """Write the wrapper of virtiofsd to ``path``, `WRAPPER` by default, where it is not this version's."""
    _put(target, path or WRAPPER, wrapper())


def _put(target: Target, path: str, content: bytes) -> bool:
    there = ["sh", "-c", '[ -x "$1" ] && cmp -s - "$1"', "there", path]
    if target.run(there, stdin=content, check=False).returncode == 0:
        return False
    # The input ends early if whoever sends it is killed.
    script = (
        'mkdir -p "${1%/*}"; partial=$(mktemp "${1%/*}/../.virtroot.XXXXXX"); '
        'cat > "$partial"; [ "$(stat --format=%s "$partial")" = "$2" ]; '
        'chmod 755 "$partial"; sync "$partial"; mv -T "$partial" "$1"; sync "${1%/*}"'
    )
    target.run(["sh", "-ec", f"umask 022; {script}", "put", path, str(len(content))], stdin=content)
    return True

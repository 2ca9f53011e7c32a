"""A plan's stages, carried out in a builder, each command logged with the time it took."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from pipelines.artifact import archive
from pipelines.artifact.manifest import StageTime
from pipelines.builder import hooks
from pipelines.builder.container import Builder
from pipelines.errors import Phase, VirtrootError
from pipelines.host import private
from pipelines.host.process import Completed
from pipelines.host.trees import Packed
from pipelines.log import step, warn
from pipelines.recipe.stage import ROOT, Command, Stage, Tree
from pipelines.text import plain, split_lines, trim

#: What the log's tail may say, and what to try then.
_HINTS = {
    "No space left on device": "the workspace is full: set virtroot.workspace to a larger tmpfs:SIZE or to disk",
    "required key missing from keyring": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    "unknown trust": "name the file of the keys that sign this mirror's packages: mirror: keyring:",
    ".sig'": "the mirror has packages without a signature: use another one, or siglevel: never to trust it blindly",
    "(PGP signature)": "the package was changed after it was signed; use another mirror",
}

#: What a download that failed says in the log's tail: apt, debootstrap, pacman, curl.
_NOT_FETCHED = (
    "Failed to fetch",
    "Unable to fetch",
    "Couldn't download",
    "Failed getting release",
    "failed retrieving file",
    "failed to synchronize",
    "Could not resolve",
    "Temporary failure resolving",
    "Hash Sum mismatch",
)

#: What says that a maintainer script or a hook failed: dpkg, pacman, mkinitcpio.
_FAILURE = re.compile(
    r"dpkg: error processing|returned error(?: exit status|:)|^error: command \(.*\) failed|^error: command failed"
    r"|call to execv failed|^==> ERROR|^run-parts: .* (?:exited with|failed)|^update-initramfs: failed"
)

#: How many lines of a log's end are shown, how many before a failure, and how many characters of each.
_LAST, _BEFORE, _WIDTH = 20, 10, 500

#: How much of a stage's log is searched for hooks that failed.
_SEARCHED = 16 << 20

#: What says nothing of a failure: the time that a command took, and how far dpkg is.
_NOISE = re.compile(r"= \d+\.\d{3} s|\(Reading database \.\.\. (?:\d+%)?")

#: A log of more bytes would only fill the disk.
_LOG_LIMIT = 256 << 20

#: How much of a log's end is looked at: what wrote it may have written without end.
_TAIL = 64 << 10

# Each command's number of arguments, then these. One call of the engine for all of them: it takes longer than most of
# the commands. They do not get its standard output, which says in the end which of them failed.
_RUN = r"""
for ((number = 0; $#; number++)); do
    count=$1 begin=${EPOCHREALTIME/[.,]/}; shift
    printf '$ %s\n' "${*:1:count}" >&2
    "${@:1:count}" >&2; status=$?
    took=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
    printf '= %d.%03d s\n' $((took / 1000)) $((took % 1000)) >&2
    [ "$status" = 0 ] || { echo "$number"; exit "$status"; }
    shift "$count"
done
"""


#: Makes a container of a builder's root, see `contained`.
Contain = Callable[[Builder], AbstractContextManager[Builder]]


class StageRunner:
    """Carries stages out and keeps their times; the builder is told with each, since it may be another one."""

    def __init__(self, trees: Mapping[Tree, Packed], log: Path, failed_log: Path, contain: Contain) -> None:
        self.times: list[StageTime] = []
        self._trees, self._log, self._failed_log, self._contain = trees, log, failed_log, contain

    def run(self, stage: Stage, builder: Builder) -> None:
        """Carry out the steps of ``stage``; the caller has `logged` begun."""
        begin = self._log.stat().st_size if self._log.exists() else 0
        for (is_tree, is_contained), group in itertools.groupby(stage.steps, _way):
            steps = list(group)
            if is_tree:
                for tree in steps:
                    self._copy(tree, builder)  # type: ignore[arg-type] # groupby does not narrow
            elif is_contained:
                with self._contain(builder) as container:
                    self._commands(steps, container)  # type: ignore[arg-type]
            else:
                self._commands(steps, builder)  # type: ignore[arg-type]
        self._check_hooks(stage, begin)

    def _check_hooks(self, stage: Stage, begin: int) -> None:
        """Raise `StepFailed` where a hook failed without which a guest does not boot, and warn of others.

        In a foreign stage, whose commands have no /proc, it is a warning, too: what they need to boot is made later, or
        was made before, and the inspection looks at that.
        """
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(max(begin, self._log.stat().st_size - _SEARCHED))
            failed = hooks.failed(log.read().decode(errors="replace"))
        for hook in failed:
            if hooks.makes_a_root_boot(hook) and not stage.foreign:
                raise HookFailed(hook)
            warn(f"stage {stage.name}: the hook {hook!r} failed, and pacman went on; the log has its words")

    def _commands(self, commands: Sequence[Command], builder: Builder) -> None:
        words: list[str] = []
        for command in commands:
            env = [f"{key}={value}" for key, value in command.env]
            argv = [*(["env", *env] if env else []), *command.full_argv]
            words += [str(len(argv)), *argv]
        done = self._logging(builder, ["bash", "-c", _RUN, "run", *words])
        if done.returncode:
            if not done.text.isdigit():
                raise VirtrootError(
                    f"the builder ended ({done.returncode}) and left one of {len(commands)} commands unfinished",
                    "see whether the machine ran out of memory, and who removed the container; then run it again",
                    where=Phase.ENGINE,
                )
            raise StepFailed(commands[min(int(done.text), len(commands) - 1)].argv, done.returncode)

    def restore(self, builder: Builder, packed: IO[bytes]) -> None:
        """Unpack a kept root; raises `StepFailed`, or `VirtrootError` where it cannot be read."""
        unpack = archive.unpack_argv(ROOT)
        done = self._logging(builder, unpack, stdin=packed)
        if done.returncode:
            raise StepFailed(unpack, done.returncode)

    def _logging(self, builder: Builder, argv: Sequence[str], *, stdin: IO[bytes] | None = None) -> Completed:
        """Run ``argv``, with what it says on standard error in the log."""
        with private.append(self._log) as log:

            def keep(chunk: bytes) -> None:
                if log.tell() > _LOG_LIMIT:
                    raise VirtrootError(
                        f"a command prints without end: {self._log} has {_LOG_LIMIT >> 20} MiB",
                        "let the recipe's commands print less",
                        where=Phase.BUILD,
                    )
                log.write(chunk)

            return builder.run(argv, stdin=stdin, check=False, stderr=keep)

    def _copy(self, tree: Tree, builder: Builder) -> None:
        # The root's own tar, inside the root: a link like /var/run -> /run then means the root's /run.
        unpack = ("tar", "--extract", "--file=-", "--directory=/", "--keep-directory-symlink", "--no-same-owner",
                  "--no-overwrite-dir", "--touch")  # fmt: skip
        builder.run(("chroot", ROOT, *unpack), stdin=self._trees[tree].open())

    @contextmanager
    def logged(self, name: str, *, cached: bool = False, where: Phase = Phase.BUILD) -> Iterator[None]:
        """Time a part of the build; where a step of it fails, say which and show the log's tail."""
        label = f"{name} (from the cache)" if cached else name
        with private.append(self._log) as line:
            line.write(f"== {label}\n".encode())
        begin = time.monotonic()
        try:
            with step(label):
                yield
        except StepFailed as failure:
            tail = self._tail()
            found = (better for evidence, better in _HINTS.items() if any(evidence in line for line in tail))
            hint = next(found, f"read {self._failed_log}")
            fetched = not any(evidence in line for line in tail for evidence in _NOT_FETCHED)
            raise VirtrootError(
                f"stage {name}: {failure}", hint, "\n".join(tail), where=where if fetched else Phase.MIRROR
            ) from failure
        except VirtrootError as error:
            error.where = error.where or where
            raise
        self.times.append(StageTime(name=name, seconds=round(time.monotonic() - begin, 3), cached=cached))

    def _tail(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _TAIL))
            return telling(log.read().decode(errors="replace"))


def telling(log: str) -> list[str]:
    """Return the lines of a log that say why its last part failed: its end, and the first failure before that.

    A package manager goes on after a script has failed: what it does then may push the reason out of the end.
    """
    lines = [line[:_WIDTH] for line in split_lines(plain(log)) if trim(line) and not _NOISE.fullmatch(line)]
    begin = max((number for number, line in enumerate(lines) if line.startswith("== ")), default=-1) + 1
    lines = lines[begin:]
    end = max(0, len(lines) - _LAST)
    first = next((number for number, line in enumerate(lines[:end]) if _FAILURE.search(line)), None)
    if first is None:
        return lines[end:]
    reason = lines[max(0, first - _BEFORE) : min(first + 2, end)]
    return [*reason, *(["[...]"] if first + 2 < end else []), *lines[end:]]


def complaint(log: Path) -> str:
    """Return the last line of the log in which apt or pacman says what failed; empty where there is none."""
    with log.open("rb") as content:
        content.seek(max(0, log.stat().st_size - _TAIL))
        lines = split_lines(plain(content.read().decode(errors="replace")))
    return next((line[:_WIDTH] for line in reversed(lines) if line.startswith(("E: ", "error: "))), "")


def _way(step: Command | Tree) -> tuple[bool, bool]:
    return isinstance(step, Tree), isinstance(step, Command) and step.contained


class StepFailed(Exception):
    """A command of a stage failed."""

    def __init__(self, argv: Sequence[str], status: int) -> None:
        super().__init__(f"{argv[0].rpartition('/')[2]} exited with {status}")


class HookFailed(StepFailed):
    """A hook of pacman failed, which went on and exited with 0."""

    def __init__(self, hook: str) -> None:
        Exception.__init__(self, f"the hook {hook!r} failed, though pacman went on: the root would not boot")

"""Runs a plan's stages in a builder, and logs each command with its duration."""

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

#: Texts in the end of the log, and the hint for each.
_HINTS = {
    "No space left on device": "the workspace is full: set virtroot.workspace to a larger tmpfs:SIZE or to disk",
    "required key missing from keyring": "set mirror: keyring: to a file with the keys of this mirror's packages",
    "unknown trust": "set mirror: keyring: to a file with the keys of this mirror's packages",
    ".sig'": "the mirror has unsigned packages: use another one, or siglevel: never to disable the check",
    "(PGP signature)": "the package was changed after it was signed; use another mirror",
}

#: Texts in the end of the log that mean a failed download: of apt, debootstrap, pacman, curl.
_DOWNLOAD_FAILURES = (
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

#: Lines that mean a failed maintainer script or hook: of dpkg, pacman, mkinitcpio.
_FAILURE = re.compile(
    r"dpkg: error processing|returned error(?: exit status|:)|^error: command \(.*\) failed|^error: command failed"
    r"|call to execv failed|^==> ERROR|^run-parts: .* (?:exited with|failed)|^update-initramfs: failed"
)

#: The number of lines to show from the end of a log, the number in front of a failure, and the characters per line.
_LAST_LINES, _LINES_BEFORE, _MAX_COLUMNS = 20, 10, 500

#: How many bytes of a stage's log are searched for failed hooks.
_MAX_SEARCHED = 16 << 20

#: Lines without information about a failure: the duration of a command, and dpkg's progress.
_NOISE = re.compile(r"= \d+\.\d{3} s|\(Reading database \.\.\. (?:\d+%)?")

#: The maximum size of a log in bytes; a longer one would only fill the disk.
_LOG_LIMIT = 256 << 20

#: How many bytes of a log's end are read, since a log may be very long.
_MAX_TAIL = 64 << 10

# Takes, for each command, its number of arguments and the arguments. All commands are one call of the engine, because
# a call takes longer than most commands. Commands write to stderr; stdout is the index of the command that failed.
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


#: Runs a container made from a builder's root, see `root_container.run_container`.
Contain = Callable[[Builder], AbstractContextManager[Builder]]


class StageRunner:
    """Runs stages and records their durations. Each call takes the builder, since stages may run in different ones."""

    def __init__(self, trees: Mapping[Tree, Packed], log: Path, failed_log: Path, contain: Contain) -> None:
        self.times: list[StageTime] = []
        self._trees, self._log, self._failed_log, self._contain = trees, log, failed_log, contain

    def run(self, stage: Stage, builder: Builder) -> None:
        """Run the steps of ``stage``; the caller has entered `log_stage`."""
        begin = self._log.stat().st_size if self._log.exists() else 0
        for (is_tree, is_contained), group in itertools.groupby(stage.steps, _get_kind):
            steps = list(group)
            if is_tree:
                for tree in steps:
                    self._copy_tree(tree, builder)  # type: ignore[arg-type] # groupby does not narrow
            elif is_contained:
                with self._contain(builder) as container:
                    self._run_commands(steps, container)  # type: ignore[arg-type]
            else:
                self._run_commands(steps, builder)  # type: ignore[arg-type]
        self._check_hooks(stage, begin)

    def _check_hooks(self, stage: Stage, begin: int) -> None:
        """Raise StepFailed if a hook failed that a guest needs to boot, and warn about other failed hooks.

        In a foreign stage it is only a warning: its commands have no /proc. The files for booting are generated before
        or after it, and the inspection checks them.
        """
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(max(begin, self._log.stat().st_size - _MAX_SEARCHED))
            failed = hooks.find_failed(log.read().decode(errors="replace"))
        for hook in failed:
            if hooks.is_needed_to_boot(hook) and not stage.foreign:
                raise HookFailed(hook)
            warn(f"stage {stage.name}: hook {hook!r} failed and pacman continued; see the log for its output")

    def _run_commands(self, commands: Sequence[Command], builder: Builder) -> None:
        words: list[str] = []
        for command in commands:
            env = [f"{key}={value}" for key, value in command.env]
            argv = [*(["env", *env] if env else []), *command.full_argv]
            words += [str(len(argv)), *argv]
        done = self._run_logged(builder, ["bash", "-c", _RUN, "run", *words])
        if done.returncode:
            if not done.text.isdigit():
                raise VirtrootError(
                    f"the builder ended with {done.returncode} during one of {len(commands)} commands",
                    "check whether the machine ran out of memory or the container was removed; then run it again",
                    where=Phase.ENGINE,
                )
            raise StepFailed(commands[min(int(done.text), len(commands) - 1)].argv, done.returncode)

    def restore(self, builder: Builder, packed: IO[bytes]) -> None:
        """Unpack a cached root. Raises StepFailed, or VirtrootError if ``packed`` cannot be read."""
        unpack = archive.unpack_argv(ROOT)
        done = self._run_logged(builder, unpack, stdin=packed)
        if done.returncode:
            raise StepFailed(unpack, done.returncode)

    def _run_logged(self, builder: Builder, argv: Sequence[str], *, stdin: IO[bytes] | None = None) -> Completed:
        """Run ``argv`` with its stderr in the log."""
        with private.append(self._log) as log:

            def keep(chunk: bytes) -> None:
                if log.tell() > _LOG_LIMIT:
                    raise VirtrootError(
                        f"{self._log}: a command printed more than {_LOG_LIMIT >> 20} MiB",
                        "make the recipe's commands print less",
                        where=Phase.BUILD,
                    )
                log.write(chunk)

            return builder.run(argv, stdin=stdin, check=False, stderr=keep)

    def _copy_tree(self, tree: Tree, builder: Builder) -> None:
        # Run the root's tar in a chroot: a link like /var/run -> /run then means the root's /run.
        unpack = ("tar", "--extract", "--file=-", "--directory=/", "--keep-directory-symlink", "--no-same-owner",
                  "--no-overwrite-dir", "--touch")  # fmt: skip
        builder.run(("chroot", ROOT, *unpack), stdin=self._trees[tree].open())

    @contextmanager
    def log_stage(self, name: str, *, cached: bool = False, where: Phase = Phase.BUILD) -> Iterator[None]:
        """Time a part of the build and log its name. Raises VirtrootError with the end of the log if a step fails."""
        label = f"{name} (from the cache)" if cached else name
        with private.append(self._log) as line:
            line.write(f"== {label}\n".encode())
        begin = time.monotonic()
        try:
            with step(label):
                yield
        except StepFailed as failure:
            tail = self._read_tail()
            found = (better for evidence, better in _HINTS.items() if any(evidence in line for line in tail))
            hint = next(found, f"read {self._failed_log}")
            fetched = not any(evidence in line for line in tail for evidence in _DOWNLOAD_FAILURES)
            raise VirtrootError(
                f"stage {name}: {failure}", hint, "\n".join(tail), where=where if fetched else Phase.MIRROR
            ) from failure
        except VirtrootError as error:
            error.where = error.where or where
            raise
        self.times.append(StageTime(name=name, seconds=round(time.monotonic() - begin, 3), cached=cached))

    def _read_tail(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _MAX_TAIL))
            return find_reason(log.read().decode(errors="replace"))


def find_reason(log: str) -> list[str]:
    """Return the lines of a log that explain why its last part failed: its end, and the first failure before that.

    A package manager continues after a failed script, so the reason may be far from the end.
    """
    lines = [line[:_MAX_COLUMNS] for line in split_lines(plain(log)) if trim(line) and not _NOISE.fullmatch(line)]
    begin = max((number for number, line in enumerate(lines) if line.startswith("== ")), default=-1) + 1
    lines = lines[begin:]
    end = max(0, len(lines) - _LAST_LINES)
    first = next((number for number, line in enumerate(lines[:end]) if _FAILURE.search(line)), None)
    if first is None:
        return lines[end:]
    reason = lines[max(0, first - _LINES_BEFORE) : min(first + 2, end)]
    return [*reason, *(["[...]"] if first + 2 < end else []), *lines[end:]]


def find_error(log: Path) -> str:
    """Return the last line of the log with an error of apt or pacman; empty if there is none."""
    with log.open("rb") as content:
        content.seek(max(0, log.stat().st_size - _MAX_TAIL))
        lines = split_lines(plain(content.read().decode(errors="replace")))
    return next((line[:_MAX_COLUMNS] for line in reversed(lines) if line.startswith(("E: ", "error: "))), "")


def _get_kind(step: Command | Tree) -> tuple[bool, bool]:
    return isinstance(step, Tree), isinstance(step, Command) and step.contained


class StepFailed(Exception):
    """A command of a stage failed."""

    def __init__(self, argv: Sequence[str], status: int) -> None:
        super().__init__(f"{argv[0].rpartition('/')[2]} exited with {status}")


class HookFailed(StepFailed):
    """A hook of pacman failed, and pacman continued and exited with 0."""

    def __init__(self, hook: str) -> None:
        Exception.__init__(self, f"hook {hook!r} failed and pacman continued; the root would not boot")

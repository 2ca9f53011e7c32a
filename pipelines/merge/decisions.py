"""What a guest's user told the package manager, and the new root's does not know: carried over, or to be said again.

The database of the new root says what is in it, so it stays. Of the guest's only what is said about a package counts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from pipelines.merge import paths, policy
from pipelines.merge.baselines import Survey
from pipelines.text import split_fields

#: A command, and why it is to be run, in words.
Command = tuple[str, str]

_TAKEN_BACK = "taken back in the guest"

_IGNORED = re.compile(rb"^[ \t]*IgnorePkg[ \t]*=(.*)$", re.MULTILINE)


def selections(base: Survey, ours: Survey, theirs: Survey) -> dict[str, str]:
    """Return what is to be said of packages of the new root: hold, or install where that was taken back."""
    then, mine, new = (_told(survey, "selections") for survey in (base, ours, theirs))
    names = {each.name for each in theirs.packages}
    found = {name: mine.get(name, "install") for name in {*then, *mine} & names}
    return {
        name: wanted
        for name, wanted in sorted(found.items())
        if wanted not in (then.get(name, "install"), new.get(name, "install")) and wanted in ("hold", "install")
    }


def held(ours: Survey, theirs: Survey) -> list[str]:
    """Return in words which packages the guest holds, and the new root has in another version, or not at all."""
    holds = {name for name, wanted in _told(ours, "selections").items() if wanted == "hold"}
    for line in _IGNORED.findall(ours.contents.get("etc/pacman.conf", b"")):
        holds |= {*split_fields(line.decode(errors="replace"))}
    then, now = ({each.name: each.version for each in survey.packages} for survey in (ours, theirs))
    return [
        f"{name} {then[name]} -> {now.get(name, 'not there')}"
        for name in sorted(holds & {*then})
        if then[name] != now.get(name)
    ]


def commands(base: Survey, ours: Survey, theirs: Survey, kept: Iterable[str]) -> list[Command]:
    """Return the commands that tell the new root's package manager what the guest's was told; ``kept`` are paths."""
    return [
        *_architectures(base, ours, theirs),
        *_absent_holds(base, ours),
        *_marks(base, ours, theirs, "automatic", ("apt-mark auto", "apt-mark manual")),
        *_marks(base, ours, theirs, "dependencies", ("pacman -D --asdeps", "pacman -D --asexplicit")),
        *_diversions(base, ours, theirs, [*kept]),
        *_overrides(base, ours, theirs),
        *_answers(base, ours, theirs),
    ]


def alternatives(chosen: Iterable[str], ours: Survey, theirs: Survey) -> Iterator[Command]:
    """Yield the commands that choose alternatives again: ``chosen`` are the guest's links to files of packages."""
    names = {each.name for each in theirs.packages}
    for path in chosen:
        entry = ours.etc.get(path)
        # A page of the manual follows its program.
        if entry is None or entry.to not in names or entry.content.startswith("/usr/share/man/"):
            continue
        command = shlex.join(["update-alternatives", "--set", path.rpartition("/")[2], entry.content])
        yield command, "the guest chose that"


def _told(survey: Survey, kind: str) -> Mapping[str, str]:
    return (survey.decisions or {}).get(kind, {})


def _new(base: Survey, ours: Survey, theirs: Survey, kind: str) -> dict[str, str]:
    """Return what the guest was told, was not made with, and the new root does not know."""
    then, mine, new = (_told(survey, kind) for survey in (base, ours, theirs))
    return {each: what for each, what in sorted(mine.items()) if what not in (then.get(each), new.get(each))}


def _taken_back(base: Survey, ours: Survey, theirs: Survey, kind: str) -> list[str]:
    """Return what the guest was made with and does not have any more, and the new root has."""
    then, mine, new = (_told(survey, kind) for survey in (base, ours, theirs))
    return sorted(({*then} - {*mine}) & {*new})


def _architectures(base: Survey, ours: Survey, theirs: Survey) -> Iterator[Command]:
    for name in _new(base, ours, theirs, "architectures"):
        yield shlex.join(["dpkg", "--add-architecture", name]), "the guest has it"
    for name in _taken_back(base, ours, theirs, "architectures"):
        yield shlex.join(["dpkg", "--remove-architecture", name]), _TAKEN_BACK


def _absent_holds(base: Survey, ours: Survey) -> Iterator[Command]:
    """Yield what keeps packages from being installed."""
    names = {each.name for each in ours.packages}
    then = _told(base, "selections")
    held = [name for name, wanted in _told(ours, "selections").items() if wanted == "hold" and name not in names]
    if new := sorted(name for name in held if then.get(name) != "hold"):
        yield shlex.join(["apt-mark", "hold", *new]), "held in the guest, which does not have it"


def _marks(base: Survey, ours: Survey, theirs: Survey, kind: str, words: tuple[str, str]) -> Iterator[Command]:
    """Yield what marks packages that are in both roots as the guest's user did."""
    if base.decisions is None:
        return
    then, mine, new = ({*_told(survey, kind)} for survey in (base, ours, theirs))
    both = {each.name for each in ours.packages} & {each.name for each in theirs.packages}
    both &= {each.name for each in base.packages}
    for word, names in zip(words, ((mine - then) - new, (then - mine) & new), strict=True):
        if names & both:
            yield f"{word} {shlex.join(sorted(names & both))}", "marked so in the guest"


def _diversions(base: Survey, ours: Survey, theirs: Survey, kept: list[str]) -> Iterator[Command]:
    for path, away in _new(base, ours, theirs, "diversions").items():
        # A file of the guest's is in its place already where that is kept.
        how = "--no-rename" if paths.below(path.strip("/"), kept) else "--rename"
        yield shlex.join(["dpkg-divert", "--local", how, "--divert", away, "--add", path]), "diverted in the guest"
    for path in _taken_back(base, ours, theirs, "diversions"):
        yield shlex.join(["dpkg-divert", "--local", "--rename", "--remove", path]), _TAKEN_BACK


def _overrides(base: Survey, ours: Survey, theirs: Survey) -> Iterator[Command]:
    for path, rights in _new(base, ours, theirs, "overrides").items():
        force = ["--force-statoverride-add"] if path in _told(theirs, "overrides") else []
        argv = ["dpkg-statoverride", *force, "--update", "--add", *rights.split(" "), f"/{path}"]
        yield shlex.join(argv), "its owner and mode are the guest's"
    for path in _taken_back(base, ours, theirs, "overrides"):
        yield shlex.join(["dpkg-statoverride", "--remove", f"/{path}"]), _TAKEN_BACK


def _answers(base: Survey, ours: Survey, theirs: Survey) -> Iterator[Command]:
    if base.decisions is None:
        return
    names = {each.name for each in theirs.packages} & {each.name for each in base.packages}
    packages = {each.partition(" ")[0] for each in _new(base, ours, theirs, "answers")}
    if packages & names:
        yield f"dpkg-reconfigure {shlex.join(sorted(packages & names))}", "its questions were answered otherwise"


def made_again(own: Iterable[str], kept: Iterable[str]) -> Iterator[Command]:
    """Yield what makes something from files of /etc that are the guest's ``own``, and of what is ``kept``."""
    own, kept = [*own], [*kept]

    def is_own(path: str) -> bool:
        return any(_is_in(each, path) for each in own)

    def is_kept(path: str) -> bool:
        return paths.below(path, kept) or any(paths.below(each, [path]) for each in kept)

    for command, rules in policy.commands().items():
        if any(is_own(rule.path) if rule.path.startswith("etc/") else is_kept(rule.path) for rule in rules):
            yield command


def _is_in(path: str, pattern: str) -> bool:
    """Say whether ``path`` is that of a rule, or below it."""
    return re.fullmatch(f"{policy.regex(pattern)}(/.*)?", path, re.DOTALL) is not None

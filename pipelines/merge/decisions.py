"""Decisions that a guest's user told the package manager, such as holds and marks, and what becomes of them.

The database of the new root says what is in that root, so it stays. Of the guest's database only the decisions count:
some are written into the new one, and for the others a command is named.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from pipelines.merge import paths, policy
from pipelines.merge.baselines import Inventory
from pipelines.text import split_fields

#: A command, and why it is to be run.
Command = tuple[str, str]

_TAKEN_BACK = "taken back in the guest"

_IGNORED = re.compile(rb"^[ \t]*IgnorePkg[ \t]*=(.*)$", re.MULTILINE)


def merge_selections(base: Inventory, ours: Inventory, theirs: Inventory) -> dict[str, str]:
    """Return what dpkg is to want of packages of the new root: hold, or install where a hold was taken back."""
    then, mine, new = (_select(inventory, "selections") for inventory in (base, ours, theirs))
    names = {each.name for each in theirs.packages}
    found = {name: mine.get(name, "install") for name in {*then, *mine} & names}
    return {
        name: wanted
        for name, wanted in sorted(found.items())
        if wanted not in (then.get(name, "install"), new.get(name, "install")) and wanted in ("hold", "install")
    }


def describe_holds(ours: Inventory, theirs: Inventory) -> list[str]:
    """Return which packages the guest holds that have another version in the new root, or are not in it."""
    holds = {name for name, wanted in _select(ours, "selections").items() if wanted == "hold"}
    for line in _IGNORED.findall(ours.contents.get("etc/pacman.conf", b"")):
        holds |= {*split_fields(line.decode(errors="replace"))}
    then, now = ({each.name: each.version for each in inventory.packages} for inventory in (ours, theirs))
    return [
        f"{name} {then[name]} -> {now.get(name, 'not there')}"
        for name in sorted(holds & {*then})
        if then[name] != now.get(name)
    ]


def list_commands(base: Inventory, ours: Inventory, theirs: Inventory, kept: Iterable[str]) -> list[Command]:
    """Return the commands that repeat the guest's decisions in the new root; ``kept`` are the paths that are kept."""
    return [
        *_list_architectures(base, ours, theirs),
        *_list_absent_holds(base, ours),
        *_list_marks(base, ours, theirs, "automatic", ("apt-mark auto", "apt-mark manual")),
        *_list_marks(base, ours, theirs, "dependencies", ("pacman -D --asdeps", "pacman -D --asexplicit")),
        *_list_diversions(base, ours, theirs, [*kept]),
        *_list_overrides(base, ours, theirs),
        *_list_answers(base, ours, theirs),
    ]


def list_alternatives(chosen: Iterable[str], ours: Inventory, theirs: Inventory) -> Iterator[Command]:
    """Yield the commands that choose alternatives again.

    ``chosen`` are the paths of the guest's links to files of packages.
    """
    names = {each.name for each in theirs.packages}
    for path in chosen:
        entry = ours.etc.get(path)
        # update-alternatives changes the link of a manual page together with that of its program.
        if entry is None or entry.to not in names or entry.content.startswith("/usr/share/man/"):
            continue
        command = shlex.join(["update-alternatives", "--set", path.rpartition("/")[2], entry.content])
        yield command, "the guest chose that"


def _select(inventory: Inventory, kind: str) -> Mapping[str, str]:
    """Return the decisions of one kind; none where the record is of an earlier version."""
    return (inventory.decisions or {}).get(kind, {})


def _select_new(base: Inventory, ours: Inventory, theirs: Inventory, kind: str) -> dict[str, str]:
    """Return the decisions that the guest has, and neither its baseline nor the new root."""
    then, mine, new = (_select(inventory, kind) for inventory in (base, ours, theirs))
    return {each: what for each, what in sorted(mine.items()) if what not in (then.get(each), new.get(each))}


def _select_taken_back(base: Inventory, ours: Inventory, theirs: Inventory, kind: str) -> list[str]:
    """Return the decisions of the baseline and the new root that the guest does not have any more."""
    then, mine, new = (_select(inventory, kind) for inventory in (base, ours, theirs))
    return sorted(({*then} - {*mine}) & {*new})


def _list_architectures(base: Inventory, ours: Inventory, theirs: Inventory) -> Iterator[Command]:
    """Yield the commands for foreign architectures."""
    for name in _select_new(base, ours, theirs, "architectures"):
        yield shlex.join(["dpkg", "--add-architecture", name]), "the guest has it"
    for name in _select_taken_back(base, ours, theirs, "architectures"):
        yield shlex.join(["dpkg", "--remove-architecture", name]), _TAKEN_BACK


def _list_absent_holds(base: Inventory, ours: Inventory) -> Iterator[Command]:
    """Yield the command for holds on packages that are not installed, which keep them from being installed."""
    names = {each.name for each in ours.packages}
    then = _select(base, "selections")
    held = [name for name, wanted in _select(ours, "selections").items() if wanted == "hold" and name not in names]
    if new := sorted(name for name in held if then.get(name) != "hold"):
        yield shlex.join(["apt-mark", "hold", *new]), "held in the guest, which does not have it"


def _list_marks(
    base: Inventory, ours: Inventory, theirs: Inventory, kind: str, words: tuple[str, str]
) -> Iterator[Command]:
    """Yield the commands that mark packages of both roots as the guest's user did."""
    if base.decisions is None:
        return
    then, mine, new = ({*_select(inventory, kind)} for inventory in (base, ours, theirs))
    common = {each.name for each in ours.packages} & {each.name for each in theirs.packages}
    common &= {each.name for each in base.packages}
    for word, names in zip(words, ((mine - then) - new, (then - mine) & new), strict=True):
        if names & common:
            yield f"{word} {shlex.join(sorted(names & common))}", "marked so in the guest"


def _list_diversions(base: Inventory, ours: Inventory, theirs: Inventory, kept: list[str]) -> Iterator[Command]:
    """Yield the commands for local diversions."""
    for path, away in _select_new(base, ours, theirs, "diversions").items():
        # If the path is kept, the guest's own file is there already. dpkg-divert would move it away with --rename.
        how = "--no-rename" if paths.is_below(path.strip("/"), kept) else "--rename"
        yield shlex.join(["dpkg-divert", "--local", how, "--divert", away, "--add", path]), "diverted in the guest"
    for path in _select_taken_back(base, ours, theirs, "diversions"):
        yield shlex.join(["dpkg-divert", "--local", "--rename", "--remove", path]), _TAKEN_BACK


def _list_overrides(base: Inventory, ours: Inventory, theirs: Inventory) -> Iterator[Command]:
    """Yield the commands for owners and modes that dpkg-statoverride set."""
    for path, rights in _select_new(base, ours, theirs, "overrides").items():
        force = ["--force-statoverride-add"] if path in _select(theirs, "overrides") else []
        argv = ["dpkg-statoverride", *force, "--update", "--add", *rights.split(" "), f"/{path}"]
        yield shlex.join(argv), "its owner and mode are the guest's"
    for path in _select_taken_back(base, ours, theirs, "overrides"):
        yield shlex.join(["dpkg-statoverride", "--remove", f"/{path}"]), _TAKEN_BACK


def _list_answers(base: Inventory, ours: Inventory, theirs: Inventory) -> Iterator[Command]:
    """Yield the command for packages whose questions of debconf were answered differently."""
    if base.decisions is None:
        return
    names = {each.name for each in theirs.packages} & {each.name for each in base.packages}
    packages = {each.partition(" ")[0] for each in _select_new(base, ours, theirs, "answers")}
    if packages & names:
        yield f"dpkg-reconfigure {shlex.join(sorted(packages & names))}", "its questions were answered otherwise"


def list_generators(own: Iterable[str], kept: Iterable[str]) -> Iterator[Command]:
    """Yield the commands that generate files from what is kept.

    ``own`` are the paths of /etc at which the guest's version is kept, ``kept`` the other kept paths.
    """
    own, kept = [*own], [*kept]

    def is_own(path: str) -> bool:
        return any(_is_at_or_below(each, path) for each in own)

    def is_kept(path: str) -> bool:
        return paths.is_below(path, kept) or any(paths.is_below(each, [path]) for each in kept)

    for command, rules in policy.group_by_command().items():
        if any(is_own(rule.path) if rule.path.startswith("etc/") else is_kept(rule.path) for rule in rules):
            yield command


def _is_at_or_below(path: str, pattern: str) -> bool:
    """Say whether ``path`` fits the path of a rule, or is below one that does."""
    return re.fullmatch(f"{policy.to_regex(pattern)}(/.*)?", path, re.DOTALL) is not None

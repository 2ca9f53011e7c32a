"""The book's page about what survives an upgrade, a clone and a snapshot, written from the table of rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.merge.policy import RULES, Clone, Rule, Upgrade

_HEAD = """\
# What survives an upgrade, a clone and a snapshot

The rules for the paths of a guest's root. This page is written from the code by `./inv reference --page survives`.

| command | what becomes of the root |
|---|---|
| `upgrade` | The guest gets a new root. The sections below say what it takes along; [upgrade](upgrade.md) explains it |
| `rollback` | The guest gets its previous root, as it was |
| `rollback --carry` | The guest gets a copy of its previous root, with what it wrote since, by the rules of an upgrade |
| `clone` | All is copied, except for what the column *clone* says. Where packages wrote the host name into `/etc`, the clone's is written |
| `snapshot` | All is kept |
| `restore` | All is put back; `/etc/fstab` gets the lines of the shares that the guest has now |
| `diff` | Shows what the guest changed, except for what the column *diff* says |

`*` stands for any characters within one name, `**` for any characters, `{a,b}` for one of several. Any other path is a
file, or a directory with all that is in it. Where several paths fit, the most specific one decides.
"""  # noqa: E501 - a row of a table is one line

#: What an upgrade does with the paths of a section.
_EXPLAINED = {
    Upgrade.COPY: "The guest's files are copied. What the guest never changed since its root was built is taken from "
    "the new root. What the new root has in addition stays, and what the guest deleted is deleted.",
    Upgrade.ACCOUNTS: "The names of both roots are kept, with the numbers of the new root. Files follow their owner's "
    "name.",
    Upgrade.IDENTITY: "They identify the guest, and a clone has its own. What a clone could not generate again stays "
    "the source's, with a warning. Files of the recipe's overlay stay, too.",
    Upgrade.MERGE: "Merged three ways, file by file, against the root as it was built. Where both sides changed the "
    "same lines, you decide: `--take old` or `--take new`. After an upgrade that kept the guest's version, the command "
    "in the column *run* is named.",
    Upgrade.MERGE_OR_COPY: "Merged like the rest of `/etc`. The guest's file is copied where it has only lines of "
    "virtroot.",
    Upgrade.MERGE_AND_WRITE: "Merged like the rest of `/etc`; then virtroot writes its lines again.",
    Upgrade.ALTERNATIVES: "The new root's links stay, and the command is named that chooses the guest's alternative. "
    "A link to a file that no package has is copied.",
    Upgrade.ASK: "`--keep` or `--discard`, for these paths and for all that this page does not name. Deleted files of "
    "packages, and changed owners and modes, are the package's again.",
    Upgrade.ASK_WHOLE: "As above, for each directory in it; what is kept takes the place of all that the new root has "
    "there.",
    Upgrade.ASK_SYSTEM: "As above; what is kept takes the place of all that the new root has there, and the numbers of "
    "owners stay. The same holds for trees that a container engine's configuration names.",
    Upgrade.WITH_DIRECTORY: "They are copied or left behind with the directory that they are in.",
    Upgrade.PACKAGES: "`--keep` refuses these directories. About files in them that no package has, and about edited "
    "files of packages, you decide: `--keep` or `--discard`. What is not read is copied only with `--keep`.",
    Upgrade.NEW: "Programs of the new root generate them, or the guest does at its next boot.",
    Upgrade.NEVER: "`--keep` refuses these, and what is in them.",
}


def text() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(line for upgrade in Upgrade for line in _section(upgrade))])


def _section(upgrade: Upgrade) -> Iterator[str]:
    rules = [rule for rule in RULES if rule.upgrade is upgrade]
    columns = ["path", "why", "diff"]
    has_clone, has_run = any(rule.clone is not Clone.COPY for rule in rules), any(rule.run for rule in rules)
    columns += ["clone"] * has_clone + ["run"] * has_run
    yield f"## {upgrade.value} {{ #{upgrade.name.lower().replace('_', '-')} }}\n"
    yield f"{_EXPLAINED[upgrade]}\n"
    yield f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    for rule in sorted(rules, key=lambda each: each.path):
        cells = [_shown(rule.path), rule.reason, rule.diff.value.format(rule.link)]
        cells += [rule.clone.value] * has_clone + [_command(rule)] * has_run
        yield f"| {' | '.join(cells)} |"
    yield ""


def _shown(path: str) -> str:
    """Return the path of a rule as people read it: choices as the shell has them, exceptions in words."""
    kept, found = re.subn(r"\(\?![^)]*\)", "", path)
    but = re.findall(r"\(\?!([^)]*)\)", path)
    words = re.sub(r"\(([^)]*)\)", lambda choice: f"{{{choice[1].replace('|', ',')}}}", kept)
    slash = "" if path.startswith("**") else "/"
    names = ", ".join(f"`{name}`" for name in but[0].split("|")) if found else ""
    return f"`{slash}{words}`{f' except {names}' if names else ''}"


def _command(rule: Rule) -> str:
    return f"`{rule.run[0]}`" if rule.run else ""

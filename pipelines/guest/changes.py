"""What a guest has changed since it was made: packages, accounts, /etc, and files that no package has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Literal

from pipelines.artifact.difference import Difference, compare
from pipelines.guest.pristine import Configured, Survey, Unowned

Kind = Literal["added", "removed", "changed"]

#: What every guest has otherwise than its golden root, and what programs make anew from something else by themselves.
_IDENTITY = ("etc/hostname", "etc/machine-id", "etc/ssh/ssh_host_*", "root/.ssh", "root/.ssh/authorized_keys")
_MADE = (
    "*.pyc",
    "*/__pycache__",
    "*/lost+found",
    "boot/initramfs-*",
    "boot/initrd.img-*",
    "boot/vmlinuz-linux*",
    "etc/.pwd.lock",
    "etc/.updated",
    "etc/alternatives/*",
    "etc/credstore",
    "etc/credstore.encrypted",
    "etc/ld.so.cache",
    "etc/mtab",
    "etc/pacman.d/gnupg*",
    "etc/rc[0-6S].d/*",
    "etc/*-",
    "etc/resolv.conf",
    "initrd.img*",
    "root/.bash_history",
    "root/.cache",
    "root/.lesshst",
    "usr/lib/*/gconv/gconv-modules.cache",
    "usr/lib/*/gio/modules/giomodule.cache",
    "usr/lib/locale/*",
    "usr/lib/modules/*/modules.*",
    "usr/lib/udev/hwdb.bin",
    "usr/share/applications/mimeinfo.cache",
    "usr/share/glib-2.0/schemas/gschemas.compiled",
    "usr/share/icons/*/icon-theme.cache",
    "usr/share/info/dir",
    "usr/share/mime/*",
    "var/.updated",
    "var/backups/*",
    "var/lib/AccountsService*",
    "var/lib/dbus/*",
    "var/lib/initramfs-tools/*",
    "var/lib/logrotate/*",
    "var/lib/misc/*",
    "var/lib/pam/*",
    "var/lib/systemd/*",
    "var/lib/ucf/*",
    "var/log/*",
    "vmlinuz*",
)
_IGNORED = re.compile("|".join(map(translate, (*_IDENTITY, *_MADE))))

#: What systemd makes for services that bring their own users; below it is theirs.
_MADE_EMPTY = ("var/lib/private",)

#: Links that systemd makes at a boot where nothing is called so.
_MADE_LINKS = {"etc/default/locale": "../locale.conf", "etc/vconsole.conf": "default/keyboard"}

#: Lines that virtroot writes itself: names of this machine, the root and shares.
_LINES = {
    "etc/hosts": re.compile(rb"(127\.0\.0\.1|127\.0\.1\.1|::1)\s.*"),
    "etc/fstab": re.compile(rb"\S+\s+\S+\s+virtiofs\s.*"),
}

#: The account databases, which are compared name by name.
_ACCOUNTS = {"etc/passwd": "user", "etc/group": "group"}
_HIDDEN = ("etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid")


@dataclass(frozen=True)
class Changed:
    """One thing that came, went or is otherwise: an account's name or a path; ``what`` says in words what of it.

    ``size`` is in bytes; a tree that came has ``entries`` below it.
    """

    kind: Kind
    name: str
    what: str = ""
    size: int | None = None
    entries: int | None = None


@dataclass(frozen=True)
class Changes:
    """All that a guest has changed, each part sorted; ``files`` are those that no package has, outside /etc.

    ``edited`` are files of packages outside /etc that are not what the package brought.
    """

    packages: Difference
    accounts: tuple[Changed, ...] = ()
    etc: tuple[Changed, ...] = ()
    files: tuple[Changed, ...] = ()
    edited: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.packages or self.accounts or self.etc or self.files or self.edited)


def changes(base: Survey, now: Survey, distro: str, points: Iterable[str] = ()) -> Changes:
    """Return what ``now`` has otherwise than ``base``, both of one guest's root; ``distro`` orders versions.

    ``points`` are the paths where the guest has its shares, which virtroot made.
    """
    made = {each for point in points for each in above(point.strip("/"))}
    return Changes(
        packages=compare(base.packages, now.packages, distro),
        accounts=tuple(_accounts(base, now)),
        etc=tuple(_etc(base, now)),
        files=tuple(
            each
            for each in _files(base.unowned, now.unowned)
            if not (each.kind == "added" and each.name in {*made, *_MADE_EMPTY} and now.unowned[each.name].files == 0)
        ),
        edited=tuple(sorted({*now.edited} - {*base.edited})),
    )


def _accounts(base: Survey, now: Survey) -> Iterator[Changed]:
    for path, word in _ACCOUNTS.items():
        then, today = (_entries(survey.contents.get(path, b"")) for survey in (base, now))
        for name in sorted({*then, *today}):
            if name not in then:
                yield Changed("added", f"{word} {name}", f"number {_number(today[name])}")
            elif name not in today:
                yield Changed("removed", f"{word} {name}")
            elif then[name] != today[name]:
                yield Changed("changed", f"{word} {name}", ", ".join(_fields(word, then[name], today[name])))
    then, today = (_entries(survey.contents.get("etc/shadow", b"")) for survey in (base, now))
    for name in sorted({*then} & {*today}):
        if then[name][1:2] != today[name][1:2]:
            yield Changed("changed", f"user {name}", "password")


def _entries(text: bytes) -> dict[str, list[str]]:
    lines = (line.split(":") for line in text.decode(errors="replace").splitlines())
    return {fields[0]: fields for fields in lines if len(fields) > 1}


def _number(fields: list[str]) -> str:
    return fields[2] if len(fields) > 2 else "?"


def _fields(word: str, then: list[str], today: list[str]) -> Iterator[str]:
    names = {
        "user": ("name", "password", "number", "group", "description", "home", "shell"),
        "group": ("name", "password", "number", "members"),
    }[word]
    for name, before, after in zip(names, then, today, strict=False):
        if before != after:
            yield name


def _etc(base: Survey, now: Survey) -> Iterator[Changed]:
    came, went = ({each.name for each in ours} - {each.name for each in theirs}
                  for ours, theirs in ((now.packages, base.packages), (base.packages, now.packages)))  # fmt: skip
    for path in sorted({*base.etc, *now.etc}):
        if path in _ACCOUNTS or path in _HIDDEN or ignored(path) or _same_lines(path, base, now):
            continue
        then, today = base.etc.get(path), now.etc.get(path)
        if then is None and today is not None:
            made = of_package(today, came) or (today.kind == "link" and today.content == _MADE_LINKS.get(path))
            if not made and not (today.kind == "directory" and _has_below(path, now.etc)):
                yield Changed("added", path, size=_size(today))
        elif today is None and then is not None:
            if then.package not in went and then.to not in went:
                yield Changed("removed", path, size=_size(then))
        elif then and today and (what := differs(then, today)):
            yield Changed("changed", path, what, size=_size(today))


def _size(entry: Configured) -> int | None:
    return entry.size if entry.kind == "file" else None


def _same_lines(path: str, base: Survey, now: Survey) -> bool:
    """Say whether a file that virtroot writes to is otherwise by nothing but that."""
    ours = _LINES.get(path)
    if ours is None:
        return False
    then, today = (
        [line for line in survey.contents.get(path, b"").splitlines() if not ours.fullmatch(line)]
        for survey in (base, now)
    )
    return then == today


def of_package(entry: Configured, packages: AbstractSet[str]) -> bool:
    """Say whether something in /etc is as its package brought it, or a link that one of ``packages`` is the reason for.

    Packages come with links of their own, and make more: those that start their services.
    """
    if entry.kind == "link":
        return bool(entry.package) or entry.to in packages
    return bool(entry.package) and (entry.kind != "file" or entry.as_packaged or entry.package in packages)


def differs(then: Configured, today: Configured) -> str:
    """Return in words what of an entry of /etc is otherwise; what its package changed is not."""
    if then.kind != today.kind:
        return f"{then.kind}, now {today.kind}"
    words = [
        "content" if then.content != today.content and not today.as_packaged else "",
        "owner" if (then.uid, then.gid) != (today.uid, today.gid) else "",
        f"mode {then.mode:04o}, now {today.mode:04o}" if then.mode != today.mode and then.kind != "link" else "",
    ]
    return ", ".join(filter(None, words))


def _has_below(path: str, etc: Mapping[str, Configured]) -> bool:
    return any(other.startswith(f"{path}/") for other in etc)


def _files(base: Mapping[str, Unowned], now: Mapping[str, Unowned]) -> Iterator[Changed]:
    for path in sorted({*base, *now}):
        if ignored(path):
            continue
        then, today = base.get(path), now.get(path)
        if then is None and today is not None:
            tree = today.kind == "tree"
            yield Changed("added", path, "directory" if tree else "", today.size, today.entries if tree else None)
        elif today is None and then is not None:
            if path.rpartition("/")[0] not in base or path.rpartition("/")[0] in now:
                yield Changed("removed", path, size=then.size)
        elif then and today and (then.kind, then.size, then.modified) != (today.kind, today.size, today.modified):
            yield Changed("changed", path, size=today.size, entries=today.entries or None)


def ignored(path: str) -> bool:
    """Say whether a path is of the guest's identity, or made by programs from something else, or is below such."""
    return any(_IGNORED.fullmatch(each) for each in above(path))


def above(path: str) -> Iterator[str]:
    """Yield ``path`` and the directories above it, the nearest first."""
    while path:
        yield path
        path = path.rpartition("/")[0]

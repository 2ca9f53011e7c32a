"""What a guest has changed since it was made: packages, accounts, /etc, and files that no package has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.artifact.difference import Difference, compare
from pipelines.merge.baselines import Configured, Survey, Unowned
from pipelines.recipe import machine_specific
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.text import split_lines, trim

Kind = Literal["added", "removed", "changed"]

#: What every guest has otherwise than its golden root, and what programs make anew from something else by themselves.
_IDENTITY = (
    "etc/hostname",
    "etc/machine-id",
    *machine_specific.list_patterns(),
    "root/.ssh/authorized_keys",
)

#: The same of what may have more in it, which is looked at.
_ALONE = ("etc/credstore", "etc/credstore.encrypted", "root/.ssh", "var/lib/systemd", "var/lib/misc")

#: In patterns * is of one name, and ** of any number of them.
_MADE = (
    "**.pyc",
    "**/__pycache__",
    "**/lost+found",
    "boot/initramfs-*",
    "boot/initrd.img-*",
    "boot/vmlinuz-linux*",
    "etc/.pwd.lock",
    "etc/.updated",
    "etc/aliases.db",
    "etc/alternatives/*",
    "etc/ld.so.cache",
    "etc/mtab",
    "etc/pacman.d/gnupg*",
    "etc/ssl/certs/*.[0-9]",
    "etc/ssl/certs/ca-certificates.crt",
    "etc/rc[0-6S].d/*",
    "etc/*-",
    "etc/resolv.conf",
    "initrd.img(|.old)",
    "root/.bash_history",
    "root/.cache",
    "root/.lesshst",
    "usr/lib/*/gconv/gconv-modules.cache",
    "usr/lib/**/gio/modules/giomodule.cache",
    "usr/lib/**/immodules.cache",
    "usr/lib/**/loaders.cache",
    "usr/lib/locale/*",
    "usr/lib/modules/*/modules.*",
    "usr/lib/systemd/catalog/database",
    "usr/lib/udev/hwdb.bin",
    "usr/share/applications/mimeinfo.cache",
    "usr/share/glib-2.0/schemas/gschemas.compiled",
    "usr/share/icons/*/icon-theme.cache",
    "usr/share/info/dir",
    "usr/share/mime/(?!packages)*",
    "var/.updated",
    "var/backups/(alternatives.tar|apt.|dpkg.)*",
    "var/lib/AccountsService*",
    "var/lib/dbus/*",
    "var/lib/initramfs-tools/*",
    "var/lib/logrotate/*",
    "var/lib/misc/(*.db|firstrun*)",
    "var/lib/pam/*",
    "var/lib/shells.state",
    "var/lib/systemd/(?!home|linger|credential.secret)*",
    "var/lib/ucf/*",
    "var/log/*",
    "vmlinuz(|.old)",
)


def _pattern(text: str) -> str:
    """Return the regular expression for a pattern; what is in parentheses is one, but for its stars."""
    return text.replace(".", r"\.").replace("+", r"\+").replace("**", "\0").replace("*", "[^/]*").replace("\0", ".*")


_IGNORED = re.compile("|".join(map(_pattern, (*_IDENTITY, *_MADE))))

#: Whether a path, or one above it, matches: each is matched once, however many paths are below it.
_KNOWN: dict[str, bool] = {}
_MOST_KNOWN = 1 << 20

#: What systemd makes for services that bring their own users, for who lingers and for homes; below it is theirs.
_MADE_EMPTY = ("var/lib/private", "var/lib/systemd/home", "var/lib/systemd/linger")

#: In it a program links to the certificates that packages have.
_CERTIFICATES = "etc/ssl/certs/"

#: Links that systemd makes at a boot where nothing is called so.
_MADE_LINKS = {"etc/default/locale": "../locale.conf", "etc/vconsole.conf": "default/keyboard"}

#: Lines that virtroot writes itself: names of this machine, the root and shares.
_LINES = {
    "etc/hosts": re.compile(
        rb"127\.0\.0\.1[ \t]+localhost|127\.0\.1\.1[ \t].*|::1[ \t]+localhost ip6-localhost ip6-loopback"
        rb"|ff02::[12][ \t]+[^ \t]+"
    ),
    "etc/fstab": re.compile(rb"[^ \t]+[ \t]+[^ \t]+[ \t]+virtiofs[ \t].*"),
}

_BUILD_NAME = BUILD_NAME.encode()

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

    ``edited`` are files of packages outside /etc that are not what the package brought; ``altered`` is what packages
    have there that went, that leads elsewhere, or whose owners or mode are others.
    """

    packages: Difference
    accounts: tuple[Changed, ...] = ()
    etc: tuple[Changed, ...] = ()
    files: tuple[Changed, ...] = ()
    edited: tuple[str, ...] = field(default=())
    altered: tuple[Changed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.packages or self.accounts or self.etc or self.files or self.edited or self.altered)


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
            for each in _files(base.unowned, now.unowned, now.etc)
            if not (each.kind == "added" and each.name in {*made, *_MADE_EMPTY} and now.unowned[each.name].files == 0)
        ),
        edited=tuple(sorted({*now.edited} - {*base.edited})),
        altered=tuple(_altered(base, now)),
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
    lines = (line.split(":") for line in split_lines(text.decode(errors="replace")))
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
    filled = {path.rpartition("/")[0] for path in now.etc}
    for path in sorted({*base.etc, *now.etc}):
        if path in _ACCOUNTS or path in _HIDDEN or ignored(path) or _same_lines(path, base, now):
            continue
        then, today = base.etc.get(path), now.etc.get(path)
        if path.startswith(_CERTIFICATES) and all(
            each is None or (each.kind == "link" and each.to) for each in (then, today)
        ):
            continue
        if then is None and today is not None:
            made = of_package(today, came) or (today.kind == "link" and today.content == _MADE_LINKS.get(path))
            if not made and not (today.kind == "directory" and path in filled):
                yield Changed("added", path, size=_size(today))
        elif today is None and then is not None:
            if not dropped(path, then, now) and then.package not in went and then.to not in went:
                yield Changed("removed", path, size=_size(then))
        elif then and today and (what := differs(then, today)):
            yield Changed("changed", path, what, size=_size(today))


def _size(entry: Configured) -> int | None:
    return entry.size if entry.kind == "file" else None


def _same_lines(path: str, base: Survey, now: Survey) -> bool:
    """Say whether a file that virtroot writes to is otherwise by nothing but that."""
    before, name = base.contents.get(path, b""), trim(now.contents.get("etc/hostname", b""))
    if _BUILD_NAME in before and before.replace(_BUILD_NAME, name) == now.contents.get(path):
        return True
    return path in _LINES and has_same_own_lines(path, base, now)


def is_virtroots(path: str, now: Survey) -> bool:
    """Say whether a file has no other lines than those that virtroot writes."""
    ours, content = _LINES.get(path), now.contents.get(path)
    return ours is not None and content is not None and all(map(ours.fullmatch, split_lines(content)))


def has_same_own_lines(path: str, one: Survey, other: Survey) -> bool:
    """Say whether a file that virtroot writes to has the same other lines in both; a file that is missing has none."""
    ours = _LINES[path]
    kept = [
        [line for line in split_lines(survey.contents.get(path, b"")) if not ours.fullmatch(line)]
        for survey in (one, other)
    ]
    return kept[0] == kept[1]


def of_package(entry: Configured, packages: AbstractSet[str]) -> bool:
    """Say whether something in /etc is as its package brought it, or a link that one of ``packages`` is the reason for.

    Packages come with links of their own, and make more: those that start their services.
    """
    if entry.kind == "link":
        return bool(entry.package) or entry.to in packages
    return bool(entry.package) and (entry.kind != "file" or entry.as_packaged)


def dropped(path: str, then: Configured, now: Survey) -> bool:
    """Say whether something in /etc went because its package does not have it any more."""
    return bool(then.package) and now.missing is not None and path not in now.missing


def differs(then: Configured, today: Configured) -> str:
    """Return in words what of an entry of /etc is otherwise; what its package changed is not."""
    if then.kind != today.kind:
        return f"{then.kind}, now {today.kind}"
    if then.kind == "other" and then.content != today.content:
        return f"{then.content or 'a special file'}, now {today.content or 'another one'}"
    words = [
        "content" if then.content != today.content and not today.as_packaged else "",
        *_rights(then, today),
    ]
    return ", ".join(filter(None, words))


def _rights(then: Configured | Unowned, today: Configured | Unowned) -> Iterator[str]:
    """Yield in words what owner and mode are otherwise; older records have no modes of what no package has."""
    if then.mode is None or today.mode is None:
        return
    if (then.uid, then.gid) != (today.uid, today.gid):
        yield "owner"
    if then.mode != today.mode and then.kind != "link":
        yield f"mode {then.mode:04o}, now {today.mode:04o}"
    if then.attributes != today.attributes:
        yield "attributes"


def _files(base: Mapping[str, Unowned], now: Mapping[str, Unowned], etc: Mapping[str, Configured]) -> Iterator[Changed]:
    for path in sorted({*base, *now}):
        then, today = base.get(path), now.get(path)
        if ignored(path) or _is_chosen(then, today, etc):
            continue
        if then is None and today is not None:
            tree = today.kind == "tree"
            yield Changed("added", path, "directory" if tree else "", today.size, today.entries if tree else None)
        elif today is None and then is not None:
            if path.rpartition("/")[0] not in base or path.rpartition("/")[0] in now:
                yield Changed("removed", path, size=then.size)
        elif then and today and (what := otherwise(then, today)):
            yield Changed("changed", path, what, size=today.size, entries=today.entries or None)


def otherwise(then: Unowned, today: Unowned) -> str:
    """Return in words what of an entry that no package has is otherwise."""
    if "owned" in (then.kind, today.kind):
        return ""
    if then.kind != today.kind:
        return f"{then.kind}, now {today.kind}"
    if then.kind == "tree":
        alike = then.digest == today.digest if then.digest and today.digest else _measures(then) == _measures(today)
        return "" if alike else "content"
    if then.kind == "link" and then.mode is not None and today.mode is not None:
        words = [_elsewhere(then, today)]
    elif then.kind == "other":
        words = [f"{then.content}, now {today.content}" if then.content != today.content else ""]
    else:
        words = ["content" if (then.size, then.modified) != (today.size, today.modified) else ""]
    return ", ".join(filter(None, (*words, *_rights(then, today))))


def _is_chosen(then: Unowned | None, today: Unowned | None, etc: Mapping[str, Configured]) -> bool:
    """Say whether an entry is and was a link that update-alternatives made, of one of the programs of packages."""
    entries = [entry for entry in (then, today) if entry is not None]
    known = [entry.content for entry in entries if entry.content]
    if not (known and all(entry.kind == "link" for entry in entries)):
        return False
    if not all(content.startswith("/etc/alternatives/") for content in known):
        return False
    if today is None:
        return True
    aim = etc.get(today.content.lstrip("/"))
    # One that was not looked at is as it was, or tells that by its time.
    return bool(today.content) and (then is not None or (aim is not None and bool(aim.to)))


def _elsewhere(then: Unowned | Configured, today: Unowned | Configured) -> str:
    """Return in words that a link leads elsewhere; of one that was not looked at, its length and time say that."""
    if then.content and today.content:
        same = then.content == today.content
    else:
        same = (then.size, then.modified) == (today.size, today.modified)
    return "" if same else f"leads to {today.content}" if today.content else "leads elsewhere"


def _measures(tree: Unowned) -> tuple[int, int]:
    return tree.entries, tree.files


def _altered(base: Survey, now: Survey) -> Iterator[Changed]:
    """Yield what packages have that is not as it was; what another version of its package has otherwise is not told."""
    if base.owned is None or now.owned is None or base.missing is None or now.missing is None:
        return
    versions = [{package.name: package.version for package in survey.packages} for survey in (base, now)]

    def is_same(package: str) -> bool:
        then, today = (known.get(package) for known in versions)
        return then is not None and then == today

    for path in sorted({*base.owned, *now.owned, *now.missing}):
        then, today = base.owned.get(path), now.owned.get(path)
        if ignored(path) or path.startswith("etc/"):
            continue
        if path in now.missing:
            above_it = path.rpartition("/")[0]
            went = path not in base.missing and is_same(now.missing[path])
            if went and above_it not in now.missing and not _leads_away(above_it, now.owned):
                yield Changed("removed", path)
        elif then is None and today and today.kind == "link":
            known = today.content and not today.to and today.package in versions[0]
            if known or is_same(today.package):
                yield Changed("changed", path, f"leads to {today.content}" if today.content else "is a link")
        elif is_same((today or then or _PLAIN).package) and (what := _words(then or _PLAIN, today or _PLAIN)):
            yield Changed("changed", path, what)


#: What most of packages is, a file or a directory.
_PLAIN = Configured("", 0o644, 0, 0)


def _leads_away(path: str, owned: Mapping[str, Configured]) -> bool:
    return any(each in owned and owned[each].kind == "link" for each in above(path))


def _words(then: Configured, today: Configured) -> str:
    """Return in words what is otherwise; a kind or a mode that is not known is that of most."""
    if today.kind == "link":
        return _elsewhere(then, today)
    if then.kind == "link":
        return "leads nowhere any more"
    kind = then.kind or today.kind
    both = (each if each.kind or kind == "file" else replace(each, mode=0o755) for each in (then, today))
    return ", ".join(_rights(*both))


def ignored(path: str) -> bool:
    """Say whether a path is of the guest's identity, or made by programs from something else, or is below such."""
    if path in _ALONE:
        return True
    unknown = []
    for each in above(path):
        if each in _KNOWN:
            found = _KNOWN[each]
            break
        unknown.append(each)
    else:
        found = False
    if len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.clear()
    # The nearest to the top first: what is below one that is ignored is, too.
    for each in reversed(unknown):
        found = _KNOWN[each] = found or _IGNORED.fullmatch(each) is not None
    return found


def above(path: str) -> Iterator[str]:
    """Yield ``path`` and the directories above it, the nearest first."""
    while path:
        yield path
        path = path.rpartition("/")[0]

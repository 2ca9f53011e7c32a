"""The rules for paths: what `diff`, `upgrade` and `clone` do with a path of a guest's root.

One table holds all of them, `RULES`. The other modules of this package take their lists from it, and the book's page
"What survives" is written from it. The rules for what `clone` deletes are made from
`recipe.machine_specific`, which a build and an import read, too.
A snapshot has no rules: it holds the whole root.

The build needs some of these paths, so they are data of `recipe`. What the inventory does not read is a constant of its
program. Neither may import this package, so the table takes their paths in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from pipelines.recipe import machine_specific
from pipelines.recipe.recipe import NOT_KEPT, PACKAGE_DATABASES, PACKAGE_TREES
from pipelines.target.payload.inventory import STATE as NOT_READ


class Upgrade(Enum):
    """What `upgrade` does with a path, and so does `rollback --carry`; the value is the heading on the page."""

    COPY = "Copied"
    ACCOUNTS = "Accounts, merged by name"
    IDENTITY = "The guest's"
    MERGE = "Merged"
    MERGE_OR_COPY = "Merged, or the guest's"
    MERGE_AND_WRITE = "Merged, with lines of virtroot"
    ALTERNATIVES = "Chosen again"
    ASK = "You decide"
    ASK_WHOLE = "You decide: data of programs"
    ASK_SYSTEM = "You decide: other systems"
    WITH_DIRECTORY = "With its directory"
    PACKAGES = "The new root's, but for files of your own"
    NEW = "The new root's"
    NEVER = "The new root's, always"


class Diff(Enum):
    """What `diff` does with a path, and so do the plan of an upgrade and `rollback --preview`."""

    COMPARE = "compared"
    IGNORE = "ignored"
    IGNORE_ENTRY = "ignored, but not what is in it"
    IGNORE_EMPTY = "ignored while it is empty"
    IGNORE_LINK = "ignored as a link to `{}`"
    IGNORE_PACKAGE_LINKS = "compared, but for links to files of packages"
    IGNORE_OWN_LINES = "compared, but for lines of virtroot"
    ACCOUNTS = "compared by name"
    PASSWORDS = "compared: passwords"
    HIDE = "not compared"
    NOT_READ = "not read"


class Clone(Enum):
    """What `clone` does with a path of the new guest."""

    COPY = "copied"
    WRITE = "written"
    DELETE = "deleted, and generated again"


class EngineData(Enum):
    """Where a container engine can have its data, which are trees of other systems, by its configuration.

    ``ANYWHERE`` is the path and all below it, ``BELOW`` only what is below it.
    """

    ANYWHERE = 0
    BELOW = 1
    NOWHERE = 2


@dataclass(frozen=True)
class Rule:
    """What happens to ``path``, without a slash before it, and why.

    In the path ``*`` stands for any characters within one name and ``**`` for any characters. Text in parentheses is a
    regular expression, except for its stars. A path without these is a file or a directory with all that is in it.

    ``link`` is where a link leads that systemd makes. ``own_lines`` is a regular expression for the lines that virtroot
    writes. ``run`` is a command for the guest, and why, where an upgrade keeps what the guest has there.
    """

    path: str
    reason: str
    upgrade: Upgrade
    diff: Diff = Diff.COMPARE
    clone: Clone = Clone.COPY
    link: str = ""
    own_lines: bytes = b""
    run: tuple[str, str] | None = None
    engine_data: EngineData = EngineData.ANYWHERE


#: Commands that generate files again, and why they are to be run.
_LOCALES = ("locale-gen", "its locales are those of /etc/locale.gen")
_LIBRARIES = ("ldconfig", "it has libraries of its own")
_CERTIFICATES = ("update-ca-certificates", "it chose its certificates")
_TRUST = ("update-ca-trust", "it chose its certificates")
_PAM = ("pam-auth-update", "its PAM profiles are those of /etc/pam.d")

#: Lines of /etc/hosts and /etc/fstab with the names of this machine, the root and the shares.
_HOSTS = (
    rb"127\.0\.0\.1[ \t]+localhost|127\.0\.1\.1[ \t].*|::1[ \t]+localhost ip6-localhost ip6-loopback"
    rb"|ff02::[12][ \t]+[^ \t]+"
)
_FSTAB = rb"[^ \t]+[ \t]+[^ \t]+[ \t]+virtiofs[ \t].*"

_BELOW, _NOWHERE = EngineData.BELOW, EngineData.NOWHERE

_PEOPLE = (
    Rule("home", "people's files", Upgrade.COPY, engine_data=_BELOW),
    Rule("root", "root's files", Upgrade.COPY, engine_data=_BELOW),
    Rule("srv", "data that the guest serves", Upgrade.COPY),
    Rule("var/lib/systemd/home", "people of systemd-homed", Upgrade.COPY, Diff.IGNORE_EMPTY),
    Rule("var/lib/systemd/linger", "users whose services run without a login", Upgrade.COPY, Diff.IGNORE_EMPTY),
    Rule("var/log", "logs", Upgrade.COPY, engine_data=_BELOW),
    Rule("var/mail", "mail", Upgrade.COPY),
    Rule("var/spool/cron", "tables of cron", Upgrade.COPY),
    Rule("root/.bash_history", "a shell writes it", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
    Rule("root/.cache", "a cache", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
    Rule("root/.lesshst", "less writes it", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
    Rule("root/.ssh", "virtroot makes it for the ssh keys", Upgrade.WITH_DIRECTORY, Diff.IGNORE_ENTRY),
    Rule("root/.ssh/authorized_keys", "virtroot writes the ssh keys", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
    Rule("var/log/*", "services write logs all the time", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
)

_ACCOUNTS = (
    Rule("etc/passwd", "users", Upgrade.ACCOUNTS, Diff.ACCOUNTS),
    Rule("etc/group", "groups", Upgrade.ACCOUNTS, Diff.ACCOUNTS),
    Rule("etc/shadow", "passwords", Upgrade.ACCOUNTS, Diff.PASSWORDS),
    Rule("etc/gshadow", "passwords of groups", Upgrade.ACCOUNTS, Diff.HIDE),
    Rule("etc/subuid", "numbers for containers of users", Upgrade.ACCOUNTS, Diff.HIDE),
    Rule("etc/subgid", "numbers for containers of users", Upgrade.ACCOUNTS, Diff.HIDE),
)

_CONFIGURATION = (
    Rule("etc", "configuration", Upgrade.MERGE, engine_data=_NOWHERE),
    Rule("etc/hostname", "the host name", Upgrade.IDENTITY, Diff.IGNORE, Clone.WRITE),
    Rule("etc/machine-id", "the domain's UUID", Upgrade.IDENTITY, Diff.IGNORE, Clone.WRITE),
    Rule("etc/hosts", "names the guest", Upgrade.MERGE_OR_COPY, Diff.IGNORE_OWN_LINES, Clone.WRITE, own_lines=_HOSTS),
    Rule("etc/fstab", "mounts the root and shares", Upgrade.MERGE_AND_WRITE, Diff.IGNORE_OWN_LINES, own_lines=_FSTAB),
    Rule("etc/alternatives/*", "update-alternatives links them", Upgrade.ALTERNATIVES, Diff.IGNORE),
    Rule("etc/.pwd.lock", "a lock", Upgrade.NEW, Diff.IGNORE),
    Rule("etc/.updated", "systemd's mark of an update", Upgrade.NEW, Diff.IGNORE),
    Rule("etc/ld.so.cache", "ldconfig generates it", Upgrade.NEW, Diff.IGNORE),
    Rule("etc/mtab", "a link to /proc", Upgrade.NEW, Diff.IGNORE),
    Rule("etc/*-", "copies that programs keep of a file", Upgrade.MERGE, Diff.IGNORE),
    Rule("etc/aliases.db", "newaliases generates it", Upgrade.MERGE, Diff.IGNORE),
    Rule("etc/credstore", "systemd makes it", Upgrade.MERGE, Diff.IGNORE_ENTRY),
    Rule("etc/credstore.encrypted", "systemd makes it", Upgrade.MERGE, Diff.IGNORE_ENTRY),
    Rule("etc/default/locale", "systemd links it", Upgrade.MERGE, Diff.IGNORE_LINK, link="../locale.conf"),
    Rule("etc/vconsole.conf", "systemd links it", Upgrade.MERGE, Diff.IGNORE_LINK, link="default/keyboard"),
    Rule("etc/pacman.d/gnupg*", "pacman-key generates it", Upgrade.MERGE, Diff.IGNORE),
    Rule("etc/rc[0-6S].d/*", "update-rc.d links them", Upgrade.MERGE, Diff.IGNORE),
    Rule("etc/resolv.conf", "the network's service writes it", Upgrade.MERGE, Diff.IGNORE),
    Rule("etc/ssl/certs", "a program links certificates", Upgrade.MERGE, Diff.IGNORE_PACKAGE_LINKS),
    Rule("etc/ssl/certs/*.[0-9]", "openssl links them", Upgrade.MERGE, Diff.IGNORE),
    Rule("etc/ssl/certs/ca-certificates.crt", "update-ca-certificates generates it", Upgrade.MERGE, Diff.IGNORE),
    Rule("etc/locale.gen", "chooses locales", Upgrade.MERGE, run=_LOCALES),
    Rule("etc/ld.so.conf", "names directories of libraries", Upgrade.MERGE, run=_LIBRARIES),
    Rule("etc/ld.so.conf.d", "names directories of libraries", Upgrade.MERGE, run=_LIBRARIES),
    Rule("etc/ca-certificates.conf", "chooses certificates", Upgrade.MERGE, run=_CERTIFICATES),
    Rule("etc/ca-certificates/trust-source", "chooses certificates", Upgrade.MERGE, run=_TRUST),
    Rule("etc/pam.d/common-*", "has PAM profiles", Upgrade.MERGE, run=_PAM),
)

_DATA = (
    Rule("usr/local/lib", "libraries of your own", Upgrade.ASK, run=_LIBRARIES),
    Rule("usr/local/share/ca-certificates", "certificates of your own", Upgrade.ASK, run=_CERTIFICATES),
    Rule("var/run", "a link to /run", Upgrade.ASK, engine_data=_BELOW),
    Rule("var/lib", "half of a database is of no use", Upgrade.ASK_WHOLE, engine_data=_BELOW),
    Rule("var/lib/misc", "programs keep databases in it", Upgrade.WITH_DIRECTORY, Diff.IGNORE_ENTRY),
    Rule("var/lib/private", "systemd makes it", Upgrade.WITH_DIRECTORY, Diff.IGNORE_EMPTY),
    *(
        Rule(f"var/lib/{name}", f"systems of {whose}", Upgrade.ASK_SYSTEM)
        for name, whose in (
            ("archbuild", "devtools"),
            ("buildkit", "BuildKit"),
            ("containerd", "containerd"),
            ("containers", "podman"),
            ("docker", "Docker"),
            ("incus", "Incus"),
            ("kubelet", "Kubernetes"),
            ("lxc", "LXC"),
            ("lxd", "LXD"),
            ("machines", "systemd-nspawn"),
            ("mock", "mock"),
            ("rancher", "Rancher"),
            ("schroot", "schroot"),
        )
    ),
)

_GENERATED = (
    Rule("**.pyc", "Python compiles it", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
    Rule("**/__pycache__", "Python compiles it", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
    Rule("**/lost+found", "a file system makes it", Upgrade.WITH_DIRECTORY, Diff.IGNORE),
    Rule("usr", "files of packages", Upgrade.PACKAGES, engine_data=_BELOW),
    *(
        Rule(path, reason, Upgrade.NEW, Diff.IGNORE)
        for path, reason in (
            ("boot/initramfs-*", "the generator of the initramfs makes it"),
            ("boot/initrd.img-*", "the generator of the initramfs makes it"),
            ("boot/vmlinuz-linux*", "the kernel's package copies it"),
            ("initrd.img(|.old)", "the kernel's package links it"),
            ("vmlinuz(|.old)", "the kernel's package links it"),
            ("usr/lib/*/gconv/gconv-modules.cache", "iconvconfig generates it"),
            ("usr/lib/**/gio/modules/giomodule.cache", "gio-querymodules generates it"),
            ("usr/lib/**/immodules.cache", "gtk-query-immodules generates it"),
            ("usr/lib/**/loaders.cache", "gdk-pixbuf-query-loaders generates it"),
            ("usr/lib/locale/*", "locale-gen generates it"),
            ("usr/lib/modules/*/modules.*", "depmod generates it"),
            ("usr/lib/systemd/catalog/database", "journalctl generates it"),
            ("usr/lib/udev/hwdb.bin", "systemd-hwdb generates it"),
            ("usr/share/applications/mimeinfo.cache", "update-desktop-database generates it"),
            ("usr/share/glib-2.0/schemas/gschemas.compiled", "glib-compile-schemas generates it"),
            ("usr/share/icons/*/icon-theme.cache", "gtk-update-icon-cache generates it"),
            ("usr/share/info/dir", "install-info generates it"),
            ("usr/share/mime/(?!packages)*", "update-mime-database generates it"),
            ("var/.updated", "systemd's mark of an update"),
            ("var/backups/(alternatives.tar|apt.|dpkg.)*", "dpkg's timer writes it"),
            ("var/lib/AccountsService*", "accounts-daemon writes it"),
            ("var/lib/dbus/*", "D-Bus writes it"),
            ("var/lib/initramfs-tools/*", "initramfs-tools writes it"),
            ("var/lib/logrotate/*", "logrotate writes it"),
            ("var/lib/misc/(*.db|firstrun*)", "programs generate it"),
            ("var/lib/pam/*", "pam-auth-update writes it"),
            ("var/lib/shells.state", "update-shells writes it"),
            ("var/lib/systemd/(?!home|linger|credential.secret)*", "systemd writes it"),
            ("var/lib/ucf/*", "ucf writes it"),
        )
    ),
    Rule("var/lib/systemd", "systemd makes it", Upgrade.NEW, Diff.IGNORE_ENTRY),
)

#: What an upgrade does with keys and ids outside /etc; those that are not here are generated again.
_KEYS = {
    "var/lib/NetworkManager/secret_key": Upgrade.COPY,
    "var/lib/systemd/credential.secret": Upgrade.COPY,
    "var/lib/docker/engine-id": Upgrade.WITH_DIRECTORY,
}

#: Why paths are taken from the new root that are not files of packages.
_REASONS = {
    "boot": "kernel and initramfs",
    **dict.fromkeys(("dev", "proc", "run", "sys"), "the running system's"),
    **dict.fromkeys(("tmp", "var/tmp"), "temporary files"),
    **dict.fromkeys(PACKAGE_DATABASES, "the package manager's record of what the root has"),
    "var/cache": "caches",
}


def _list_key_rules() -> Iterator[Rule]:
    """Yield the rules of keys and ids that identify a machine."""
    for material in machine_specific.MATERIALS:
        for path in material.paths:
            upgrade = Upgrade.IDENTITY if path.startswith("etc/") else _KEYS.get(path, Upgrade.NEW)
            yield Rule(path, material.name, upgrade, Diff.IGNORE, Clone.DELETE)
    for path in machine_specific.WATCHED:
        upgrade = Upgrade.MERGE if path.startswith("etc/") else Upgrade.WITH_DIRECTORY
        yield Rule(path, "identifies a machine, and only its administrator can replace it", upgrade)


def _list_package_rules() -> Iterator[Rule]:
    """Yield the rules of what packages, package managers and the running system have, except for /etc."""
    for path in dict.fromkeys((*NOT_KEPT, *PACKAGE_TREES, *NOT_READ)):
        if path == "etc":
            continue
        never = path in NOT_KEPT or path in PACKAGE_DATABASES
        yield Rule(
            path,
            _REASONS.get(path, "files of packages"),
            Upgrade.NEVER if never else Upgrade.PACKAGES if path in PACKAGE_TREES else Upgrade.NEW,
            Diff.NOT_READ if path in NOT_READ else Diff.COMPARE,
            engine_data=_NOWHERE if path in ("dev", "proc", "run", "sys", "tmp") else EngineData.ANYWHERE,
        )


#: All rules. What has no rule is compared and copied into a clone; at an upgrade the user decides about it.
RULES = (*_PEOPLE, *_ACCOUNTS, *_list_key_rules(), *_CONFIGURATION, *_DATA, *_GENERATED, *_list_package_rules())


def select_by_upgrade(upgrade: Upgrade, prefix: str = "") -> tuple[str, ...]:
    """Return the paths with which an upgrade does ``upgrade``, in the order of the table.

    Only those are returned that begin with ``prefix``.
    """
    return tuple(rule.path for rule in RULES if rule.upgrade is upgrade and rule.path.startswith(prefix))


def select_by_diff(*diff: Diff) -> tuple[str, ...]:
    """Return the paths with which `diff` does one of ``diff``, in the order of the table."""
    return tuple(rule.path for rule in RULES if rule.diff in diff)


def select_by_engine_data(*data: EngineData) -> tuple[str, ...]:
    """Return the paths for which an engine's configuration may say one of ``data``, in the order of the table."""
    return tuple(rule.path for rule in RULES if rule.engine_data in data)


def to_regex(path: str) -> str:
    """Return the regular expression for the ``path`` of a rule."""
    return path.replace(".", r"\.").replace("+", r"\+").replace("**", "\0").replace("*", "[^/]*").replace("\0", ".*")


def group_by_command() -> dict[tuple[str, str], list[Rule]]:
    """Return the commands for a guest, each with the reason to run it, and the rules that name them."""
    found: dict[tuple[str, str], list[Rule]] = {}
    for rule in RULES:
        if rule.run:
            found.setdefault(rule.run, []).append(rule)
    return found


#: Lines that virtroot writes itself, by the file that has them.
OWN_LINES = {rule.path: re.compile(rule.own_lines) for rule in RULES if rule.own_lines}

#: Where links lead that systemd makes, by their path.
LINKS = {rule.path: rule.link for rule in RULES if rule.link}

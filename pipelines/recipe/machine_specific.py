"""Keys and ids that packages generate for one machine when they are installed or first started.

In a root they would be the same in every guest. The build deletes them, and each guest generates its own at its first
boot. So does a clone. An upgrade keeps the guest's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipelines.recipe.stage import Command

#: The unit that generates missing files, in the skeleton ``machine-specific``. Its script has a part for each material.
UNIT = "usr/lib/systemd/system/virtroot-machine-specific.service"

#: The unit that generates sshd's missing host keys, in the skeleton ``sshd``.
KEYGEN = "usr/lib/systemd/system/virtroot-sshd-keygen.service"

#: The script of that unit. In roots that an earlier version built, the unit runs ssh-keygen -A, which generates only
#: the default keys.
KEYGEN_SCRIPT = "usr/lib/virtroot/sshd-keygen"

#: The directories with materials; every root has both.
_DIRECTORIES = ("etc", "var/lib")


@dataclass(frozen=True)
class Material:
    """A set of files that identify one machine, or prove its identity to others.

    In ``paths`` a star matches any characters in the last component. ``made_by`` is virtroot's unit that generates the
    files again; it is empty if their own service does.
    """

    name: str
    paths: tuple[str, ...]
    made_by: str = ""


_SNAKEOIL = Material(
    "the self-signed certificate of ssl-cert",
    ("etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/private/ssl-cert-snakeoil.key"),
    UNIT,
)

MATERIALS: tuple[Material, ...] = (
    Material("the ssh host keys", ("etc/ssh/ssh_host_*",), KEYGEN),
    _SNAKEOIL,
    Material("the iSCSI initiator name", ("etc/iscsi/initiatorname.iscsi",), UNIT),
    Material("the NVMe host name and id", ("etc/nvme/hostnqn", "etc/nvme/hostid"), UNIT),
    Material("the control key of BIND", ("etc/bind/rndc.key",), UNIT),
    Material("the host keys of dropbear", ("etc/dropbear/dropbear_*_host_key",), UNIT),
    Material("the RDP keys of xrdp", ("etc/xrdp/rsakeys.ini",), UNIT),
    Material("the machine-id of D-Bus", ("var/lib/dbus/machine-id",)),
    Material("the random seed", ("var/lib/systemd/random-seed",)),
    Material("the key of systemd's credentials", ("var/lib/systemd/credential.secret",)),
    Material("the secret key of NetworkManager", ("var/lib/NetworkManager/secret_key",)),
    Material("the key of the Docker engine", ("etc/docker/key.json", "var/lib/docker/engine-id")),
)

#: Files generated from other files, with a random id of Berkeley DB. The unit generates them again, too. A build
#: deletes them so that it gives the same bytes each time. An imported system keeps them: they may be another mailer's.
GENERATED = ("etc/aliases.db",)

#: Files that identify a machine or a group of machines, and that only its administrator can make again.
WATCHED = (
    "etc/hostid",
    "etc/krb5.keytab",
    "etc/munge/munge.key",
    "var/lib/samba/private/secrets.tdb",
)


def make_removal(overlay_paths: Iterable[str]) -> Command:
    """Return the command that deletes all materials from a built root.

    A material of which the overlay has a file stays complete: the recipe's author provided it.
    """
    return Command(
        ("find", *(f"/{each}" for each in _DIRECTORIES), *make_find_tests("/", overlay_paths, GENERATED)), chroot=True
    )


def make_find_tests(prefix: str = "", overlay_paths: Iterable[str] = (), more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return arguments of find(1) that delete all materials except those of which the overlay has a file.

    ``prefix`` is what find puts in front of paths of the root. ``more`` are other files to delete.
    """
    there = tuple(overlay_paths)
    deleted = [each for each in MATERIALS if not is_in_overlay(each, there)]
    paths = [*(path for each in deleted for path in each.paths), *(path for path in more if path not in there)]
    tests = [test for path in paths for test in ("-o", "-path", f"{prefix}{path}")]
    if _SNAKEOIL in deleted:
        # OpenSSL finds the certificate by a link that is named by the certificate's hash.
        link = ("-path", f"{prefix}etc/ssl/certs/*", "-lname", "ssl-cert-snakeoil.pem")
        tests += ["-o", "(", *link, ")"]
    return ("(", *tests[1:], ")", "!", "-type", "d", "-delete")


def is_in_overlay(material: Material, overlay_paths: Iterable[str]) -> bool:
    """Return whether the overlay has a file of ``material``."""
    return any(fnmatchcase(path, pattern) for path in overlay_paths for pattern in material.paths)


def is_material(path: str) -> bool:
    """Return whether ``path`` belongs to a material."""
    return any(fnmatchcase(path, pattern) for each in MATERIALS for pattern in each.paths)


def list_patterns() -> tuple[str, ...]:
    """Return the paths of all materials."""
    return tuple(path for each in MATERIALS for path in each.paths)

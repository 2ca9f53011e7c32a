"""Keys and ids that packages generate for one machine when they are installed or first started.

In a golden root they would be the same in every guest. The build deletes them, and each guest makes its own at its
first boot. A clone gets its own as well, and an upgrade keeps the guest's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipelines.recipe.stage import Command

#: The unit that makes what is missing, in the skeleton ``machine-specific``; its script has a part for each material.
UNIT = "usr/lib/systemd/system/virtroot-machine-specific.service"

#: The unit that makes the missing host keys of sshd, in the skeleton ``sshd``.
KEYGEN = "usr/lib/systemd/system/virtroot-sshd-keygen.service"

#: What that unit runs. Roots that an earlier version built run ssh-keygen -A there, which makes only the usual keys.
KEYGEN_SCRIPT = "usr/lib/virtroot/sshd-keygen"

#: Directories that have materials; both are in every root.
_PLACES = ("etc", "var/lib")


@dataclass(frozen=True)
class Material:
    """A set of files that identify one machine, or prove to others which machine it is.

    In ``paths`` a star stands for any characters within one name of the last component. ``made_by`` is the unit of
    virtroot that makes the files again, empty where their own service does.
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

#: Made of other files, with a random id in them: Berkeley DB's. The unit makes them again, too. A build deletes them
#: for the same bytes each time; a system that is imported keeps them, whichever mailer they are of.
GENERATED = ("etc/aliases.db",)

#: What names or proves a machine, or a group of machines, and cannot be made again without its administrator.
WATCHED = (
    "etc/hostid",
    "etc/krb5.keytab",
    "etc/munge/munge.key",
    "var/lib/samba/private/secrets.tdb",
)


def removal(overlay_paths: Iterable[str]) -> Command:
    """Return the command that deletes all materials from a root that was built.

    A material of which the overlay has a file stays whole: the recipe's author put it there.
    """
    return Command(("find", *(f"/{each}" for each in _PLACES), *find_tests("/", overlay_paths, GENERATED)), chroot=True)


def find_tests(prefix: str = "", overlay_paths: Iterable[str] = (), more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the tests for find(1) that delete all materials but those that the overlay has a file of.

    ``prefix`` is what the paths that find prints have before those of the root, ``more`` are other files to delete.
    """
    there = tuple(overlay_paths)
    deleted = [each for each in MATERIALS if not of_overlay(each, there)]
    paths = [*(path for each in deleted for path in each.paths), *(path for path in more if path not in there)]
    tests = [test for path in paths for test in ("-o", "-path", f"{prefix}{path}")]
    if _SNAKEOIL in deleted:
        # OpenSSL finds the certificate by a link whose name depends on the certificate.
        link = ("-path", f"{prefix}etc/ssl/certs/*", "-lname", "ssl-cert-snakeoil.pem")
        tests += ["-o", "(", *link, ")"]
    return ("(", *tests[1:], ")", "!", "-type", "d", "-delete")


def of_overlay(material: Material, overlay_paths: Iterable[str]) -> bool:
    """Say whether the overlay has a file of ``material``."""
    return any(fnmatchcase(path, pattern) for path in overlay_paths for pattern in material.paths)


def is_material(path: str) -> bool:
    """Say whether ``path`` is of a known material."""
    return any(fnmatchcase(path, pattern) for each in MATERIALS for pattern in each.paths)


def patterns() -> tuple[str, ...]:
    """Return the paths of all materials."""
    return tuple(path for each in MATERIALS for path in each.paths)

"""Changes of a root that are not the user's: generated files, virtroot's own lines, mount points."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.merge import paths
from pipelines.merge.changes import compare_inventories
from tests.support.files import MADE, write
from tests.support.roots import dpkg, find_changes, looked, root

__all__ = ["root"]


def test_generated_files_are_not_changes(root: Path) -> None:
    base = looked(root)
    for path in ("var/log/wtmp", "var/cache/apt/x.deb", "var/lib/systemd/timesync/clock", "etc/machine-id", "tmp/x",
                 "etc/ssh/ssh_host_rsa_key", "etc/ld.so.cache", "usr/lib/python3/__pycache__/x.pyc", "etc/passwd-",
                 "boot/initrd.img-6.12", "root/.ssh/authorized_keys", "root/.bash_history"):  # fmt: skip
        write(root / path, "made", when=MADE + 9)
    assert not find_changes(root, base)


def test_lines_that_virtroot_writes_are_not_changes(root: Path) -> None:
    write(root / "etc/fstab", "root / virtiofs defaults 0 0\n")
    base = looked(root)
    write(root / "etc/fstab", "root / virtiofs defaults 0 0\nusr /usr virtiofs defaults 0 0\n", when=MADE + 9)
    write(root / "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 web\n", when=MADE + 9)
    assert not find_changes(root, base)
    write(root / "etc/hosts", "127.0.0.1 localhost\n10.0.0.1 db\n", when=MADE + 9)
    write(root / "etc/fstab", "root / virtiofs defaults 0 0\ntmpfs /tmp tmpfs size=1G 0 0\n", when=MADE + 9)
    assert [(each.kind, each.name) for each in find_changes(root, base).etc] == [
        ("changed", "etc/fstab"),
        ("added", "etc/hosts"),
    ]


def test_mount_points_of_shares_are_not_changes(root: Path) -> None:
    base = looked(root)
    (root / "srv/data/web").mkdir(parents=True)
    (root / "srv/mine").mkdir()
    now = looked(root, base)
    assert [each.name for each in compare_inventories(base, now, "debian", ["/srv/data/web"]).files] == ["srv/mine"]
    write(root / "srv/data/web/file", "below the mount")
    now = looked(root, base)
    assert [each.name for each in compare_inventories(base, now, "debian", ["/srv/data/web"]).files] == [
        "srv/data",
        "srv/mine",
    ]


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("var/backups/postgres/dump.sql", True),
        ("var/backups/dpkg.status.0", False),
        ("var/backups/apt.extended_states.1.gz", False),
        ("var/lib/systemd/home/ann.identity", True),
        ("var/lib/systemd/timers/stamp-x.timer", False),
        ("var/lib/misc/dnsmasq.leases", True),
        ("usr/share/mime/packages/own.xml", True),
        ("usr/share/mime/globs2", False),
        ("etc/credstore/secret", True),
        ("root/.ssh/id_ed25519", True),
        ("root/.ssh/authorized_keys", False),
        ("vmlinuz.mine", True),
        ("vmlinuz.old", False),
        ("usr/lib/x86_64-linux-gnu/gdk-pixbuf-2.0/2.10.0/loaders.cache", False),
        ("usr/share/app/__pycache__/x.pyc", False),
    ],
)
def test_paths_of_generated_files_are_matched_exactly(path: str, seen: bool) -> None:
    assert paths.is_ignored(path) != seen


def test_links_to_certificates_of_packages_are_not_changes(root: Path) -> None:
    dpkg(root, "ca-certificates", {"usr/share/ca-certificates/A.crt": "A", "usr/share/ca-certificates/B.crt": "B"})
    certificates = root / "etc/ssl/certs"
    certificates.mkdir(parents=True)
    (certificates / "A.pem").symlink_to("/usr/share/ca-certificates/A.crt")
    base = looked(root)
    (certificates / "A.pem").unlink()
    (certificates / "B.pem").symlink_to("/usr/share/ca-certificates/B.crt")
    (certificates / "1234abcd.0").symlink_to("B.pem")
    write(root / "etc/ssl/certs/ca-certificates.crt", "B", when=MADE + 9)
    assert not find_changes(root, base)
    (certificates / "own.pem").symlink_to("/usr/local/share/ca-certificates/own.crt")
    assert [each.name for each in find_changes(root, base).etc] == ["etc/ssl/certs/own.pem"]

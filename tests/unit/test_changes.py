"""Changes between two inventories of a root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipelines.artifact.manifest import Package
from pipelines.merge import baselines
from pipelines.merge.baselines import Inventory
from pipelines.merge.changes import Changed, compare_inventories
from pipelines.target import programs
from pipelines.target.payload import inventory
from pipelines.target.target import Local
from tests.support.files import MADE, write
from tests.support.roots import BASE, dpkg, find_changes, list_file_changes, looked, root

__all__ = ["root"]


def test_an_unchanged_root_has_no_changes(root: Path) -> None:
    base = looked(root)
    assert base.packages == (Package(name="base", version="1"),)
    assert base.unowned.keys() == {"usr/share", "usr/share/made", "usr/share/made/index"}
    assert base.etc["etc/base.conf"].package == "base"
    assert base.contents["etc/plain.conf"] == b"plain\n"
    assert not find_changes(root, base)


def test_all_changes_of_a_guest_are_found(root: Path) -> None:
    base = looked(root)
    dpkg(root, "jq", {"usr/bin/jq": "jq", "etc/jq.conf": "of jq\n"}, version="1.7", conffiles=("etc/jq.conf",))
    dpkg(root, "nginx", {"usr/lib/systemd/system/nginx.service": "unit"}, version="2:1")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "nginx.service").symlink_to("/usr/lib/systemd/system/nginx.service")
    write(root / "etc/base.conf", "mine\n", when=MADE + 9)
    write(root / "etc/new.conf", "new\n", when=MADE + 9)
    (root / "etc/plain.conf").unlink()
    (root / "etc/base.d/10.conf").unlink()
    for number in range(3):
        write(root / f"srv/site/pages/{number}", "page", when=MADE + 9)
    write(root / "bin/true", "false", when=MADE + 9)
    write(root / "etc/passwd", "root:x:0:0::/root:/bin/bash\nme:x:1000:1000::/home/me:/bin/sh\n")
    write(root / "etc/shadow", "root:$y$secret:20000::::::\nme:!:1::::::\n")
    said = find_changes(root, base)
    assert [(change.name, change.after) for change in said.packages.added] == [("jq", "1.7"), ("nginx", "2:1")]
    assert [(each.kind, each.name, each.what) for each in said.etc] == [
        ("changed", "etc/base.conf", "content"),
        ("removed", "etc/base.d/10.conf", ""),
        ("added", "etc/new.conf", ""),
        ("removed", "etc/plain.conf", ""),
    ]
    assert [(each.kind, each.name, each.entries) for each in said.files] == [("added", "srv/site", 4)]
    assert said.edited == ("usr/bin/true",)
    assert said.accounts == (
        Changed("added", "user me", "number 1000"),
        Changed("changed", "user root", "shell"),
        Changed("changed", "user root", "password"),
    )


def test_files_of_an_upgraded_package_are_not_changes(root: Path) -> None:
    base = looked(root)
    newer = {**BASE, "bin/true": "truer", "etc/base.conf": "newer\n"}
    dpkg(root, "base", newer, version="2", conffiles=("etc/base.conf",))
    os.utime(root / "usr/bin/true", (MADE + 9, MADE + 9))
    said = find_changes(root, base)
    assert [(change.before, change.after) for change in said.packages.upgraded] == [("1", "2")]
    assert (said.etc, said.files, said.edited) == ((), (), ())


def test_a_service_that_was_enabled_is_a_change(root: Path) -> None:
    dpkg(root, "ssh", {"usr/lib/systemd/system/ssh.service": "unit"})
    base = looked(root)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "ssh.service").symlink_to("/usr/lib/systemd/system/ssh.service")
    assert [(each.kind, each.name) for each in find_changes(root, base).etc] == [
        ("added", "etc/systemd/system/multi-user.target.wants/ssh.service")
    ]


def test_changed_added_and_removed_files_are_found(root: Path) -> None:
    write(root / "srv/data/one", "1")
    write(root / "srv/data/two", "2")
    base = looked(root)
    write(root / "srv/data/one", "one", when=MADE + 9)
    (root / "srv/data/two").unlink()
    write(root / "srv/data/three/deep", "3")
    assert [(each.kind, each.name) for each in find_changes(root, base).files] == [
        ("changed", "srv/data/one"),
        ("added", "srv/data/three"),
        ("removed", "srv/data/two"),
    ]


def test_data_of_services_with_dynamic_users_is_a_change(root: Path) -> None:
    base = looked(root)
    for made_at_a_boot in ("private", "systemd/linger"):
        (root / "var/lib" / made_at_a_boot).mkdir()
    assert not find_changes(root, base)
    write(root / "var/lib/private/db/data", "precious")
    assert [each.name for each in find_changes(root, base).files] == ["var/lib/private"]


def test_changed_files_of_packages_are_found(root: Path) -> None:
    dpkg(root, "app", {"usr/bin/su": "su", "usr/bin/tool": "tool", "usr/bin/sh": "sh", "var/lib/db/.keep": ""})
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/bin/sh").unlink()
    (root / "usr/bin/sh").symlink_to("dash")
    base = looked(root)
    assert list_file_changes(find_changes(root, base)) == []
    (root / "usr/bin/su").chmod(0o750)
    (root / "usr/bin/tool").unlink()
    (root / "usr/bin/sh").unlink()
    (root / "usr/bin/sh").symlink_to("bash")
    (root / "var/lib/db").rename(root / "srv/db")
    (root / "var/lib/db").symlink_to("/srv/db")
    os.chown(root / "opt", 33, 33)
    assert list_file_changes(find_changes(root, base)) == [
        ("added", "srv/db", "directory"),
        ("changed", "opt", "owner"),
        ("changed", "usr/bin/sh", "leads to bash"),
        ("changed", "usr/bin/su", "mode 4755, now 0750"),
        ("removed", "usr/bin/tool", ""),
        ("changed", "var/lib/db", "leads to /srv/db"),
    ]
    # A file that another version of its package has no more is not a change of the user.
    dpkg(root, "app", {"usr/bin/other": "other"}, version="2")
    assert [name for _, name, _ in list_file_changes(find_changes(root, base)) if name.startswith("usr/bin/t")] == []


def test_modes_owners_and_targets_of_unowned_files_are_compared(root: Path) -> None:
    write(root / "opt/app/secret", "x")
    (root / "opt/app/current").symlink_to("releases/1")
    base = looked(root)
    (root / "opt/app/secret").chmod(0o600)
    os.chown(root / "opt/app", 33, 0)
    (root / "opt/app/current").unlink()
    (root / "opt/app/current").symlink_to("releases/2")
    assert list_file_changes(find_changes(root, base)) == [
        ("changed", "opt/app", "owner"),
        ("changed", "opt/app/current", "leads to releases/2"),
        ("changed", "opt/app/secret", "mode 0644, now 0600"),
    ]


def test_a_large_tree_is_compared_as_one_entry(root: Path) -> None:
    for number in range(inventory._MOST_LISTED + 1):
        write(root / f"opt/app/modules/{number}", "x")
    base = looked(root)
    assert base.unowned["opt/app"].kind == "tree"
    known = [path for path, entry in base.unowned.items() if entry.kind != "tree"]

    def now() -> Inventory:
        return baselines.parse(programs.take_inventory(Local(), str(root), MADE, known))

    assert list_file_changes(compare_inventories(base, now(), "debian")) == []
    write(root / "opt/app/modules/7", "y", when=MADE + 9)
    assert list_file_changes(compare_inventories(base, now(), "debian")) == [("changed", "opt/app", "content")]


def test_a_directory_that_a_package_owns_now_is_not_removed(root: Path) -> None:
    write(root / "var/www/html/index.html", "page")
    base = looked(root)
    dpkg(root, "web", {"var/www/.keep": ""})
    assert list_file_changes(find_changes(root, base)) == []
    (root / "var/www/html/index.html").unlink()
    assert list_file_changes(find_changes(root, base)) == [("removed", "var/www/html/index.html", "")]


def test_an_edited_configuration_of_a_new_package_is_a_change(root: Path) -> None:
    base = looked(root)
    dpkg(root, "nginx", {"etc/nginx.conf": "of nginx\n", "etc/nginx.d/x": "x"}, conffiles=("etc/nginx.conf",))
    assert find_changes(root, base).etc == ()
    write(root / "etc/nginx.conf", "mine\n", when=MADE + 9)
    assert [(each.kind, each.name) for each in find_changes(root, base).etc] == [("added", "etc/nginx.conf")]


def test_a_file_that_an_upgraded_package_dropped_is_not_a_change(root: Path) -> None:
    dpkg(root, "app", {"etc/app.d/one": "1", "etc/app.d/two": "2"})
    base = looked(root)
    (root / "etc/app.d/one").unlink()
    assert [(each.kind, each.name) for each in find_changes(root, base).etc] == [("removed", "etc/app.d/one")]
    dpkg(root, "app", {"etc/app.d/two": "2"}, version="2")
    assert find_changes(root, base).etc == ()


def test_attributes_and_special_files_are_compared(root: Path) -> None:
    os.mkfifo(root / "etc/pipe")
    write(root / "opt/app/run", "run")
    os.mkfifo(root / "opt/app/pipe")
    base = looked(root)
    assert (base.etc["etc/pipe"].content, base.unowned["opt/app/pipe"].content) == ("FIFO", "FIFO")
    for path in ("etc/plain.conf", "usr/bin/true", "opt/app/run"):
        os.setxattr(root / path, "user.mine", b"value")
    for path in ("etc/pipe", "opt/app/pipe"):
        (root / path).unlink()
        os.mknod(root / path, stat.S_IFSOCK | 0o644)
    changed = find_changes(root, base)
    assert [(each.name, each.what) for each in changed.etc] == [
        ("etc/pipe", "FIFO, now socket"), ("etc/plain.conf", "attributes")]  # fmt: skip
    assert list_file_changes(changed) == [
        ("changed", "opt/app/pipe", "FIFO, now socket"),
        ("changed", "opt/app/run", "attributes"),
        ("changed", "usr/bin/true", "attributes"),
    ]

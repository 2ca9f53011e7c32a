"""The inventory of a root: what is read of it, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.artifact.manifest import Package
from pipelines.errors import VirtrootError
from pipelines.target import programs
from pipelines.target.payload import errors, inventory, packages, root_reader
from pipelines.target.target import Local
from tests.support.files import MADE, write
from tests.support.roots import dpkg, find_changes, looked, md5, root

__all__ = ["root"]


def test_an_inventory_changes_no_access_time(root: Path) -> None:
    """A new access time in a snapshot would end the sharing of its blocks with the base tree."""
    seen = [root / "etc", root / "etc/base.conf", root / "usr/bin", root / "var/lib/dpkg/status"]
    for path in seen:
        os.utime(path, (1, MADE))
    base = looked(root)
    assert [path.stat().st_atime for path in seen] == [1] * len(seen)
    links = [root / "usr/bin/plain", root / "opt/link"]
    for link in links:
        link.symlink_to("nowhere")
        os.utime(link, (1, MADE), follow_symlinks=False)
    looked(root, base)
    programs.save_inventory(Local(), str(root), MADE, str(root.parent / "arrived"), links=False)
    assert [path.lstat().st_atime for path in links] == [1] * len(links)


def test_the_inventory_of_a_hostile_root_reads_nothing_outside_of_it(root: Path, tmp_path: Path) -> None:
    base = looked(root)
    secret = write(tmp_path / "secret", "of the host")
    (root / "etc/plain.conf").unlink()
    (root / "etc/plain.conf").symlink_to(secret)
    (root / "etc/dir").symlink_to(tmp_path)
    os.mkfifo(root / "etc/pipe")
    (root / "srv/link").symlink_to("/")
    (root / os.fsdecode(b"srv/\xff\x1b[31m")).write_text("odd")
    (root / "var/lib/dpkg/info/evil.list").symlink_to(secret)
    said = looked(root, base)
    assert said.etc["etc/plain.conf"].kind == "link"
    assert said.etc["etc/pipe"].kind == "other"
    assert not any(path.startswith("etc/dir/") for path in said.etc)
    assert b"of the host" not in b"".join(said.contents.values())
    assert {each.name for each in find_changes(root, base).files} == {"srv/link", os.fsdecode(b"srv/\xff\x1b[31m")}


def test_a_root_that_replaced_its_database_by_a_device_has_no_packages(root: Path) -> None:
    (root / "var/lib/dpkg/status").unlink()
    os.mkfifo(root / "var/lib/dpkg/status")
    assert looked(root).packages == ()


@pytest.mark.parametrize(
    ("module", "bound", "value", "why"),
    [
        (inventory, "_MOST_ENTRIES", 3, "more than 3 entries"),
        (inventory, "_MOST_BYTES", 10, "the limit is"),
        (root_reader, "_DEEPEST", 2, "more than 2 levels of directories"),
    ],
)
def test_a_root_over_the_limits_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, bound: str, value: int, why: str
) -> None:
    monkeypatch.setattr(module, bound, value)
    with pytest.raises(errors.Refused, match=why):
        inventory.take(str(root), MADE)


def test_a_refusal_is_reported_without_a_traceback(root: Path) -> None:
    (root / "/".join(["etc", *["d"] * 300])).mkdir(parents=True)
    with pytest.raises(VirtrootError, match="has more than 200 levels"):
        programs.take_inventory(Local(), str(root), MADE, [])


def test_packages_and_edited_files_of_arch_are_found(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path, text in {"etc/a.conf": "a\n", "usr/bin/a": "a", "usr/bin/odd name": "b"}.items():
        write(root / path, text, when=MADE + 9)
    local = "var/lib/pacman/local/a-b-1.0-2"
    write(root / f"{local}/desc", "%NAME%\na-b\n\n%VERSION%\n1.0-2\n")
    files = "%FILES%\netc/\netc/a.conf\nusr/\nusr/bin/\nusr/bin/a\nusr/bin/odd name\nvar/\nvar/lib/\n\n"
    digest = md5("a\n")
    write(root / f"{local}/files", f"{files}%BACKUP%\netc/a.conf\t{digest}\n")
    lines = [f"./usr/bin/a time=1.0 size=1 md5digest={md5('a')} sha256digest={hashlib.sha256(b'a').hexdigest()}",
             rf"./usr/bin/odd\040name sha256digest={hashlib.sha256(b'c').hexdigest()}"]  # fmt: skip
    (root / local / "mtree").write_bytes(gzip.compress("\n".join(["#mtree", *lines, ""]).encode()))
    said = looked(root)
    assert said.packages == (Package(name="a-b", version="1.0-2"),)
    assert said.etc["etc/a.conf"].as_packaged
    assert said.etc["etc/a.conf"].package == "a-b"
    assert said.edited == ("usr/bin/odd name",)
    assert said.unowned == {}


def test_without_digests_what_was_changed_after_the_package_was_installed_is_edited(root: Path, tmp_path: Path) -> None:
    dpkg(root, "bare", {"usr/bin/as-it-came": "a", "usr/bin/edited": "b"})
    (root / "var/lib/dpkg/info/bare.md5sums").unlink()
    installed = root / "var/lib/dpkg/info/bare.list"
    os.utime(root / "usr/bin/as-it-came", (MADE + 9, MADE + 9))
    os.utime(installed, (MADE + 99, MADE + 99))
    os.utime(root / "usr/bin/edited", (MADE + 999, MADE + 999))
    assert looked(root).edited == ("usr/bin/edited",)

    arch = tmp_path / "arch"
    write(arch / "usr/bin/as-it-came", "a", when=MADE + 9)
    write(arch / "usr/bin/edited", "b", when=MADE + 999)
    local = "var/lib/pacman/local/bare-1-1"
    write(arch / f"{local}/desc", f"%NAME%\nbare\n\n%VERSION%\n1-1\n\n%INSTALLDATE%\n{MADE + 99}\n")
    write(arch / f"{local}/files", "%FILES%\nusr/\nusr/bin/\nusr/bin/as-it-came\nusr/bin/edited\n")
    assert looked(arch).edited == ("usr/bin/edited",)
    write(arch / f"{local}/desc", "%NAME%\nbare\n\n%VERSION%\n1-1\n\n%INSTALLDATE%\nyesterday\n")
    assert looked(arch).edited == ("usr/bin/as-it-came", "usr/bin/edited")


def test_an_oversized_package_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpkg(tmp_path, "base", {"usr/bin/base": "x"})
    for number in range(3):
        with (tmp_path / f"var/lib/dpkg/info/huge{number}.list").open("wb") as huge:
            huge.truncate(100 << 20)
    with pytest.raises(errors.Refused, match="the limit is"):
        inventory.take(str(tmp_path), MADE)
    monkeypatch.setattr(packages, "LARGEST_DATABASE", 1 << 10)
    monkeypatch.setattr(packages, "_LARGEST_DATABASES", 2 << 10)
    for number in range(3):
        write(tmp_path / f"var/lib/dpkg/info/huge{number}.list", "/x\n" * 300)
    with pytest.raises(errors.Refused, match="the limit is"):
        inventory.take(str(tmp_path), MADE)
    monkeypatch.setattr(packages, "_LARGEST_DATABASES", 1 << 20)
    monkeypatch.setattr(packages, "_MOST_PATHS", 3)
    with pytest.raises(errors.Refused, match="more than 3 files"):
        inventory.take(str(tmp_path), MADE)


def test_too_many_unowned_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpkg(tmp_path, "base", {"srv/base": "x"})
    for number in range(9):
        write(tmp_path / f"srv/{number}", "x")
    monkeypatch.setattr(inventory, "_MOST_OTHERS", 5)
    with pytest.raises(errors.Refused, match="more than 5 entries belong to no package"):
        inventory.take(str(tmp_path), MADE)


def test_a_damaged_mtree_is_ignored(root: Path, tmp_path: Path) -> None:
    arch = tmp_path / "arch"
    local = "var/lib/pacman/local/a-1-1"
    write(arch / "etc/a.conf", "a", when=MADE + 9)
    write(arch / f"{local}/desc", f"%NAME%\na\n\n%VERSION%\n1-1\n\n%INSTALLDATE%\n{MADE + 99}\n")
    write(arch / f"{local}/files", "%FILES%\netc/\netc/a.conf\n")
    packed = bytearray(gzip.compress(b"#mtree\n" * 999))
    packed[12:20] = b"\xff" * 8
    (arch / local / "mtree").write_bytes(bytes(packed))
    assert looked(arch).etc["etc/a.conf"].as_packaged


@pytest.mark.parametrize("name", ["new\nline", "separator\u2028", "not-utf8-\udcff", "n" * 255])
def test_odd_names_are_reported_unchanged(root: Path, name: str) -> None:
    base = looked(root)
    write(root / f"etc/{name}", "mine")
    write(root / f"opt/app/{name}", "mine")
    if "\n" not in name:
        dpkg(root, "odd", {f"usr/bin/{name}": "of a package"})
        os.utime(root / "usr/bin" / name, (MADE + 9, MADE + 9))
    changed = find_changes(root, base)
    assert [each.name for each in changed.etc] == [f"etc/{name}"]
    assert looked(root, base).contents[f"etc/{name}"] == b"mine"
    assert [each.name for each in changed.files] == ["opt/app"]
    assert changed.edited == ()

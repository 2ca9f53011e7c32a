"""What is found in a root beside its packages' files, on trees made for it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast
from unittest.mock import create_autospec

import pytest

from pipelines.artifact.manifest import Package
from pipelines.errors import VirtrootError
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.merge import baselines, paths
from pipelines.merge.baselines import Inventory
from pipelines.merge.changes import Changed, Changes, compare_inventories
from pipelines.pool.base_trees import BaseTree
from pipelines.target import programs
from pipelines.target.payload import errors, inventory, packages, root_reader
from pipelines.target.target import Local
from tests.support.artifacts import made
from tests.support.files import MADE, write
from tests.support.guests import make_guest
from tests.support.roots import BASE, dpkg, looked, md5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    dpkg(root, "base", BASE, conffiles=("etc/base.conf", "etc/base.d/10.conf"))
    write(root / "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root / "etc/group", "root:x:0:\n")
    write(root / "etc/shadow", "root:*:20000::::::\n")
    write(root / "usr/share/made/index", "made by a trigger")
    return root


def found(root: Path, base: Inventory) -> Changes:
    return compare_inventories(base, looked(root, base), "debian")


def test_nothing_has_changed(root: Path) -> None:
    base = looked(root)
    assert base.packages == (Package(name="base", version="1"),)
    assert base.unowned.keys() == {"usr/share", "usr/share/made", "usr/share/made/index"}
    assert base.etc["etc/base.conf"].package == "base"
    assert base.contents["etc/plain.conf"] == b"plain\n"
    assert not found(root, base)


def test_exactly_what_a_guest_changed(root: Path) -> None:
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
    said = found(root, base)
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


def test_what_an_upgraded_package_brought_is_no_change_of_the_users(root: Path) -> None:
    base = looked(root)
    newer = {**BASE, "bin/true": "truer", "etc/base.conf": "newer\n"}
    dpkg(root, "base", newer, version="2", conffiles=("etc/base.conf",))
    os.utime(root / "usr/bin/true", (MADE + 9, MADE + 9))
    said = found(root, base)
    assert [(change.before, change.after) for change in said.packages.upgraded] == [("1", "2")]
    assert (said.etc, said.files, said.edited) == ((), (), ())


def test_a_service_that_was_there_and_is_enabled_now_is_a_change(root: Path) -> None:
    dpkg(root, "ssh", {"usr/lib/systemd/system/ssh.service": "unit"})
    base = looked(root)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "ssh.service").symlink_to("/usr/lib/systemd/system/ssh.service")
    assert [(each.kind, each.name) for each in found(root, base).etc] == [
        ("added", "etc/systemd/system/multi-user.target.wants/ssh.service")
    ]


def test_what_the_system_makes_by_itself_is_none(root: Path) -> None:
    base = looked(root)
    for path in ("var/log/wtmp", "var/cache/apt/x.deb", "var/lib/systemd/timesync/clock", "etc/machine-id", "tmp/x",
                 "etc/ssh/ssh_host_rsa_key", "etc/ld.so.cache", "usr/lib/python3/__pycache__/x.pyc", "etc/passwd-",
                 "boot/initrd.img-6.12", "root/.ssh/authorized_keys", "root/.bash_history"):  # fmt: skip
        write(root / path, "made", when=MADE + 9)
    assert not found(root, base)


@pytest.mark.parametrize("damage", ["torn", "garbage", "of another version", "gone"])
def test_a_record_that_cannot_be_read_is_made_anew(root: Path, tmp_path: Path, damage: str) -> None:
    pool, boot = tmp_path / "pool", tmp_path / "boot"
    pool.mkdir()
    boot.mkdir()
    base = looked(root)
    record = boot / "pristine.tar.gz"
    whole = (root.parent / "pristine").read_bytes()
    with tarfile.open(record, "w:gz") as tar:
        tar.add(write(tmp_path / "survey.json", '{"packages": []}'), "survey.json")
    if damage in ("torn", "garbage"):
        record.write_bytes(whole[: len(whole) // 2] if damage == "torn" else b"no archive")
    elif damage == "gone":
        record.unlink()
    artifact = made(tmp_path, "web", "20261101T030000Z-1")
    Local().run(["tar", "--create", "--zstd", f"--file={artifact.tarball}", "--directory", str(root), "."])
    manifest = artifact.manifest.model_copy(update={"source_date_epoch": MADE})
    hypervisor = create_autospec(Hypervisor, instance=True, target=Local())
    guest = make_guest(hypervisor, root=f"{pool}/root.web", boot=str(boot))
    assert baselines.get_baseline(guest, manifest, artifact) == base
    assert list(pool.iterdir()) == []
    assert baselines.parse(record.read_bytes()) == base
    record.unlink()
    with pytest.raises(VirtrootError, match="has no baseline, and its artifact"):
        baselines.get_baseline(guest, manifest, None)


def test_looking_leaves_no_trace(root: Path) -> None:
    """A time of access that is noted in a snapshot takes the blocks that it shares with its golden tree from it."""
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


def test_a_golden_tree_is_looked_at_once(root: Path, tmp_path: Path) -> None:
    golden, boots = BaseTree(str(tmp_path), "digest"), [tmp_path / name for name in ("boot1", "boot2")]
    manifest = made(tmp_path / "output", "web", "20261101T030000Z-1").manifest
    for boot in boots:
        baselines.write_baseline(Local(), "/nonexistent", manifest, str(boot), golden)
        write(root / "etc/base.conf", "changed afterwards\n")
    assert boots[0].joinpath("pristine.tar.gz").read_bytes() == boots[1].joinpath("pristine.tar.gz").read_bytes()
    assert b"as it came\n" in baselines.parse((boots[1] / "pristine.tar.gz").read_bytes()).contents.values()
    assert (boots[1] / "pristine.tar.gz").stat().st_mode & 0o777 == 0o600


def test_what_grew_and_what_went(root: Path) -> None:
    write(root / "srv/data/one", "1")
    write(root / "srv/data/two", "2")
    base = looked(root)
    write(root / "srv/data/one", "one", when=MADE + 9)
    (root / "srv/data/two").unlink()
    write(root / "srv/data/three/deep", "3")
    assert [(each.kind, each.name) for each in found(root, base).files] == [
        ("changed", "srv/data/one"),
        ("added", "srv/data/three"),
        ("removed", "srv/data/two"),
    ]


def test_lines_that_virtroot_writes_are_not_the_users(root: Path) -> None:
    write(root / "etc/fstab", "root / virtiofs defaults 0 0\n")
    base = looked(root)
    write(root / "etc/fstab", "root / virtiofs defaults 0 0\nusr /usr virtiofs defaults 0 0\n", when=MADE + 9)
    write(root / "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 web\n", when=MADE + 9)
    assert not found(root, base)
    write(root / "etc/hosts", "127.0.0.1 localhost\n10.0.0.1 db\n", when=MADE + 9)
    write(root / "etc/fstab", "root / virtiofs defaults 0 0\ntmpfs /tmp tmpfs size=1G 0 0\n", when=MADE + 9)
    assert [(each.kind, each.name) for each in found(root, base).etc] == [
        ("changed", "etc/fstab"),
        ("added", "etc/hosts"),
    ]


def test_where_shares_are_is_not_the_users(root: Path) -> None:
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


def test_a_hostile_root_is_looked_at_and_nowhere_else(root: Path, tmp_path: Path) -> None:
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
    assert {each.name for each in found(root, base).files} == {"srv/link", os.fsdecode(b"srv/\xff\x1b[31m")}


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
def test_more_than_anybody_has_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, bound: str, value: int, why: str
) -> None:
    monkeypatch.setattr(module, bound, value)
    with pytest.raises(errors.Refused, match=why):
        inventory.take(str(root), MADE)


def test_what_it_refuses_is_said_without_a_traceback(root: Path) -> None:
    (root / "/".join(["etc", *["d"] * 300])).mkdir(parents=True)
    with pytest.raises(VirtrootError, match="has more than 200 levels"):
        programs.take_inventory(Local(), str(root), MADE, [])


def test_arch(tmp_path: Path) -> None:
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


def test_a_database_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_entries_that_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpkg(tmp_path, "base", {"srv/base": "x"})
    for number in range(9):
        write(tmp_path / f"srv/{number}", "x")
    monkeypatch.setattr(inventory, "_MOST_OTHERS", 5)
    with pytest.raises(errors.Refused, match="more than 5 entries belong to no package"):
        inventory.take(str(tmp_path), MADE)


def test_what_services_with_users_of_their_own_keep_is_told(root: Path) -> None:
    base = looked(root)
    for made_at_a_boot in ("private", "systemd/linger"):
        (root / "var/lib" / made_at_a_boot).mkdir()
    assert not found(root, base)
    write(root / "var/lib/private/db/data", "precious")
    assert [each.name for each in found(root, base).files] == ["var/lib/private"]


def told(found: Changes) -> list[tuple[str, str, str]]:
    return [(each.kind, each.name, each.what) for each in (*found.files, *found.altered)]


def test_what_packages_have_and_is_otherwise_is_told(root: Path) -> None:
    dpkg(root, "app", {"usr/bin/su": "su", "usr/bin/tool": "tool", "usr/bin/sh": "sh", "var/lib/db/.keep": ""})
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/bin/sh").unlink()
    (root / "usr/bin/sh").symlink_to("dash")
    base = looked(root)
    assert told(found(root, base)) == []
    (root / "usr/bin/su").chmod(0o750)
    (root / "usr/bin/tool").unlink()
    (root / "usr/bin/sh").unlink()
    (root / "usr/bin/sh").symlink_to("bash")
    (root / "var/lib/db").rename(root / "srv/db")
    (root / "var/lib/db").symlink_to("/srv/db")
    os.chown(root / "opt", 33, 33)
    assert told(found(root, base)) == [
        ("added", "srv/db", "directory"),
        ("changed", "opt", "owner"),
        ("changed", "usr/bin/sh", "leads to bash"),
        ("changed", "usr/bin/su", "mode 4755, now 0750"),
        ("removed", "usr/bin/tool", ""),
        ("changed", "var/lib/db", "leads to /srv/db"),
    ]
    # What went with its package, or came otherwise with a newer one, is nobody's doing.
    dpkg(root, "app", {"usr/bin/other": "other"}, version="2")
    assert [name for _, name, _ in told(found(root, base)) if name.startswith("usr/bin/t")] == []


def test_a_record_of_an_earlier_version_is_compared_as_far_as_it_goes(root: Path) -> None:
    base = looked(root)
    older = replace(
        base,
        owned=None,
        missing=None,
        unowned={path: replace(entry, mode=None, gid=None) for path, entry in base.unowned.items()},
    )
    (root / "usr/bin/true").unlink()
    os.chown(root / "usr/share/made/index", 33, 33)
    assert told(found(root, older)) == []


def test_rights_and_links_of_what_no_package_has_are_told(root: Path) -> None:
    write(root / "opt/app/secret", "x")
    (root / "opt/app/current").symlink_to("releases/1")
    base = looked(root)
    (root / "opt/app/secret").chmod(0o600)
    os.chown(root / "opt/app", 33, 0)
    (root / "opt/app/current").unlink()
    (root / "opt/app/current").symlink_to("releases/2")
    assert told(found(root, base)) == [
        ("changed", "opt/app", "owner"),
        ("changed", "opt/app/current", "leads to releases/2"),
        ("changed", "opt/app/secret", "mode 0644, now 0600"),
    ]


def test_a_tree_that_is_told_as_one_is_compared_as_one(root: Path) -> None:
    for number in range(inventory._MOST_LISTED + 1):
        write(root / f"opt/app/modules/{number}", "x")
    base = looked(root)
    assert base.unowned["opt/app"].kind == "tree"
    known = [path for path, entry in base.unowned.items() if entry.kind != "tree"]

    def now() -> Inventory:
        return baselines.parse(programs.take_inventory(Local(), str(root), MADE, known))

    assert told(compare_inventories(base, now(), "debian")) == []
    write(root / "opt/app/modules/7", "y", when=MADE + 9)
    assert told(compare_inventories(base, now(), "debian")) == [("changed", "opt/app", "content")]


def test_what_is_a_packages_by_now_did_not_go(root: Path) -> None:
    write(root / "var/www/html/index.html", "page")
    base = looked(root)
    dpkg(root, "web", {"var/www/.keep": ""})
    assert told(found(root, base)) == []
    (root / "var/www/html/index.html").unlink()
    assert told(found(root, base)) == [("removed", "var/www/html/index.html", "")]


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
def test_what_programs_make_anew_is_named_closely(path: str, seen: bool) -> None:
    assert paths.is_ignored(path) != seen


def test_a_configuration_of_a_package_that_came_and_was_edited_is_told(root: Path) -> None:
    base = looked(root)
    dpkg(root, "nginx", {"etc/nginx.conf": "of nginx\n", "etc/nginx.d/x": "x"}, conffiles=("etc/nginx.conf",))
    assert found(root, base).etc == ()
    write(root / "etc/nginx.conf", "mine\n", when=MADE + 9)
    assert [(each.kind, each.name) for each in found(root, base).etc] == [("added", "etc/nginx.conf")]


def test_what_an_upgraded_package_does_not_bring_any_more_was_not_taken_away(root: Path) -> None:
    dpkg(root, "app", {"etc/app.d/one": "1", "etc/app.d/two": "2"})
    base = looked(root)
    (root / "etc/app.d/one").unlink()
    assert [(each.kind, each.name) for each in found(root, base).etc] == [("removed", "etc/app.d/one")]
    dpkg(root, "app", {"etc/app.d/two": "2"}, version="2")
    assert found(root, base).etc == ()


def test_links_to_certificates_of_packages_are_their_programs(root: Path) -> None:
    dpkg(root, "ca-certificates", {"usr/share/ca-certificates/A.crt": "A", "usr/share/ca-certificates/B.crt": "B"})
    certificates = root / "etc/ssl/certs"
    certificates.mkdir(parents=True)
    (certificates / "A.pem").symlink_to("/usr/share/ca-certificates/A.crt")
    base = looked(root)
    (certificates / "A.pem").unlink()
    (certificates / "B.pem").symlink_to("/usr/share/ca-certificates/B.crt")
    (certificates / "1234abcd.0").symlink_to("B.pem")
    write(root / "etc/ssl/certs/ca-certificates.crt", "B", when=MADE + 9)
    assert not found(root, base)
    (certificates / "own.pem").symlink_to("/usr/local/share/ca-certificates/own.crt")
    assert [each.name for each in found(root, base).etc] == ["etc/ssl/certs/own.pem"]


def test_a_torn_mtree_says_nothing(root: Path, tmp_path: Path) -> None:
    arch = tmp_path / "arch"
    local = "var/lib/pacman/local/a-1-1"
    write(arch / "etc/a.conf", "a", when=MADE + 9)
    write(arch / f"{local}/desc", f"%NAME%\na\n\n%VERSION%\n1-1\n\n%INSTALLDATE%\n{MADE + 99}\n")
    write(arch / f"{local}/files", "%FILES%\netc/\netc/a.conf\n")
    packed = bytearray(gzip.compress(b"#mtree\n" * 999))
    packed[12:20] = b"\xff" * 8
    (arch / local / "mtree").write_bytes(bytes(packed))
    assert looked(arch).etc["etc/a.conf"].as_packaged


def test_of_a_root_that_arrived_links_are_as_they_were_made(root: Path, tmp_path: Path) -> None:
    """Nobody looked where they lead then; one that was made anew and leads there again is no change."""
    boot = tmp_path / "boot"
    boot.mkdir()
    for name in ("same", "again", "other", "own"):
        (root / "opt" / name).symlink_to("somewhere")
        os.utime(root / "opt" / name, (MADE, MADE if name != "own" else MADE - 9), follow_symlinks=False)
    (root / "usr/bin/sh").symlink_to("dash")
    os.utime(root / "usr/bin/sh", (MADE, MADE), follow_symlinks=False)
    hypervisor = create_autospec(Hypervisor, instance=True, target=Local())
    guest = make_guest(hypervisor, boot=str(boot))
    assert baselines.find_install_inventory(guest) is None
    programs.save_inventory(Local(), str(root), MADE, str(boot / "arrived.tar.gz"), links=False)
    os.utime(root / "opt/own", (MADE, MADE), follow_symlinks=False)
    programs.save_inventory(Local(), str(root), MADE, str(boot / "pristine.tar.gz"))
    os.utime(root / "opt/own", (MADE, MADE - 9), follow_symlinks=False)
    arrived = baselines.find_install_inventory(guest)
    assert arrived is not None
    assert {path: entry.content for path, entry in arrived.unowned.items() if entry.kind == "link"} == {
        "opt/again": "somewhere", "opt/other": "somewhere", "opt/own": "", "opt/same": "somewhere",
        "usr/bin/sh": "dash"}  # fmt: skip
    for name, to in {"again": "somewhere", "other": "elsewhere"}.items():
        (root / "opt" / name).unlink()
        (root / "opt" / name).symlink_to(to)
    assert told(found(root, arrived)) == [("changed", "opt/other", "leads to elsewhere")]


def test_a_golden_trees_record_of_an_earlier_version_is_made_anew(root: Path, tmp_path: Path) -> None:
    golden = BaseTree(str(tmp_path), "digest")
    root.rename(golden.tree)
    manifest = made(tmp_path / "output", "web", "20261101T030000Z-1").manifest
    with tarfile.open(tmp_path / "pristine.tar.gz", "w:gz") as tar:
        older = '{"packages": [], "etc": {}, "unowned": {}, "edited": []}'
        tar.add(write(tmp_path / "survey.json", older), "survey.json")
    baselines.write_baseline(Local(), "/nonexistent", manifest, str(tmp_path / "boot"), golden)
    assert baselines.parse((tmp_path / "boot/pristine.tar.gz").read_bytes()).owned is not None


def test_attributes_and_special_files_are_told(root: Path) -> None:
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
    changed = found(root, base)
    assert [(each.name, each.what) for each in changed.etc] == [
        ("etc/pipe", "FIFO, now socket"), ("etc/plain.conf", "attributes")]  # fmt: skip
    assert told(changed) == [
        ("changed", "opt/app/pipe", "FIFO, now socket"),
        ("changed", "opt/app/run", "attributes"),
        ("changed", "usr/bin/true", "attributes"),
    ]


def test_a_record_without_attributes_is_compared_without_them(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "etc/pipe")
    os.mkfifo(root / "opt/pipe")
    for path in ("etc/plain.conf", "usr/bin/true"):
        os.setxattr(root / path, "user.mine", b"value")
    base = looked(root)
    told_then, contents = inventory.take(str(root), MADE)
    del told_then["attributes"], told_then["decisions"]
    for part in ("etc", "unowned", "owned"):
        for entry in cast("dict[str, dict[str, object]]", told_then[part]).values():
            entry.pop("attributes", None)
            if entry["kind"] == "other":
                del entry["content"]
    older = io.BytesIO()
    inventory.pack(told_then, contents, older)
    then = baselines.parse(older.getvalue())
    assert not then.has_attributes
    manifest = made(tmp_path, "web", "20261101T030000Z-1").manifest.model_copy(update={"source_date_epoch": MADE})
    assert not compare_inventories(then, baselines.take_inventory(Local(), str(root), manifest, then), "debian")
    assert baselines.take_inventory(Local(), str(root), manifest, base).etc["etc/plain.conf"].attributes


@pytest.mark.parametrize("name", ["new\nline", "separator\u2028", "not-utf8-\udcff", "n" * 255])
def test_odd_names_are_told_as_they_are(root: Path, name: str) -> None:
    base = looked(root)
    write(root / f"etc/{name}", "mine")
    write(root / f"opt/app/{name}", "mine")
    if "\n" not in name:
        dpkg(root, "odd", {f"usr/bin/{name}": "of a package"})
        os.utime(root / "usr/bin" / name, (MADE + 9, MADE + 9))
    changed = found(root, base)
    assert [each.name for each in changed.etc] == [f"etc/{name}"]
    assert looked(root, base).contents[f"etc/{name}"] == b"mine"
    assert [each.name for each in changed.files] == ["opt/app"]
    assert changed.edited == ()

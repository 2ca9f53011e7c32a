"""Shares: how they are written, what stands in a guest's fstab and definition, and what no guest may have."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hostdir
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import exposure, place, pool, shares
from pipelines.pool.shares import Share
from pipelines.recipe.recipe import GuestDefaults
from pipelines.recipe.share_spec import ShareSpec, parse
from pipelines.target.target import Local
from tests.support.guests import make_guest

#: Lines that Python, but no program of a system, takes for two, and text that is not UTF-8.
ODD_LINES = [b"x\r", b"# a\x0bb\x0cc", b"# \x1c\x1d\x1e", "# \x85\u2028\u2029\xa0".encode(), b"# caf\xe9"]

FSTAB = "# ours\nroot / virtiofs defaults 0 0\n"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("data:media:/srv/media", ShareSpec("data", "media", "/srv/media")),
        ("a.b-c_1:/srv/x/:/mnt//y/:ro", ShareSpec("a.b-c_1", "/srv/x", "/mnt/y", readonly=True)),
        ("d:/srv/x:/y:create:ro", ShareSpec("d", "/srv/x", "/y", readonly=True, create=True)),
        (f"{'t' * 36}:/a b:/c d", ShareSpec("t" * 36, "/a b", "/c d")),
        ("d://x//..//y:/z", ShareSpec("d", "/y", "/z")),
    ],
)
def test_what_is_a_share(text: str, share: ShareSpec) -> None:
    assert parse(text) == share


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid share"),
        ("data", "invalid share"),
        ("data:/x", "invalid share"),
        ("data:/x:/y:ro:ro", "invalid share"),
        ("data:/x:/y:rw", "invalid share"),
        (":/x:/y", "invalid tag"),
        ("-d:/x:/y", "invalid tag"),
        ("a b:/x:/y", "invalid tag"),
        ("ä" * 19 + ":/x:/y", "longer than 36 bytes"),
        ("root:/x:/y", "the guest's root"),
        ("d::/y", "invalid share source"),
        ("d:x/y:/y", "invalid share source"),
        ("d:..:/y", "invalid share source"),
        ("d:a..b:/y", "invalid share source"),
        ("d:/x\n:/y", "control characters"),
        ("d:/x:y", "invalid mount point"),
        ("d:/x:/a/../b", "invalid mount point"),
        ("d:/x:/a\tb", "invalid mount point"),
        ("d:/x:/", "would hide"),
        ("d:/x:/usr/", "would hide"),
        ("d:/x://proc/1", "would hide"),
        *(
            (f"d:/x:{point}", "would hide")
            for point in (
                "/usr/lib",
                "/usr/bin/x",
                "/var/lib",
                "/var/lib/dpkg/info",
                "/etc/systemd",
                "/etc/systemd/system",
                "/run/systemd",
                "/boot/new",
                "/lib/modules",
                "/var/log",
            )
        ),
    ],
)
def test_what_is_no_share(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


def test_what_was_recorded_is_not_held_to_todays_rules() -> None:
    assert parse("d:x:/usr/lib/jvm/", recorded=True).point == "/usr/lib/jvm"
    with pytest.raises(ValueError, match="invalid mount point"):
        parse("d:x:usr/lib", recorded=True)


@pytest.mark.parametrize(
    "point", ["/usr/local", "/var/lib/docker", "/var/www", "/etc/nginx", "/library", "/srv", "/home"]
)
def test_what_a_mount_does_not_hide_may_be_a_mount_point(point: str) -> None:
    assert parse(f"d:/x:{point}").point == point


def test_a_recipe_has_shares_as_the_command_line_writes_them() -> None:
    read = GuestDefaults.model_validate(yaml.safe_load('{overlayfs: true, shares: ["a:x:/srv/a", "b:x:/srv/b:ro"]}'))
    assert (read.overlayfs, read.shares) == (True, ("a:x:/srv/a", "b:x:/srv/b:ro"))
    for wrong in (
        ["a:/srv/x:/srv/a"],
        ["a:x"],
        ["a:x:/srv/a", "a:y:/srv/b"],
        ["a:x:/srv/a", "b:y:/srv/a"],
        "a:x:/srv/a",
    ):
        with pytest.raises(ValidationError):
            GuestDefaults.model_validate({"shares": wrong})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pool" / "root.web"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "fstab").write_text(FSTAB)
    return root


def test_fstab_gets_one_line_for_each_share_and_loses_it_again(root: Path) -> None:
    target, at = Local(), str(root)
    before = os.umask(0o077)
    try:
        shares.add_mount(target, at, Share("data", "/x"), "/srv/a b\\c")
        shares.add_mount(target, at, Share("more", "/y", readonly=True), "/srv/more")
    finally:
        os.umask(before)
    always = "nofail,x-systemd.before=local-fs.target"
    data = f"data /srv/a\\040b\\134c virtiofs {always} 0 0\n"
    assert (root / "etc/fstab").read_text() == f"{FSTAB}{data}more /srv/more virtiofs {always},ro 0 0\n"
    assert shares.read_mount_points(target, at) == {"root": "/", "data": "/srv/a b\\c", "more": "/srv/more"}
    assert [(root / path).stat().st_mode & 0o777 for path in ("srv/a b\\c", "srv/more", "etc/fstab")] == [
        0o755,
        0o755,
        0o644,
    ]
    shares.add_mount(target, at, Share("more", "/y"), "/srv/elsewhere")
    assert (root / "etc/fstab").read_text() == f"{FSTAB}{data}more /srv/elsewhere virtiofs {always} 0 0\n"
    assert shares.remove_mount(target, at, "more")
    assert not shares.remove_mount(target, at, "more")
    assert (root / "etc/fstab").read_text() == FSTAB + data


def test_the_roots_own_line_is_no_shares(root: Path) -> None:
    (root / "etc/fstab").write_text(f"{FSTAB}data /x ext4 defaults 0 0\n# data /y virtiofs\n")
    before = (root / "etc/fstab").read_text()
    assert not shares.remove_mount(Local(), str(root), "data")
    assert (root / "etc/fstab").read_text() == before


@pytest.mark.parametrize("content", [b"root / virtiofs\0", "root".encode("utf-16")])
def test_a_fstab_that_is_no_text_is_left_alone(root: Path, content: bytes) -> None:
    (root / "etc/fstab").write_bytes(content)
    with pytest.raises(VirtrootError, match="not a text file"):
        shares.add_mount(Local(), str(root), Share("data", "/x"), "/srv/data")
    assert (root / "etc/fstab").read_bytes() == content


@pytest.mark.parametrize("odd", ODD_LINES)
def test_other_lines_of_the_fstab_stay_byte_for_byte(root: Path, odd: bytes) -> None:
    (root / "etc/fstab").write_bytes(FSTAB.encode() + odd + b"\n")
    shares.add_mount(Local(), str(root), Share("data", "/x"), "/srv/two words\nand\ttabs")
    assert shares.read_mount_points(Local(), str(root))["data"] == "/srv/two words\nand\ttabs"
    assert (root / "etc/fstab").read_bytes().count(b"\n") == 4
    shares.remove_mount(Local(), str(root), "data")
    assert (root / "etc/fstab").read_bytes() == FSTAB.encode() + odd + b"\n"


def test_a_mount_point_of_any_bytes_is_read_and_written_as_it_is(root: Path) -> None:
    (root / "etc/fstab").write_bytes(b"data /srv/\\303\\251\\377\\012\xa0 virtiofs\n")
    point = shares.read_mount_points(Local(), str(root))["data"]
    assert point.encode(errors="surrogateescape") == b"/srv/\xc3\xa9\xff\n\xa0"


@pytest.mark.parametrize("planted", ["srv", "etc/fstab"])
def test_no_link_leads_out_of_the_root(root: Path, tmp_path: Path, planted: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("theirs\n")
    path = root / planted
    path.unlink(missing_ok=True)
    path.symlink_to(victim / "file" if planted.endswith("fstab") else victim)
    with pytest.raises(VirtrootError, match="leaves the root through a link"):
        shares.add_mount(Local(), str(root), Share("data", "/x"), "/srv/data")
    assert [each.name for each in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "theirs\n"


def test_a_definition_says_what_it_was_given() -> None:
    given = (Share("data", "/srv/a b"), Share("more", "/srv/<&>", readonly=True))
    devices = ET.Element("devices")
    root = shares.make_device(Share("root", "/pool/root.web"))
    devices.extend([root, *map(shares.make_device, given), ET.Element("filesystem", type="mount")])
    definition = ET.Element("domain")
    definition.append(devices)
    assert shares.parse_shares(definition) == given


class Machine(Hypervisor):
    """This machine, with guests that are told and pools of a temporary directory."""

    def __init__(self, version: tuple[int, ...] = (11, 3, 0)) -> None:
        super().__init__(Local())
        self.__dict__["version"] = version


def guest(name: str, root: Path, *shared: Share) -> Guest:
    return make_guest(Machine(), name, root=str(root), shares=shared)


@pytest.fixture
def host(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a pool, another pool of libvirt's, the guest web, and a guest far whose root is elsewhere."""
    for name in ("boot", "images", "far/root.far/srv", "free/inner", "shared/inner", "pool/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.setattr(place, "BOOT", str(tmp_path / "boot"))
    monkeypatch.setattr(pool, "list_directories", lambda _: [str(tmp_path / "pool"), str(tmp_path / "images")])
    everyone = [guest("web", root), guest("far", tmp_path / "far/root.far", Share("s", str(tmp_path / "shared")))]
    monkeypatch.setattr(guests, "list_guests", lambda _: everyone)
    return tmp_path


def find(host: Path, source: str, **more: bool) -> tuple[Share, ...]:
    wanted = ShareSpec("data", source.replace("HOST", str(host)), "/srv/data", **more)
    return hostdir.resolve(Machine(), str(host / "pool"), [wanted])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("HOST/missing", "No such file or directory"),
        ("HOST/file", "not a directory"),
        ("/", "contains"),
        ("HOST", "contains"),
        ("HOST/pool", "is the pool"),
        ("HOST/pool/root.web", "is the root of web"),
        ("HOST/pool/root.web/etc", "is inside the root of web|is inside the pool"),
        ("HOST/link", "is the root of web"),
        ("HOST/link/etc", "is inside"),
        ("HOST/pool/other", "is inside the pool"),
        ("HOST/boot", "is the directory of guests' kernels"),
        ("HOST/images", "is another pool of libvirt"),
        ("HOST/far", "contains the root of far"),
        ("HOST/far/root.far/srv", "is inside the root of far"),
        ("HOST/shared/inner", "contain one another"),
    ],
)
def test_what_no_guest_may_have(host: Path, source: str, reason: str) -> None:
    with pytest.raises(VirtrootError, match=reason):
        find(host, source)


OF_THE_SYSTEM = (
    "/bin", "/boot", "/dev/shm", "/etc", "/etc/ssh", "/lib", "/proc/1", "/root", "/root/.ssh", "/run/virtroot/new",
    "/sbin", "/sys", "/usr", "/usr/local/lib", "/var/lib/libvirt", "/var/lib/docker/new", "/var/log", "/var/lib",
)  # fmt: skip


@pytest.mark.parametrize("directory", OF_THE_SYSTEM)
def test_no_guest_gets_the_hosts_own_system(host: Path, directory: str) -> None:
    for readonly in (True, False):
        with pytest.raises(VirtrootError, match=r"belongs to the host's system|contains the pool"):
            find(host, directory, create=True, readonly=readonly)


def test_the_hosts_own_system_is_found_under_another_name_too(host: Path) -> None:
    (host / "free" / "link").symlink_to("/etc")
    with pytest.raises(VirtrootError, match="/etc is /etc, which belongs to the host's system"):
        find(host, "HOST/free/link")
    (host / "alias").mkdir()
    with mounted(Path("/etc"), host / "alias"), pytest.raises(VirtrootError, match="belongs to the host's system"):
        find(host, "HOST/alias")
    (host / "free/etc").mkdir()
    with mounted(Path("/etc"), host / "free/etc"), pytest.raises(VirtrootError, match="contains /etc"):
        find(host, "HOST/free")


def test_what_a_guest_may_have(host: Path) -> None:
    assert find(host, "HOST/free") == (Share("data", f"{host}/free"),)
    assert find(host, "HOST/new/deep", create=True, readonly=True) == (Share("data", f"{host}/new/deep", True),)
    assert find(host, "name") == (Share("data", f"{host}/pool/share.name"),)
    assert not (host / "new").exists()
    hostdir.make_directories(Local(), find(host, "name"))
    assert (host / "pool/share.name").is_dir()
    (host / "pool/share.name").chmod(0o700)
    hostdir.make_directories(Local(), find(host, "name"))
    assert (host / "pool/share.name").stat().st_mode & 0o777 == 0o700
    assert hostdir.list_named(Local(), str(host / "pool")) == {f"{host}/pool/share.name": "name"}


def test_a_directory_is_told_whatever_it_is_mounted_as(host: Path) -> None:
    (host / "alias").mkdir()
    with mounted(host / "pool", host / "alias"):
        for source, reason in (("alias", "is the pool"), ("alias/root.web", "is the root of web")):
            with pytest.raises(VirtrootError, match=reason):
                find(host, f"HOST/{source}")
        with pytest.raises(VirtrootError, match="is inside"):
            find(host, "HOST/alias/root.web/etc")
    with mounted(host / "far", host / "alias"), pytest.raises(VirtrootError, match="contains the root of far"):
        find(host, "HOST/alias")


@contextmanager
def mounted(what: Path, where: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(what), str(where)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_what_is_mounted_in_a_directory_is_shared_with_it(host: Path) -> None:
    (host / "free/pool").mkdir()
    with mounted(host / "pool", host / "free/pool"):
        with pytest.raises(VirtrootError, match="contains the root of web"):
            find(host, "HOST/free")
        find(host, "HOST/free/inner")
    (host / "shared/pool").mkdir()
    with mounted(host / "pool", host / "shared/pool"), pytest.raises(VirtrootError, match="far shares"):
        hostdir.refuse_shared(Machine(), str(host / "pool"))


def test_a_pool_does_not_come_to_lie_in_a_share(host: Path) -> None:
    for inside in ("shared", "shared/inner", "shared/not/there/yet"):
        with pytest.raises(VirtrootError, match=r"far shares .*, and could change the pool"):
            hostdir.refuse_shared(Machine(), str(host / inside))
    for beside in ("pool", "free", "shared.too"):
        hostdir.refuse_shared(Machine(), str(host / beside))


def test_two_shares_of_one_guest_do_not_hold_one_another(host: Path) -> None:
    wanted = [ShareSpec("a", f"{host}/free", "/srv/a"), ShareSpec("b", f"{host}/free/inner", "/srv/b")]
    with pytest.raises(VirtrootError, match="which this guest shares as a, contain one another"):
        hostdir.resolve(Machine(), str(host / "pool"), wanted)


def test_other_writers_are_named(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find(host, "HOST/shared")
    assert "far shares" in capsys.readouterr().err
    find(host, "HOST/free")
    assert capsys.readouterr().err == ""


def test_an_older_libvirt_has_no_read_only_shares(host: Path) -> None:
    wanted = [ShareSpec("a", f"{host}/free", "/srv/a", readonly=True)]
    with pytest.raises(VirtrootError, match=r"libvirt 10.9.0 has no read-only shares"):
        hostdir.resolve(Machine((10, 9, 0)), str(host / "pool"), wanted)


def test_a_share_that_others_reach_is_warned_of(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lies = exposure.inspect(Local(), [str(host / "free")])[0]
    assert not lies.reached, "pytest's own directories are closed"
    opened = exposure.Exposure(reached=True, nosuid_nodev=False, writers=())
    for tame, readonly, warned in ((False, False, True), (True, False, False), (False, True, False)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(exposure, "inspect", lambda *_, tame=tame: [replace(opened, nosuid_nodev=tame)])
            find(host, "HOST/free", readonly=readonly)
        assert ("other users of the host can enter" in " ".join(capsys.readouterr().err.split())) is warned


def test_how_a_directory_lies_is_seen_from_modes_and_mounts(tmp_path: Path) -> None:
    base = Path("/var/tmp") / f"virtroot-{tmp_path.name}-{os.getpid()}"
    data = base / "media" / "data"
    data.mkdir(parents=True)
    try:
        for each in (base, base / "media", data):
            each.chmod(0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(base / "media")], check=True)
        data.mkdir(mode=0o755)
        look = partial(exposure.inspect, Local(), [str(data)])
        assert (look()[0].reached, look()[0].nosuid_nodev, look()[0].is_dangerous) == (True, False, True)
        subprocess.run(["mount", "-o", "remount,nosuid,nodev", str(base / "media")], check=True)
        assert (look()[0].nosuid_nodev, look()[0].is_dangerous) == (True, False)
        base.chmod(0o750)
        assert not look()[0].reached
    finally:
        subprocess.run(["umount", str(base / "media")], check=False)
        shutil.rmtree(base)


@pytest.mark.parametrize(
    ("owner", "group", "mode", "who"),
    [
        (1234, 0, 0o755, "user 1234 may write"),
        (0, 12345, 0o775, "other users may write"),
        (0, pwd.getpwnam("daemon").pw_gid, 0o775, f"user {pwd.getpwnam('daemon').pw_uid} may write"),
        (0, 0, 0o757, "other users may write"),
    ],
)
def test_a_share_that_others_could_replace_by_a_link_is_refused(
    host: Path, owner: int, group: int, mode: int, who: str
) -> None:
    above = host / "above"
    (above / "data").mkdir(parents=True)
    os.chown(above, owner, group)
    above.chmod(mode)
    for source in ("HOST/above/data", "HOST/above/new"):
        with pytest.raises(VirtrootError, match=f"{who} to {above}, and could replace"):
            find(host, source, create=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SUDO_UID", "1234")
        if owner:
            find(host, "HOST/above/data")
    os.chown(above, 0, 0)
    above.chmod(0o775)
    find(host, "HOST/above/data")
    above.chmod(0o1777)
    find(host, "HOST/above/data")
    os.chown(above / "data", 1234, 0)
    with pytest.raises(VirtrootError, match="user 1234 may write"):
        find(host, "HOST/above/data")

"""Which directories of the host a guest can share."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hostdir
from pipelines.guest.guest import Guest
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.pool import exposure, place, pool
from pipelines.pool.shares import Share
from pipelines.recipe.share_spec import ShareSpec
from pipelines.target.target import Local
from tests.support.guests import make_guest


class Machine(Hypervisor):
    """This machine, with a chosen version of libvirt."""

    def __init__(self, version: tuple[int, ...] = (11, 3, 0)) -> None:
        super().__init__(Local())
        self.__dict__["version"] = version


def guest(name: str, root: Path, *shared: Share) -> Guest:
    return make_guest(Machine(), name, root=str(root), shares=shared)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a pool, another pool of libvirt's, the guest web, and a guest far whose root is elsewhere."""
    root = tmp_path / "pool" / "root.web"
    for name in ("boot", "images", "far/root.far/srv", "free/inner", "shared/inner", "pool/root.web/etc", "pool/other"):
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
def test_directories_of_virtroot_and_of_other_guests_are_refused(host: Path, source: str, reason: str) -> None:
    with pytest.raises(VirtrootError, match=reason):
        find(host, source)


OF_THE_SYSTEM = (
    "/bin", "/boot", "/dev/shm", "/etc", "/etc/ssh", "/lib", "/proc/1", "/root", "/root/.ssh", "/run/virtroot/new",
    "/sbin", "/sys", "/usr", "/usr/local/lib", "/var/lib/libvirt", "/var/lib/docker/new", "/var/log", "/var/lib",
)  # fmt: skip


@pytest.mark.parametrize("directory", OF_THE_SYSTEM)
def test_directories_of_the_hosts_system_are_refused(host: Path, directory: str) -> None:
    for readonly in (True, False):
        with pytest.raises(VirtrootError, match=r"belongs to the host's system|contains the pool"):
            find(host, directory, create=True, readonly=readonly)


def test_the_hosts_system_is_recognised_under_another_name(host: Path) -> None:
    (host / "free" / "link").symlink_to("/etc")
    with pytest.raises(VirtrootError, match="/etc is /etc, which belongs to the host's system"):
        find(host, "HOST/free/link")
    (host / "alias").mkdir()
    with mounted(Path("/etc"), host / "alias"), pytest.raises(VirtrootError, match="belongs to the host's system"):
        find(host, "HOST/alias")
    (host / "free/etc").mkdir()
    with mounted(Path("/etc"), host / "free/etc"), pytest.raises(VirtrootError, match="contains /etc"):
        find(host, "HOST/free")


def test_other_directories_are_accepted(host: Path) -> None:
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


def test_a_directory_is_recognised_through_a_bind_mount(host: Path) -> None:
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


def test_mounts_inside_a_directory_are_checked(host: Path) -> None:
    (host / "free/pool").mkdir()
    with mounted(host / "pool", host / "free/pool"):
        with pytest.raises(VirtrootError, match="contains the root of web"):
            find(host, "HOST/free")
        find(host, "HOST/free/inner")
    (host / "shared/pool").mkdir()
    with mounted(host / "pool", host / "shared/pool"), pytest.raises(VirtrootError, match="far shares"):
        hostdir.refuse_shared(Machine(), str(host / "pool"))


def test_a_pool_inside_a_share_is_refused(host: Path) -> None:
    for inside in ("shared", "shared/inner", "shared/not/there/yet"):
        with pytest.raises(VirtrootError, match=r"far shares .*, and could change the pool"):
            hostdir.refuse_shared(Machine(), str(host / inside))
    for beside in ("pool", "free", "shared.too"):
        hostdir.refuse_shared(Machine(), str(host / beside))


def test_shares_of_one_guest_that_contain_one_another_are_refused(host: Path) -> None:
    wanted = [ShareSpec("a", f"{host}/free", "/srv/a"), ShareSpec("b", f"{host}/free/inner", "/srv/b")]
    with pytest.raises(VirtrootError, match="which this guest shares as a, contain one another"):
        hostdir.resolve(Machine(), str(host / "pool"), wanted)


def test_other_guests_that_share_a_directory_are_named(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find(host, "HOST/shared")
    assert "far shares" in capsys.readouterr().err
    find(host, "HOST/free")
    assert capsys.readouterr().err == ""


def test_an_older_libvirt_has_no_read_only_shares(host: Path) -> None:
    wanted = [ShareSpec("a", f"{host}/free", "/srv/a", readonly=True)]
    with pytest.raises(VirtrootError, match=r"libvirt 10.9.0 has no read-only shares"):
        hostdir.resolve(Machine((10, 9, 0)), str(host / "pool"), wanted)


def test_a_share_that_other_users_can_enter_gives_a_warning(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lies = exposure.inspect(Local(), [str(host / "free")])[0]
    assert not lies.reached, "pytest's own directories are closed"
    opened = exposure.Exposure(reached=True, nosuid_nodev=False, writers=())
    for tame, readonly, warned in ((False, False, True), (True, False, False), (False, True, False)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(exposure, "inspect", lambda *_, tame=tame: [replace(opened, nosuid_nodev=tame)])
            find(host, "HOST/free", readonly=readonly)
        assert ("other users of the host can enter" in " ".join(capsys.readouterr().err.split())) is warned


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

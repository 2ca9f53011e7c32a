"""The host name that packages find while a root is made, and what becomes of it in guests."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pipelines.artifact.manifest import Manifest
from pipelines.builder import build_name
from pipelines.guest import identity
from pipelines.merge import changes
from pipelines.merge.baselines import Inventory
from pipelines.recipe import surroundings
from pipelines.recipe.distros import DISTROS
from pipelines.recipe.parse import parse
from pipelines.recipe.stage import Command
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.settings import CHECKOUT
from pipelines.target.payload import guest_files
from pipelines.target.target import Local
from tests.support.surveys import file, survey

FQDN = f"{BUILD_NAME}.localdomain"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "etc").mkdir(parents=True)
    (path / "proc").mkdir()
    return path


def run(command: Command, root: Path) -> None:
    """Run a command of the root's on ``root`` itself."""
    assert command.chroot
    argv = [*command.argv]
    argv[2] = argv[2].replace("/etc/", f"{root}/etc/").replace("/proc/", f"{root}/proc/")
    subprocess.run(argv, check=True)


def test_what_is_lent_is_there_and_all_of_it_is_taken_back(root: Path) -> None:
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
    run(surroundings.set_up(), root)
    assert (root / "etc/hostname").read_text() == f"{BUILD_NAME}\n"
    assert (root / "etc/hosts").read_text() == f"127.0.0.1\tlocalhost\n127.0.1.1 {FQDN} {BUILD_NAME}\n"
    assert (root / "proc/sys/net/ipv6").is_dir()
    run(surroundings.tear_down(), root)
    assert (root / "etc/hosts").read_text() == "127.0.0.1\tlocalhost\n"
    assert [path.name for path in (root / "etc").iterdir()] == ["hosts"]
    assert list((root / "proc").iterdir()) == []


def test_a_root_that_had_no_hosts_has_none_afterwards(root: Path) -> None:
    run(surroundings.set_up(), root)
    assert FQDN in (root / "etc/hosts").read_text()
    run(surroundings.tear_down(), root)
    assert not (root / "etc/hosts").exists()


def test_names_that_a_recipe_brings_stay(root: Path) -> None:
    run(surroundings.set_up(), root)
    (root / "etc/hostname").write_text("mine\n")
    (root / "etc/hosts").write_text(f"10.0.0.1 mine\n127.0.1.1 {FQDN} {BUILD_NAME} more\n")
    run(surroundings.tear_down(), root)
    assert (root / "etc/hostname").read_text() == "mine\n"
    assert (root / "etc/hosts").read_text() == f"10.0.0.1 mine\n127.0.1.1 {FQDN} {BUILD_NAME} more\n"
    (root / "etc/hostname").unlink()
    (root / "etc/hosts").unlink()
    (root / "etc/hosts").symlink_to("/etc/hosts")
    run(surroundings.tear_down(), root)


@pytest.mark.parametrize("distro", sorted(DISTROS))
def test_packages_and_commands_of_every_distribution_find_a_name(distro: str) -> None:
    stages = DISTROS[distro].stages(parse(f"distro: {distro}\n", "test.yaml", {}), ())
    steps = [(stage.name, step) for stage in stages for step in stage.steps]
    assert [name for name, step in steps if step == surroundings.set_up()] == ["skeleton"]
    assert [name for name, step in steps if step == surroundings.tear_down()] == ["finish"]


def test_the_builder_has_the_name_that_the_root_knows() -> None:
    # hostname --fqdn asks the kernel for the name, and the root's /etc/hosts for its domain.
    sources = [(CHECKOUT / f"pipelines/builder/{name}.py").read_text() for name in ("container", "root_container")]
    assert all("hostname=BUILD_NAME" in text for text in sources)


def test_files_with_the_name_are_found(root: Path, tmp_path: Path) -> None:
    (root / "etc/postfix").mkdir()
    (root / "etc/postfix/main.cf").write_text(f"myhostname = {FQDN}\n")
    (root / "etc/other").write_text("myhostname = web\n")
    (root / "etc/binary").write_bytes(b"\0" + FQDN.encode())
    (tmp_path / "outside").write_text(FQDN)
    (root / "etc/link").symlink_to(tmp_path / "outside")
    assert build_name.find(Local(), str(root)) == ("etc/postfix/main.cf",)


def test_no_file_outside_is_searched(root: Path, tmp_path: Path) -> None:
    assert build_name.find(Local(), str(root)) == ()
    (root / "etc").rmdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text(FQDN)
    (root / "etc").symlink_to(tmp_path / "outside")
    assert build_name.find(Local(), str(root)) == ()


def named_in(*paths: str) -> Manifest:
    return cast("Manifest", SimpleNamespace(named_in=paths))


def test_each_guest_gets_its_own_name_and_a_clone_too(root: Path) -> None:
    (root / "etc/hostname").write_text("web\n")
    (root / "etc/mailname").write_text(f"{FQDN}\n")
    (root / "etc/conf").write_text(f"a web of {BUILD_NAME}, {FQDN}\n")
    (root / "etc/conf").chmod(0o640)
    manifest = named_in("etc/mailname", "etc/conf", "etc/gone")
    identity.replace_build_name(Local(), str(root), manifest)
    assert (root / "etc/mailname").read_text() == "web.localdomain\n"
    assert (root / "etc/conf").read_text() == "a web of web, web.localdomain\n"
    assert stat.S_IMODE((root / "etc/conf").stat().st_mode) == 0o640
    identity.replace_build_name(Local(), str(root), manifest, "web", "db")
    assert (root / "etc/mailname").read_text() == "db.localdomain\n"
    # A host name may be any word: only with its domain is it surely one.
    assert (root / "etc/conf").read_text() == "a web of web, db.localdomain\n"


def test_a_name_is_written_through_no_link_and_into_no_device(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(FQDN)
    (root / "etc/link").symlink_to(tmp_path / "outside")
    (root / "etc/inside").symlink_to("real")
    (root / "etc/real").write_text(FQDN)
    os.mkfifo(root / "etc/pipe")
    (root / "out").symlink_to(tmp_path)
    paths = ("etc/link", "etc/inside", "etc/pipe", "out/outside", "none/there")
    guest_files.substitute(str(root), BUILD_NAME, "web", paths)
    assert (tmp_path / "outside").read_text() == FQDN
    assert (root / "etc/inside").is_symlink()
    assert (root / "etc/real").read_text() == FQDN
    assert not list((root / "etc").glob(".*virtroot-*"))


def changed(base: Inventory, now: Inventory) -> list[str]:
    return [each.name for each in changes.compare_inventories(base, now, "debian").etc]


def test_the_guests_name_is_no_change_of_its_users() -> None:
    # netbase's lines of multicast addresses are not in the file that install writes.
    hosts = "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\nff02::1\t\tip6-allnodes\n"
    base = survey({"etc/mailname": f"{FQDN}\n", "etc/conf": f"my {FQDN}\n", "etc/hosts": hosts})
    now = survey({"etc/hostname": "web\n", "etc/mailname": "web.localdomain\n", "etc/conf": "my web.localdomain\n"})
    now.etc["etc/hosts"], now.contents["etc/hosts"] = file("127.0.1.1 web\n"), b"127.0.1.1 web\n"
    assert changed(base, now) == []
    edited = replace(now, etc={**now.etc, "etc/conf": file("my web.example\n")})
    edited.contents["etc/conf"] = b"my web.example\n"
    assert changed(base, edited) == ["etc/conf"]

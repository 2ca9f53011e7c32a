"""A root's /usr as a device of its own, and what a guest may have put in its place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest.domain import rename_definition
from pipelines.pool import shares
from pipelines.pool.place import Place
from pipelines.pool.shares import Share
from pipelines.settings import CHECKOUT
from pipelines.target import programs
from pipelines.target.payload import before_start
from pipelines.target.payload.errors import Refused
from pipelines.target.target import Local
from tests.support.definitions import parsed
from tests.support.domains import make_definition
from tests.support.planted import NOT_A_DIRECTORY, plant_absolute

FSTAB = "root / virtiofs defaults 0 0\n"

MKINITCPIO = CHECKOUT / "pipelines/recipe/skeletons/mkinitcpio/etc/initcpio/hooks/virtroot-usr"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root.web"
    for name in ("boot", "usr", "etc"):
        (root / name).mkdir(parents=True)
    (root / "vmlinuz").write_bytes(b"kernel")
    (root / "etc" / "fstab").write_text(FSTAB)
    (tmp_path / "victim").mkdir()
    return root


def domain(root: Path, *given: Share, cache: str = "mixed") -> str:
    return make_definition(root, root.parent / "virtroot.web", initrd="", cache=cache, shares=given)


@pytest.mark.parametrize("attack", NOT_A_DIRECTORY)
def test_what_is_no_directory_any_more_is_not_served(root: Path, attack: Callable[[Path], None]) -> None:
    text = domain(root)
    before_start.prepare(text)
    (root / "usr").rmdir()
    attack(root / "usr")
    with pytest.raises(Refused, match="usr: not a directory of the root itself"):
        before_start.prepare(text)
    with pytest.raises(VirtrootError, match="usr: not a directory of the root itself"):
        programs.check_not_replaced(Local(), str(root), "usr")
    with pytest.raises(VirtrootError, match="usr: not a directory of the root itself"):
        shares.add_usr_mount(Local(), str(root))
    assert (root / "etc" / "fstab").read_text() == FSTAB


def test_with_another_cache_usr_may_be_anything(root: Path) -> None:
    (root / "usr").rmdir()
    plant_absolute(root / "usr")
    before_start.prepare(domain(root, cache="auto"))


def test_a_share_that_leads_elsewhere_is_not_served(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    text = domain(root, Share("data", str(tmp_path / "data")))
    before_start.prepare(text)
    (tmp_path / "data").rmdir()
    (tmp_path / "data").symlink_to("victim")
    with pytest.raises(Refused, match=f"data: leads to {tmp_path}/victim now"):
        before_start.prepare(text)


def test_usr_has_one_line_in_fstab(root: Path) -> None:
    for _ in range(2):
        shares.add_usr_mount(Local(), str(root))
    assert (root / "etc" / "fstab").read_text() == f"{FSTAB}usr /usr virtiofs defaults 0 0\n"


def test_usr_is_no_share_and_a_share_called_so_is_one(root: Path) -> None:
    definition = parsed(domain(root))
    assert shares.parse_cache(definition) == "mixed"
    assert shares.parse_shares(definition) == ()
    other = parsed(domain(root, Share("usr", "/srv/usr"), cache="auto"))
    assert shares.parse_cache(other) == "auto"
    assert shares.parse_cache(parsed(domain(root, Share("data", "/srv"), cache="always"))) == "always"
    assert shares.parse_shares(other) == (Share("usr", "/srv/usr"),)


def test_a_clone_has_its_own(root: Path) -> None:
    definition = parsed(domain(root))
    rename_definition(definition, str(root), Place("/pool", "web2"), UUID(int=7))
    assert [source.get("dir") for source in definition.iterfind("devices/filesystem/source")] == [
        "/pool/root.web2",
        "/pool/root.web2/usr",
    ]


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("usr /usr virtiofs defaults 0 0\n", ["-t virtiofs -o defaults usr /new_root/usr"]),
        ("# usr /usr virtiofs defaults 0 0\n", []),
        ("UUID=1 /usr ext4 defaults 0 2\n", []),
        ("", []),
    ],
)
def test_mkinitcpio_mounts_usr_where_fstab_has_it_on_virtiofs(tmp_path: Path, line: str, asked: list[str]) -> None:
    """The hook, with a mount that only says what it is asked for."""
    (tmp_path / "fstab").write_text(FSTAB + line)
    hook = MKINITCPIO.read_text().replace("/new_root/etc/fstab", "fstab")
    script = f'mount() {{ echo "$*"; }}\n{hook}\nrun_latehook\n'
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == asked
    assert os.access(MKINITCPIO.parent.parent / "install" / MKINITCPIO.name, os.R_OK)

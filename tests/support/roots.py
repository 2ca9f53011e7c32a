"""Roots with packages as dpkg has them, and surveys of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipelines.merge import baselines
from pipelines.merge.baselines import Inventory
from pipelines.merge.changes import Changes, compare_inventories
from pipelines.target import programs
from pipelines.target.target import Local
from tests.support.files import MADE, write

#: What every root has, with the directories that its packages have.
BASE = {
    "bin/true": "true",
    "etc/base.conf": "as it came\n",
    "etc/plain.conf": "plain\n",
    "etc/base.d/10.conf": "as it came, too\n",
    **{f"{directory}/.keep": "" for directory in ("boot", "home", "opt", "root", "srv", "usr/bin", "usr/lib/python3",
                                                  "var/cache", "var/lib/systemd", "var/log")},
}  # fmt: skip


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def dpkg(root: Path, name: str, files: dict[str, str], *, version: str = "1", conffiles: tuple[str, ...] = ()) -> None:
    """Install a package as dpkg has it, by the names that are in it: of /bin, say, where that is a link."""
    listed = {"/."}
    for path in files:
        listed |= {f"/{path}", *(f"/{parent}" for parent in Path(path).parents if str(parent) != ".")}
    write(root / f"var/lib/dpkg/info/{name}.list", "".join(f"{path}\n" for path in sorted(listed)))
    sums = "".join(f"{md5(text)}  {path}\n" for path, text in files.items() if path not in conffiles)
    write(root / f"var/lib/dpkg/info/{name}.md5sums", sums)
    for path, text in files.items():
        write(root / path, text)
    paragraph = f"Package: {name.partition(':')[0]}\nStatus: install ok installed\nVersion: {version}\n"
    if conffiles:
        paragraph += "Conffiles:\n" + "".join(f" /{path} {md5(files[path])}\n" for path in conffiles)
    status = root / "var/lib/dpkg/status"
    before = [each for each in (status.read_text() if status.exists() else "").split("\n\n") if each.strip()]
    kept = [each for each in before if not each.startswith(f"Package: {name.partition(':')[0]}\n")]
    write(root / "var/lib/dpkg/status", "\n\n".join([*kept, paragraph]))


def looked(root: Path, base: Inventory | None = None) -> Inventory:
    """Take the inventory of a tree with the program that is sent along."""
    if base is None:
        target = Local()
        kept = root.parent / "pristine"
        programs.save_inventory(target, str(root), MADE, str(kept))
        assert kept.stat().st_mode & 0o777 == 0o600
        return baselines.parse(kept.read_bytes())
    return baselines.parse(programs.take_inventory(Local(), str(root), MADE, base.unowned))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one package, accounts, and a file that no package owns."""
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    dpkg(root, "base", BASE, conffiles=("etc/base.conf", "etc/base.d/10.conf"))
    write(root / "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root / "etc/group", "root:x:0:\n")
    write(root / "etc/shadow", "root:*:20000::::::\n")
    write(root / "usr/share/made/index", "made by a trigger")
    return root


def find_changes(root: Path, base: Inventory) -> Changes:
    """Return the changes of a root since the inventory ``base``."""
    return compare_inventories(base, looked(root, base), "debian")


def list_file_changes(found: Changes) -> list[tuple[str, str, str]]:
    """Return kind, name and difference of each change outside of /etc."""
    return [(each.kind, each.name, each.what) for each in (*found.files, *found.altered)]

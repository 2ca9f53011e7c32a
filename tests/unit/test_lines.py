"""Lines and fields of text that others wrote: they end where the system's own programs see an end."""

from __future__ import annotations

import ast
import json
import os
import random
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest import identity
from pipelines.guest.identity import Identity
from pipelines.merge import accounts, changes
from pipelines.settings import CHECKOUT
from pipelines.target.payload import inventory, mountinfo, packages, root_reader
from pipelines.target.target import Local
from pipelines.text import split_fields, split_lines, trim

#: What `str.splitlines` and `str.split` split at, and no program of a system.
NO_LINE_ENDS = ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
NO_BLANKS = [*NO_LINE_ENDS, "\x1f", "\xa0", "\u2003", "\u3000"]


@pytest.mark.parametrize("odd", NO_BLANKS)
def test_only_newlines_end_lines_and_only_blanks_end_fields(odd: str) -> None:
    assert split_lines(f"a{odd}b\nc\n") == [f"a{odd}b", "c"]
    assert split_fields(f" a{odd}b \t c") == [f"a{odd}b", "c"]
    assert split_fields(f"a {odd}b  c", 2) == ["a", f"{odd}b  c"]
    assert trim(f" {odd}\n") == odd
    raw = odd.encode()
    assert split_lines(b"a%bb\nc" % raw) == [b"a%bb" % raw, b"c"]
    assert split_fields(b"a%bb c" % raw) == [b"a%bb" % raw, b"c"]


def test_lines_are_those_that_were_joined() -> None:
    choice = random.Random(2)  # noqa: S311
    for _ in range(2000):
        lines = ["".join(choice.choices(["x", " ", *NO_BLANKS], k=choice.randrange(4))) for _ in range(5)]
        assert split_lines("".join(f"{line}\n" for line in lines)) == lines


def test_no_text_has_no_lines_and_no_fields() -> None:
    assert (split_lines(""), split_fields(" \t"), split_lines("\n"), split_lines("a\n\n")) == ([], [], [""], ["a", ""])


def shown_by_kernel(points: list[bytes]) -> bytes:
    """Return what the kernel shows of mount points, of whose names it escapes four characters."""
    escaped = [point.replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\n", b"\\012") for point in points]
    return b"".join(b"36 35 0:3%d / %b rw,noatime shared:1 - tmpfs none rw\n" % each for each in enumerate(escaped))


@pytest.mark.parametrize("odd", [*NO_BLANKS, " ", "\n", "\\", " - ", "\\040", "\udcff"])
def test_a_mount_point_can_have_any_name(odd: str) -> None:
    names = ["/", f"/srv/a{odd}b", f"/srv/{odd}", "/srv/last"]
    text = shown_by_kernel([name.encode(errors="surrogateescape") for name in names])
    assert mountinfo.parse(text) == [(name, "tmpfs", ["rw", "noatime"]) for name in names]


@pytest.mark.parametrize("odd", [*NO_LINE_ENDS, "\udcff", "\0"])
@pytest.mark.parametrize("task", ["add", "rewrite"])
def test_a_restricted_key_stays_restricted(tmp_path: Path, odd: str, task: str) -> None:
    (tmp_path / "root/.ssh").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    theirs = f'command="echo {odd}ssh-ed25519 AAAA free" ssh-ed25519 AAAA theirs'.encode(errors="surrogateescape")
    keys, hosts = tmp_path / "root/.ssh/authorized_keys", tmp_path / "etc/hosts"
    keys.write_bytes(theirs)
    hosts.write_bytes(b"10.0.0.1 a" + odd.encode(errors="surrogateescape") + b"127.0.1.1 b\n127.0.1.1\told\n")
    own = Identity("web", UUID(int=1), "ssh-ed25519 BBBB own\n")
    if task == "add":
        identity.add_keys(Local(), str(tmp_path), own.authorized_keys)
    else:
        identity.update(Local(), str(tmp_path), own)
        first, second = hosts.read_bytes().split(b"\n")[:-1]
        assert first == b"10.0.0.1 a" + odd.encode(errors="surrogateescape") + b"127.0.1.1 b"
        assert second == b"127.0.1.1 web"
    assert keys.read_bytes() == theirs + b"\nssh-ed25519 BBBB own\n"


def test_a_file_that_lines_are_added_to_is_kept_however_large_it_is(tmp_path: Path) -> None:
    """More than one argument of a program may have, and than is read of most files."""
    (tmp_path / "root/.ssh").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    keys, hosts = tmp_path / "root/.ssh/authorized_keys", tmp_path / "etc/hosts"
    theirs = b"".join(b"ssh-rsa %0400d nr%d\n" % (number, number) for number in range(4000))
    blocked = b"".join(b"0.0.0.0 ads%d.example\n" % number for number in range(100_000))
    keys.write_bytes(theirs)
    hosts.write_bytes(blocked)
    identity.update(Local(), str(tmp_path), Identity("web", UUID(int=1), "ssh-ed25519 BBBB own\n"))
    assert keys.read_bytes() == theirs + b"ssh-ed25519 BBBB own\n"
    assert hosts.read_bytes() == blocked + b"127.0.1.1 web\n"


def test_a_file_that_cannot_be_read_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "root/.ssh").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "root/.ssh/authorized_keys")
    with pytest.raises(VirtrootError, match="authorized_keys: not a regular file"):
        identity.add_keys(Local(), str(tmp_path), "ssh-ed25519 BBBB own\n")
    with (tmp_path / "etc/hosts").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(VirtrootError, match="etc/hosts: has 1073741824 bytes"):
        identity.update(Local(), str(tmp_path), Identity("web", UUID(int=1)))
    assert (tmp_path / "root/.ssh/authorized_keys").is_fifo()
    assert (tmp_path / "etc/hosts").stat().st_size == 1 << 30


@pytest.mark.parametrize("odd", [*NO_LINE_ENDS, "\udcff"])
def test_no_text_in_an_account_makes_another_account(odd: str) -> None:
    line = f"ann:x:1000:1000:Ann{odd}evil:x:0:0::/:/bin/sh".encode(errors="surrogateescape")
    with pytest.raises(Exception, match="not a valid account file"):
        accounts.merge({}, {"passwd": line + b"\n"}, {})
    fine = f"ann:x:1000:1000:Ann{odd}:/home/ann:/bin/sh\n".encode(errors="surrogateescape")
    root = b"root:x:0:0:root:/root:/bin/sh\n"
    merged = accounts.merge({"passwd": root}, {"passwd": root + fine}, {"passwd": root})
    assert merged.files["passwd"] == root + fine
    assert {*changes._parse_accounts(root + line)} == {"root", "ann"}


@pytest.mark.parametrize("odd", [*NO_BLANKS, "\udcff"])
def test_files_of_packages_have_any_name(tmp_path: Path, odd: str) -> None:
    name = f"usr/share/odd/a{odd}b"
    raw = name.encode(errors="surrogateescape")
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / "usr/share/odd").mkdir(parents=True)
    Path(tmp_path, name).write_text("text")
    conffile = b"Conffiles:\n /etc/a%bb 5d41402abc4b2a76b9719d911017c592 obsolete\n" % raw[15:-1]
    (info.parent / "status").write_bytes(b"Package: odd\nStatus: install ok installed\nVersion: 1\n" + conffile)
    (info / "odd.list").write_bytes(b"/.\n/usr\n/usr/share\n/usr/share/odd\n/%b\n" % raw)
    (info / "odd.md5sums").write_bytes(b"1cb251ec0d568de6a929b520c4aed8d1  %b\n" % raw)
    found, _ = inventory.take(str(tmp_path), 0)
    assert name not in found["unowned"]  # type: ignore[operator]
    assert found["edited"] == []
    assert found["missing"] == {}
    told = packages.read_database(root_reader.RootReader(str(tmp_path))).configuration
    assert told == {f"etc/a{name[15:-1]}b": "5d41402abc4b2a76b9719d911017c592"}
    json.dumps(found)


@pytest.mark.parametrize("owner", ["../../../../../victim", "..", ".", "x/../../../../../../victim"])
def test_a_packages_name_leads_nowhere_out_of_the_root(tmp_path: Path, owner: str) -> None:
    root = tmp_path / "root"
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / "victim.md5sums").write_text("d41d8cd98f00b204e9800998ecf8427e  etc/x\n")
    found = packages.Digests(root_reader.RootReader(str(root)), packages.Database())
    assert found.find("etc/x", owner) == ("", "")
    assert found.find("usr/x", owner) == ("", "")
    assert root_reader.RootReader(str(root)).read("../victim.md5sums") == b""


#: Where the usual methods may be called without saying at what, how often, and why.
ALLOWED = {
    "pipelines/book/pages.py": (5, "pages of the book, and a topic that the user typed"),
    "pipelines/book/reference.py": (4, "docstrings and descriptions of virtroot's own"),
    "pipelines/cli/exit_status.py": (1, "an error's message, which becomes one line"),
    "pipelines/cli/program.py": (1, "an error's message, which becomes one line"),
    "pipelines/night/calendar.py": (2, "what the user typed"),
    "pipelines/log.py": (1, "what the user typed"),
    "pipelines/nightly.py": (1, "what the user typed"),
    "pipelines/recipe/recipe.py": (1, "what the user typed"),
    "pipelines/settings.py": (3, "what the user typed"),
}


def sources() -> list[Path]:
    found = [*(CHECKOUT / "pipelines").rglob("*.py"), *(CHECKOUT / "tests/acceptance").rglob("*.py")]
    programs = [path for path in (CHECKOUT / "containerfiles").rglob("*") if path.is_file()]
    found += [path for path in programs if "python" in path.read_text().partition("\n")[0]]
    return [*found, CHECKOUT / "tasks.py"]


def careless(path: Path) -> int:
    """Count the calls in a file that split or strip at whatever Python takes for white space."""
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr == "splitlines"
            or (node.func.attr in ("split", "rsplit", "strip", "lstrip", "rstrip") and not says_at_what(node))
        )
        for node in ast.walk(ast.parse(path.read_text()))
    )


def says_at_what(call: ast.Call) -> bool:
    given = [*call.args[:1], *(word.value for word in call.keywords if word.arg in ("sep", "chars"))]
    return any(not (isinstance(each, ast.Constant) and each.value is None) for each in given)


def test_text_is_split_and_stripped_at_what_is_said() -> None:
    """Use `split_lines`, `split_fields` and `trim`, or in programs that are sent to libvirt's host split(chr(10))."""
    assert len(sources()) > 100
    found = Counter({str(path.relative_to(CHECKOUT)): careless(path) for path in sources()})
    assert +found == {path: count for path, (count, _) in ALLOWED.items()}


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("x.splitlines()", 1),
        ("x.split()", 1),
        ("x.split(None, 1)", 1),
        ("x.split(maxsplit=1)", 1),
        ("x.strip()", 1),
        ("x.rstrip(None)", 1),
        ("x.split(sep)", 0),
        ("x.split(sep=' ', maxsplit=1)", 0),
        ("x.strip(' ')", 0),
    ],
)
def test_careless_calls_are_found(tmp_path: Path, code: str, count: int) -> None:
    (tmp_path / "code.py").write_text(code)
    assert careless(tmp_path / "code.py") == count

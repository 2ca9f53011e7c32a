"""What a guest's user told the package manager, on databases as dpkg, apt, debconf and pacman write them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.merge import decisions
from pipelines.merge.baselines import Inventory
from pipelines.target.payload import tree_copy
from tests.support.files import write
from tests.support.plans import plan
from tests.support.roots import looked
from tests.support.surveys import link, survey


def stanza(name: str, *, want: str = "install", now: str = "installed", version: str = "1", arch: str = "amd64") -> str:
    return (
        f"Package: {name}\nStatus: {want} ok {now}\nArchitecture: {arch}\nMulti-Arch: same\nVersion: {version}\n"
        "Description: text\n Status: install ok installed\n"
    )


STATUS = [stanza("dpkg"), stanza("jq"), stanza("bash"), stanza("libc6"), stanza("libc6", arch="i386")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    write(root / "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root / "var/lib/dpkg/status", "\n".join(STATUS))
    write(root / "var/lib/dpkg/info/jq.list", "/usr/bin/jq\n")
    for name in ("amd64", "i386"):
        write(root / f"var/lib/dpkg/info/libc6:{name}.list", f"/usr/lib/{name}/libc.so\n")
        write(root / f"usr/lib/{name}/libc.so", "lib")
    write(root / "usr/bin/jq", "jq")
    write(root / "var/lib/dpkg/arch", "amd64\n")
    write(root / "var/lib/dpkg/statoverride", "root mail 2755 /usr/bin/mail\n")
    write(root / "var/lib/dpkg/diversions", "/usr/bin/a\n/usr/bin/a.dist\nbash\n")
    write(root / "var/lib/apt/extended_states", "Package: jq\nArchitecture: amd64\nAuto-Installed: 1\n")
    write(root / "var/cache/debconf/config.dat", "Name: jq/ask\nTemplate: jq/ask\nValue: no\nOwners: jq\nFlags: seen\n")
    return root


def commands(base: Inventory, ours: Inventory, theirs: Inventory, *kept: str) -> list[str]:
    return [command for command, _ in decisions.list_commands(base, ours, theirs, kept)]


def test_nothing_was_decided(root: Path) -> None:
    base = looked(root)
    assert commands(base, base, base) == []
    assert decisions.merge_selections(base, base, base) == {}
    assert decisions.describe_holds(base, base) == []


def test_packages_of_another_architecture_are_told_apart(root: Path) -> None:
    base = looked(root)
    assert [each.name for each in base.packages] == ["dpkg", "jq", "bash", "libc6", "libc6:i386"]
    assert base.missing == {"usr/bin/a.dist": "bash"}


def test_holds_are_written_into_the_new_roots_database(root: Path, tmp_path: Path) -> None:
    base, new = looked(root), tmp_path / "new"
    shutil.copytree(root, new)
    changed = [*STATUS[:1], stanza("jq", want="hold"), *STATUS[2:4], stanza("libc6", arch="i386", want="hold")]
    changed += [stanza("never", want="hold", now="not-installed"), stanza("gone", want="deinstall", now="config-files")]
    write(root / "var/lib/dpkg/status", "\n".join(changed))
    write(new / "var/lib/dpkg/status", "\n".join([*STATUS[:1], stanza("jq", version="2"), *STATUS[2:]]))
    ours, theirs = looked(root, base), looked(new, base)
    wanted = decisions.merge_selections(base, ours, theirs)
    assert wanted == {"jq": "hold", "libc6:i386": "hold"}
    assert decisions.describe_holds(ours, theirs) == ["jq 1 -> 2"]
    assert commands(base, ours, theirs) == ["apt-mark hold never"]
    tree_copy.copy_state(str(root), str(new), plan(selections=wanted))
    now = looked(new, base)
    assert now.decisions is not None
    assert now.decisions["selections"] == wanted
    assert now.packages == theirs.packages
    assert (new / "var/lib/dpkg/status").read_text().count(" Status: install ok installed") == len(STATUS)
    # What was taken back in the guest is not held by the new root, either.
    assert decisions.merge_selections(now, theirs, now) == {"jq": "install", "libc6:i386": "install"}
    tree_copy.copy_state(str(root), str(new), plan(selections={"jq": "install", "libc6:i386": "install"}))
    again = looked(new, base).decisions
    assert again is not None
    assert again["selections"] == {}


def test_what_else_was_decided_is_to_be_said_again(root: Path) -> None:
    base = looked(root)
    write(root / "var/lib/dpkg/arch", "amd64\nriscv64\n")
    write(root / "var/lib/dpkg/statoverride", "root mail 2755 /usr/bin/mail\nroot adm 4750 /usr/bin/x y\n")
    diverted = "/usr/bin/a\n/usr/bin/a.dist\nbash\n/usr/bin/jq\n/usr/bin/jq.real\n:\n"
    write(root / "var/lib/dpkg/diversions", diverted)
    write(root / "var/lib/apt/extended_states", "Package: bash\nArchitecture: amd64\nAuto-Installed: 1\n")
    answers = "Name: jq/ask\nTemplate: jq/ask\nValue: yes; rm -rf /\nOwners: jq\nFlags: seen\n"
    write(root / "var/cache/debconf/config.dat", answers)
    ours = looked(root, base)
    assert commands(base, ours, base) == [
        "dpkg --add-architecture riscv64",
        "apt-mark auto bash",
        "apt-mark manual jq",
        "dpkg-divert --local --rename --divert /usr/bin/jq.real --add /usr/bin/jq",
        "dpkg-statoverride --update --add root adm 4750 '/usr/bin/x y'",
        "dpkg-reconfigure jq",
    ]
    assert "--no-rename" in commands(base, ours, base, "usr/bin/jq")[3]
    # Where the new root knows it, it is not said.
    assert commands(base, ours, ours) == []
    # What was taken back is taken back again.
    assert commands(ours, base, ours) == [
        "dpkg --remove-architecture riscv64",
        "apt-mark auto jq",
        "apt-mark manual bash",
        "dpkg-divert --local --rename --remove /usr/bin/jq",
        "dpkg-statoverride --remove '/usr/bin/x y'",
        "dpkg-reconfigure jq",
    ]


def test_arch(tmp_path: Path) -> None:
    root = tmp_path / "arch"
    for name, reason in (("jq", ""), ("lib", "%REASON%\n1\n\n")):
        write(root / f"var/lib/pacman/local/{name}-1/desc", f"%NAME%\n{name}\n\n%VERSION%\n1\n\n{reason}")
    write(root / "etc/pacman.conf", "[options]\nIgnorePkg = none jq\n")
    base = looked(root)
    for name, reason in (("jq", "%REASON%\n1\n\n"), ("lib", "")):
        write(root / f"var/lib/pacman/local/{name}-1/desc", f"%NAME%\n{name}\n\n%VERSION%\n1\n\n{reason}")
    ours = looked(root, base)
    assert commands(base, ours, base) == ["pacman -D --asdeps jq", "pacman -D --asexplicit lib"]
    write(root / "var/lib/pacman/local/jq-1/desc", "%NAME%\njq\n\n%VERSION%\n2\n\n")
    assert decisions.describe_holds(ours, looked(root, base)) == ["jq 1 -> 2"]


def test_a_record_of_an_earlier_version_makes_no_noise(root: Path) -> None:
    ours = looked(root)
    theirs = survey({}, ("jq", "bash"))
    assert [each.split()[0] for each in commands(survey({}), ours, theirs)] == ["dpkg-statoverride"]
    assert commands(survey({}), survey({}), ours) == []


def test_alternatives_and_what_is_made_of_files() -> None:
    ours = survey({
        "etc/alternatives/editor": link("/usr/bin/vim", "vim"),
        "etc/alternatives/editor.1.gz": link("/usr/share/man/man1/vim.1.gz", "vim"),
        "etc/alternatives/pager": link("/usr/bin/less", "gone"),
    })  # fmt: skip
    assert [command for command, _ in decisions.list_alternatives(ours.etc, ours, survey({}, ("vim",)))] == [
        "update-alternatives --set editor /usr/bin/vim"
    ]

    def made(own: list[str], kept: list[str]) -> list[str]:
        return [command for command, _ in decisions.list_generators(own, kept)]

    assert made([], ["home"]) == []
    assert made(["etc/ca-certificates.conf", "etc/pam.d/common-auth", "etc/pam.d/sshd"], []) == [
        "update-ca-certificates", "pam-auth-update"]  # fmt: skip
    assert made(["etc/ca-certificates/trust-source/anchors/x.crt"], []) == ["update-ca-trust"]
    for kept in ("usr/local", "usr/local/share/ca-certificates", "usr/local/share/ca-certificates/x.crt"):
        assert "update-ca-certificates" in made([], [kept])

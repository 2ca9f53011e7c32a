"""What the sshd in a root does, by its configuration there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from unittest.mock import create_autospec
from uuid import UUID

import pytest

from pipelines.guest import identity, ssh_access, sshd
from pipelines.guest.guest import Guest
from pipelines.guest.identity import Identity
from pipelines.guest.sshd import Sshd
from pipelines.settings import CHECKOUT
from pipelines.target import programs
from pipelines.target.payload import sshd as reading
from pipelines.target.target import Local

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
KEYGEN = CHECKOUT / "pipelines/recipe/skeletons/sshd/usr/lib/virtroot/sshd-keygen"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "etc/ssh/sshd_config.d").mkdir(parents=True)
    return path


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        directory = root / "etc/ssh" if name == "sshd_config" else root / "etc/ssh/sshd_config.d"
        (directory / name.replace("_conf", ".conf") if name != "sshd_config" else directory / name).write_text(text)


def found(root: Path) -> Sshd:
    return sshd.read(Local(), str(root))


def test_without_a_configuration_the_defaults_hold(root: Path) -> None:
    usual = {f"etc/ssh/ssh_host_{kind}_key": "" for kind in ("ed25519", "ecdsa", "rsa")}
    assert found(root) == Sshd(usual, 22, "root/.ssh/authorized_keys", "")
    (root / "etc").rename(root / "elsewhere")
    assert found(root) == Sshd(usual)


def test_the_configuration_is_read_as_sshd_reads_it(root: Path) -> None:
    write(
        root,
        sshd_config="# HostKey /no\ninclude /etc/ssh/sshd_config.d/*.conf\nHostKey=/etc/keys/b\nPort 2222\nPort 2200\n"
        "PermitRootLogin yes\nMatch User x\nHostKey /not/global\nPort 9\n",
        a_conf='HostKey "/etc/keys/a" # first\nPermitRootLogin no\n',
        b_conf="Match all\nAuthorizedKeysFile /etc/ssh/keys/%u .ssh/other\nMatch Address 10.0.0.0/8\nPort 1\n",
        c="HostKey /not/conf\n",
    )
    (root / "etc/ssh/sshd_config.d/.hidden.conf").write_text("HostKey /hidden\n")
    (root / "etc/keys").mkdir()
    (root / "etc/keys/b.pub").write_text(f"{KEY} x\n")
    assert found(root) == Sshd(
        {"etc/keys/a": "", "etc/keys/b": f"{KEY} x\n"}, 2222, "etc/ssh/keys/root", "PermitRootLogin no"
    )


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("Port 2222\nPort 22\n", 22),
        ("ListenAddress 10.0.0.1:2022\n", 2022),
        ("Port 2022\nListenAddress ::1\n", 2022),
        ("ListenAddress [::]:2023\nListenAddress 0.0.0.0\n", 22),
        ("Port nothing\n", 22),
        ("Port 70000\n", 22),
        ("Port\t2024\n", 2024),
    ],
)
def test_the_port(root: Path, text: str, port: int) -> None:
    write(root, sshd_config=text)
    assert found(root).port == port


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("AuthorizedKeysFile /x %h/.ssh/authorized_keys\n", "root/.ssh/authorized_keys"),
        ("AuthorizedKeysFile .ssh/keys\n", "root/.ssh/keys"),
        ("AuthorizedKeysFile /etc/%%/%U\n", "etc/%/0"),
        ("AuthorizedKeysFile ../../../../x\n", "x"),
        ("AuthorizedKeysFile none\n", ""),
    ],
)
def test_where_roots_keys_are(root: Path, text: str, path: str) -> None:
    write(root, sshd_config=text)
    assert found(root).authorized_keys == path


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("PermitRootLogin prohibit-password\n", ""),
        ("PermitRootLogin forced-commands-only\n", "PermitRootLogin forced-commands-only"),
        ("PubkeyAuthentication no\n", "PubkeyAuthentication no"),
        ("PermitRootLogin no\nMatch Address 10.0.0.0/8\nPermitRootLogin yes\n", ""),
    ],
)
def test_whether_root_may_log_in(root: Path, text: str, refuses: str) -> None:
    write(root, sshd_config=text)
    assert found(root).refuses == refuses


def test_a_configuration_that_leads_out_of_the_root_or_never_ends_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("Port 2222\n")
    (tmp_path / "outside.pub").write_text("secret")
    write(root, sshd_config=f"Include /etc/ssh/sshd_config\nInclude {tmp_path}/outside\nHostKey /link\n")
    (root / "link.pub").symlink_to(tmp_path / "outside.pub")
    assert found(root).port == 22
    assert found(root).public_keys == {"link": ""}
    write(root, sshd_config="x" * (reading._LARGEST + 1))
    assert found(root) == Sshd(found(root).public_keys)
    write(root, sshd_config="Include *\nPort 1\n" * 2000)
    assert len(str(reading.read_sshd(str(root)))) < 1 << 20


def test_control_characters_are_in_no_path(root: Path) -> None:
    write(root, sshd_config="HostKey /etc/a\0b\nAuthorizedKeysFile /etc/\x1b[1m\nPort\t2222\n")
    assert found(root) == Sshd(found(root).public_keys, 2222)
    assert not [path for path in found(root).public_keys if not path.isprintable()]


def guest_of(root: Path) -> Guest:
    guest = create_autospec(Guest, instance=True)
    guest.name, guest.root, guest.target = "web", str(root), Local()
    return guest  # type: ignore[no-any-return]


def test_ssh_knows_the_key_that_the_configuration_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_access, "PATIENCE", 0)
    write(root, sshd_config="HostKey /etc/keys/own\n")
    (root / "etc/keys").mkdir()
    (root / "etc/keys/own.pub").write_text(f"{KEY} own\n")
    (root / "etc/ssh/ssh_host_ed25519_key.pub").write_text(f"{KEY[:-1]}A usual\n")
    line, seen = ssh_access.make_known_hosts_line(guest_of(root))
    assert line == f"web {KEY}\n"
    assert seen.port == 22


def test_keys_are_written_where_sshd_looks_for_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, sshd_config="AuthorizedKeysFile /etc/ssh/authorized/%u\nPermitRootLogin no\n")
    one, other = f"{KEY} one", f"{KEY} other"
    identity.write(Local(), str(root), Identity("web", UUID(int=1), f"{one}\n"))
    assert (root / "etc/ssh/authorized/root").read_text() == f"{one}\n"
    assert not (root / "root").exists()
    identity.add_keys(Local(), str(root), f"{other}\n")
    assert (root / "etc/ssh/authorized/root").read_text() == f"{one}\n{other}\n"
    identity.warn_of_sshd(Local(), str(root))
    assert "sshd in this root refuses logins of root (PermitRootLogin no)" in capsys.readouterr().err


def test_missing_host_keys_are_made_where_the_configuration_names_them(tmp_path: Path) -> None:
    programs, keys = tmp_path / "bin", tmp_path / "keys"
    programs.mkdir()
    keys.mkdir()
    (keys / "there").write_text("mine")
    named = "\n".join(f"hostkey {keys}/{name}" for name in ("there", "host_rsa", "universal", "host_ecdsa_key"))
    (programs / "sshd").write_text(f"#!/bin/sh\n[ $1 = -G ] && printf '%s\\n' '{named}' 'hostkey /no/directory'\n")
    # What -A makes is of this machine.
    (programs / "ssh-keygen").write_text('#!/bin/sh\n[ "$1" = -A ] || exec /usr/bin/ssh-keygen "$@"\n')
    for each in programs.iterdir():
        each.chmod(0o755)
    subprocess.run(["sh", str(KEYGEN)], env={"PATH": f"{programs}:/usr/bin:/bin"}, check=True)
    assert (keys / "there").read_text() == "mine"
    kinds = {path.stem: path.read_text().split()[0] for path in keys.glob("*.pub")}
    assert kinds == {"host_rsa": "ssh-rsa", "universal": "ssh-ed25519", "host_ecdsa_key": "ecdsa-sha2-nistp256"}


def test_the_program_runs_by_itself(root: Path) -> None:
    write(root, sshd_config="Port 2222\n")
    assert programs.read_sshd(Local(), str(root))["settings"] == [["port", ["2222"], False]]

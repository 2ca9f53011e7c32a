"""Keys and ids of one machine: deleted from a root that is built, made again in each guest, and found where unknown."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipelines.builder import private_keys
from pipelines.builder.private_keys import Keys
from pipelines.guest import identity
from pipelines.merge import paths
from pipelines.recipe import machine_specific
from pipelines.recipe.distros import DISTROS
from pipelines.recipe.machine_specific import MATERIALS
from pipelines.recipe.parse import parse
from pipelines.recipe.stage import Command
from pipelines.settings import CHECKOUT
from pipelines.target.payload import guest_files
from pipelines.target.target import Local

SCRIPT = CHECKOUT / "pipelines/recipe/skeletons/machine-specific/usr/lib/virtroot/machine-specific"

#: One file of each material, and what looks like one.
THERE = [path.replace("*", "rsa") for path in (*machine_specific.list_patterns(), *machine_specific.GENERATED)]
OTHERS = ("etc/ssl/private/mine.key", "etc/ssh/sshd_config", "etc/iscsi/iscsid.conf", "var/lib/systemd/other")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    for each in (*THERE, *OTHERS):
        (path / each).parent.mkdir(parents=True, exist_ok=True)
        (path / each).write_text("x")
    (path / "etc/ssl/certs/0a1b2c3d.0").symlink_to("ssl-cert-snakeoil.pem")
    (path / "etc/ssl/certs/ca.0").symlink_to("ca.pem")
    return path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def delete(root: Path, *overlay_paths: str) -> None:
    """Delete as the build does, whose commands run with the root as /."""
    command = machine_specific.make_removal(overlay_paths)
    assert command.chroot
    argv = [str(root) + word if word.startswith("/") else word for word in command.argv]
    subprocess.run(argv, check=True)


def test_a_build_deletes_all_materials_and_nothing_else(root: Path) -> None:
    delete(root)
    assert files(root) == {*OTHERS, "etc/ssl/certs/ca.0"}


def test_what_an_overlay_brings_stays_whole(root: Path) -> None:
    delete(root, "etc/ssl/private/ssl-cert-snakeoil.key", "etc/motd")
    certificate = {"etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"}
    assert files(root) == {*OTHERS, *certificate, "etc/ssl/certs/ca.0", "etc/ssl/certs/0a1b2c3d.0"}


@pytest.mark.parametrize("distro", sorted(DISTROS))
def test_every_build_deletes_them_after_the_overlay_and_brings_what_makes_them(distro: str) -> None:
    recipe = parse(f"distro: {distro}\noverlay: files\n", "test.yaml", {})
    stages = DISTROS[distro].stages(recipe, ("etc/iscsi/initiatorname.iscsi",))
    names = [stage.name for stage in stages]
    steps = {stage.name: stage.steps for stage in stages}
    make_removal = machine_specific.make_removal(("etc/iscsi/initiatorname.iscsi",))
    assert make_removal in steps["finish"]
    assert names.index("finish") > names.index("overlay")
    trees = {step.name for step in steps["skeleton"] if not isinstance(step, Command)}
    assert {"machine-specific", "sshd"} <= trees


def test_an_import_deletes_what_is_made_again(root: Path) -> None:
    script = str(CHECKOUT / "containerfiles/debian/import-root")
    subprocess.run(["sh", script, "forget", str(root), *machine_specific.make_find_tests()], check=True)
    assert files(root) == {*OTHERS, "etc/ssl/certs/ca.0", "etc/machine-id", *machine_specific.GENERATED}


def test_an_import_deletes_nothing_through_a_link(root: Path) -> None:
    script = str(CHECKOUT / "containerfiles/debian/import-root")
    (root / "etc").rename(root.parent / "outside")
    (root / "etc").mkdir()
    (root / "etc/ssh").symlink_to(root.parent / "outside/ssh")
    subprocess.run(["sh", script, "forget", str(root), *machine_specific.make_find_tests()], check=True)
    assert (root.parent / "outside/ssh/ssh_host_rsa").exists()


def test_a_clone_forgets_the_same(root: Path) -> None:
    guest_files.delete(str(root), machine_specific.list_patterns())
    links = {"etc/ssl/certs/ca.0", "etc/ssl/certs/0a1b2c3d.0"}
    assert files(root) == {*OTHERS, *links, *machine_specific.GENERATED}


def test_a_clone_keeps_what_nothing_in_it_would_make_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/ssh/sshd_config").write_text("HostKey /etc/own\n")
    for name in ("own", "own.pub"):
        (root / "etc" / name).write_text("x")
    identity.delete_secrets(Local(), str(root), "web", "web2", ())
    ours = {"etc/iscsi/initiatorname.iscsi", "etc/dropbear/dropbear_rsa_host_key", "etc/own"}
    assert ours <= files(root)
    assert not (root / "etc/ssh/ssh_host_rsa").exists()
    said = capsys.readouterr().err
    assert "web2 shares the iSCSI initiator name with web" in said
    assert "web2 shares the host keys of dropbear with web" in said
    assert "web2 shares the ssh host keys in /etc/own with web" in said
    for unit in (machine_specific.UNIT, machine_specific.KEYGEN_SCRIPT):
        (root / unit).parent.mkdir(parents=True, exist_ok=True)
        (root / unit).touch()
    identity.delete_secrets(Local(), str(root), "web", "web2", ())
    assert not (ours | {"etc/own.pub"}) & files(root)
    assert capsys.readouterr().err == ""


def test_a_clone_keeps_what_the_overlay_brought_and_what_is_behind_a_link_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / machine_specific.UNIT).parent.mkdir(parents=True, exist_ok=True)
    (root / machine_specific.UNIT).touch()
    elsewhere = tmp_path / "elsewhere"
    (root / "etc/dropbear").rename(elsewhere)
    (root / "etc/dropbear").symlink_to(elsewhere)
    identity.delete_secrets(Local(), str(root), "web", "web2", ("etc/iscsi/initiatorname.iscsi",))
    assert "etc/iscsi/initiatorname.iscsi" in files(root)
    assert (elsewhere / "dropbear_rsa_host_key").exists()
    assert "web2 may share /etc/dropbear/dropbear_*_host_key with web: the path leads through a link out" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("path", THERE)
def test_each_material_is_no_change_of_the_guests_user(path: str) -> None:
    assert paths.is_ignored(path)


def test_each_material_of_the_unit_is_made_by_its_script_and_the_unit_runs_it() -> None:
    script = SCRIPT.read_text()
    unit = (SCRIPT.parents[2] / "lib/systemd/system" / Path(machine_specific.UNIT).name).read_text()
    assert "ExecStart=/usr/lib/virtroot/machine-specific" in unit
    for material in (each for each in MATERIALS if each.made_by == machine_specific.UNIT):
        assert any(f"/{path.partition('*')[0]}" in script for path in material.paths), material.name


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root whose programs make another value each time, and whose script works on it and not on this machine."""
    path = tmp_path / "machine"
    for each in ("bin", "etc/ssl/private", "etc/ssl/certs", "etc/iscsi", "etc/nvme", "etc/bind", "etc/dropbear"):
        (path / each).mkdir(parents=True)
    programs = {
        "make-ssl-cert": f"echo $$ > {path}/etc/ssl/private/ssl-cert-snakeoil.key; "
        f"echo > {path}/etc/ssl/certs/ssl-cert-snakeoil.pem",
        "iscsi-iname": 'echo "iqn:$$"',
        "nvme": "echo nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555",
        "rndc-confgen": f"echo $$ > {path}/etc/bind/rndc.key",
        "dropbearkey": 'echo $$ > "$4"',
        "newaliases": f"cp {path}/etc/aliases {path}/etc/aliases.db",
        "chown": ":",
    }
    for name, text in programs.items():
        (path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (path / "bin" / name).chmod(0o755)
    (path / "script").write_text(SCRIPT.read_text().replace("/etc/", f"{path}/etc/"))
    return path


def run(machine: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{machine}/bin:/usr/bin:/bin"}
    return subprocess.run(["sh", f"{machine}/script"], env=env, capture_output=True, text=True, check=False)


def test_what_is_missing_is_made_once(machine: Path) -> None:
    assert run(machine).returncode == 0
    made = {path: (machine / path).read_text() for path in files(machine) if path.startswith("etc/")}
    assert {*made} == {
        "etc/ssl/private/ssl-cert-snakeoil.key",
        "etc/ssl/certs/ssl-cert-snakeoil.pem",
        "etc/iscsi/initiatorname.iscsi",
        "etc/nvme/hostnqn",
        "etc/nvme/hostid",
        "etc/bind/rndc.key",
        *(f"etc/dropbear/dropbear_{kind}_host_key" for kind in ("rsa", "ecdsa", "ed25519")),
    }
    assert made["etc/nvme/hostid"] == "11111111-2222-3333-4444-555555555555\n"
    assert (machine / "etc/iscsi/initiatorname.iscsi").stat().st_mode & 0o777 == 0o600
    assert run(machine).returncode == 0
    assert {path: (machine / path).read_text() for path in files(machine) if path.startswith("etc/")} == made


def test_the_alias_database_follows_its_file(machine: Path) -> None:
    (machine / "etc/aliases").write_text("root: a\n")
    run(machine)
    assert not (machine / "etc/aliases.db").exists()
    (machine / "etc/postfix").mkdir()
    (machine / "etc/postfix/main.cf").touch()
    run(machine)
    assert (machine / "etc/aliases.db").read_text() == "root: a\n"
    (machine / "etc/aliases").write_text("root: b\n")
    os.utime(machine / "etc/aliases.db", (0, 0))
    run(machine)
    assert (machine / "etc/aliases.db").read_text() == "root: b\n"


def test_an_authors_key_without_its_certificate_is_not_overwritten(machine: Path) -> None:
    (machine / "etc/ssl/private/ssl-cert-snakeoil.key").write_text("mine")
    assert run(machine).returncode == 0
    assert (machine / "etc/ssl/private/ssl-cert-snakeoil.key").read_text() == "mine"


def test_a_program_that_fails_leaves_nothing_and_keeps_no_other_from_running(machine: Path) -> None:
    for name in ("iscsi-iname", "make-ssl-cert"):
        (machine / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
    done = run(machine)
    assert done.returncode == 1
    assert "initiatorname.iscsi cannot be made" in done.stderr
    assert list((machine / "etc/iscsi").iterdir()) == []
    assert (machine / "etc/bind/rndc.key").exists()


KEYS = {
    "etc/a/pem": "-----BEGIN PRIVATE KEY-----\n",
    "etc/a/rsa": "text before\n-----BEGIN RSA PRIVATE KEY-----\n",
    "root/.ssh/id": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
    "home/u/key": "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
    "var/lib/p/pgp": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
    "root/.gnupg/private-keys-v1.d/A.key": "Key: (private-key (rsa\n",
    "etc/wireguard/wg0.conf": f"[Interface]\nPrivateKey = {'A' * 43}=\n",
    "etc/munge/munge.key": "binary",
}
NO_KEYS = {
    "etc/ssl/cert": "-----BEGIN CERTIFICATE-----\n",
    "etc/pub": "-----BEGIN PUBLIC KEY-----\n",
    "etc/doc": "a line with -----BEGIN PRIVATE KEY----- in it\n",
    "etc/wireguard/empty.conf": "PrivateKey = \n",
    "usr/share/doc/key": "-----BEGIN PRIVATE KEY-----\n",
    "var/lib/dpkg/info/key": "-----BEGIN PRIVATE KEY-----\n",
    "etc/large": "-----BEGIN PRIVATE KEY-----\n" + "x" * (16 << 10),
}


def test_private_keys_are_found_by_content_and_by_place(tmp_path: Path) -> None:
    for path, text in {**KEYS, **NO_KEYS}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "etc/link").symlink_to("/etc/a/pem")
    os.mkfifo(tmp_path / "etc/pipe")
    assert private_keys.find(Local(), str(tmp_path)) == tuple(sorted(KEYS))


def test_a_root_without_keys_or_directories_has_none(tmp_path: Path) -> None:
    assert private_keys.find(Local(), str(tmp_path)) == ()
    (tmp_path / "etc").symlink_to("/etc")
    assert private_keys.find(Local(), str(tmp_path)) == ()


def test_no_more_keys_are_named_than_anybody_reads(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for number in range(300):
        (tmp_path / f"etc/{number}").write_text("-----BEGIN PRIVATE KEY-----\n")
    assert len(private_keys.find(Local(), str(tmp_path))) == 200


def test_an_authors_keys_are_named_and_others_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    keys = private_keys.classify(("etc/a.key", "etc/b.key"), ("etc/b.key", "etc/iscsi/initiatorname.iscsi", "etc/motd"))
    assert keys == Keys(("etc/a.key",), ("etc/b.key", "etc/iscsi/initiatorname.iscsi"))
    keys.report()
    said = capsys.readouterr().err
    assert "will share these keys or ids of the overlay: /etc/b.key, /etc/iscsi/initiatorname.iscsi\n" in said
    assert "warning: all guests of this root share these private keys: /etc/a.key;" in said

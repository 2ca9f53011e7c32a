"""Ssh's options, keys and paths."""

from __future__ import annotations

import os
import pwd
import shlex
import socket
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from pipelines import ssh
from pipelines.errors import VirtrootError
from pipelines.guest import identity, ssh_access
from pipelines.settings import Settings
from pipelines.target import programs, relay

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f"{KEY} root@web\n", f"web {KEY}\n"),
        (f"{KEY}\n", f"web {KEY}\n"),
        (f"{KEY} root@web\n*.example {KEY}\n", ""),
        (f"@cert-authority * {KEY}\n", ""),
        (f"* {KEY}\n", ""),
        ("ssh-ed25519 short\n", ""),
        ("\0\xff", ""),
        ("", ""),
    ],
)
def test_nothing_but_a_key_gets_among_the_known_hosts(monkeypatch: pytest.MonkeyPatch, content: str, line: str) -> None:
    told = {"settings": [], "public": {"/etc/ssh/ssh_host_ed25519_key": content}}
    monkeypatch.setattr(programs, "read_sshd", lambda *_: told)
    monkeypatch.setattr(ssh_access, "PATIENCE", 0)
    guest = MagicMock()
    guest.name = "web"
    if line:
        assert ssh_access.make_known_hosts_line(guest)[0] == line
    else:
        with pytest.raises(VirtrootError, match="has no ssh host key"):
            ssh_access.make_known_hosts_line(guest)


def test_a_guest_that_cannot_be_reached_says_why() -> None:
    guest = MagicMock()
    guest.name, guest.running = "web", False
    with pytest.raises(VirtrootError, match="not running"):
        ssh_access.get_address(guest)
    guest.running = True
    guest.hypervisor.has_network.return_value = False
    with pytest.raises(VirtrootError, match="is not on a network"):
        ssh_access.get_address(guest)
    guest.hypervisor.has_network.return_value = True
    guest.hypervisor.find_address.return_value = ""
    guest.agent.list_addresses.return_value = []
    with pytest.raises(VirtrootError, match="no address yet"):
        ssh_access.get_address(guest)
    guest.hypervisor.find_address.side_effect = lambda _, source: {"lease": "", "arp": "10.0.0.7"}[source]
    assert ssh_access.get_address(guest) == "10.0.0.7"


def test_the_options_survive_blanks_percents_and_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("INVOKE_VIRTROOT_", "DOCKER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/a b/100%.sock")
    options = ssh._make_options("web", Settings(output="/srv/my 100%"), "root", ssh._list_variables())
    assert options["UserKnownHostsFile"] == '"/srv/my 100%%/.ssh/web"'
    words = shlex.split(options["ProxyCommand"].replace("%%", "%"))
    assert words[:2] == ["env", "DOCKER_HOST=unix:///run/a b/100%.sock"]
    assert words[-2:] == ["ssh-proxy", "web"]
    assert options["StrictHostKeyChecking"] == "yes"


def test_a_configuration_of_ssh_has_no_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name.startswith(("INVOKE_VIRTROOT_", "DOCKER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("INVOKE_VIRTROOT_OUTPUT", "/srv/output")
    secrets = {
        "INVOKE_VIRTROOT_ON_FAILURE": "notify --token s3cret",
        "INVOKE_VIRTROOT_DEBIAN_SNAPSHOTS": "https://me:s3cret@a.example/{archive}/{time}",
        "DOCKER_PASSWORD": "s3cret",
        "DOCKER_AUTH_CONFIG": "s3cret",
        "DOCKER_HOST": "tcp://me:s3cret@engine.example:2375",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert ssh._list_variables() == ["INVOKE_VIRTROOT_OUTPUT=/srv/output"]
    said = capsys.readouterr().err
    assert "DOCKER_HOST contains a password" in said
    assert "s3cret" not in said
    # ssh itself passes its environment on.
    assert "env" not in ssh._make_options("web", Settings(), "root")["ProxyCommand"].split()


def test_which_end_of_a_copy_is_in_a_guest() -> None:
    assert ssh._parse_end("web:/etc/motd") == ("web", "/etc/motd")
    assert ssh._parse_end("./a:b") == ("", "./a:b")
    assert ssh._parse_end("/srv/a:b") == ("", "/srv/a:b")
    assert ssh._parse_end(":/x") == ("", ":/x")
    assert ssh._resolve_inside("/srv/", "page") == "srv/page"
    for path in ("motd", "/", ""):
        with pytest.raises(VirtrootError, match="not an absolute path"):
            ssh._resolve_inside(path, "")


def test_the_users_own_key_is_found_and_under_sudo_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = {"root": tmp_path / "root", "me": tmp_path / "me"}
    for home in homes.values():
        (home / ".ssh").mkdir(parents=True)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="root"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_dir=str(homes[name])))
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert identity.find_ssh_keys() == ()
    mine = homes["me"] / ".ssh/id_rsa.pub"
    mine.touch()
    assert identity.find_ssh_keys() == ()
    monkeypatch.setenv("SUDO_USER", "me")
    assert identity.find_ssh_keys() == (str(mine),)
    roots = homes["root"] / ".ssh/id_ed25519.pub"
    roots.touch()
    assert identity.find_ssh_keys() == (str(roots), str(mine))
    monkeypatch.setenv("SUDO_USER", "nobody here")
    assert identity.find_ssh_keys() == (str(roots),)


def test_a_relay_passes_on_both_ways_and_waits_for_who_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as asked:
                connection.sendall(b"got " + asked.read())

        threading.Thread(target=answer, daemon=True).start()
        (tmp_path / "asked").write_bytes(b"hello\0\xff")
        with (tmp_path / "asked").open("rb") as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            relay.relay("127.0.0.1", port)
    assert capfdbinary.readouterr().out == b"got hello\0\xff"
    monkeypatch.setattr(relay, "PATIENCE", 0.2)
    with pytest.raises(VirtrootError, match="nothing answers"):
        relay.relay("127.0.0.1", port)


#: What people have for every host, and what of it has to be without effect.
EVERY_HOST = """
Host *
    RemoteCommand tmux
    RequestTTY force
    SessionType none
    StdinNull yes
    ForkAfterAuthentication yes
    ForwardAgent yes
    ForwardX11 yes
    ControlMaster auto
    ControlPath /tmp/%r@%h:%p
    ControlPersist yes
    ProxyJump bastion
    ProxyUseFdpass yes
    LocalForward 8080 localhost:80
    PermitLocalCommand yes
    LocalCommand beep
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    KnownHostsCommand /bin/trust-all
    VerifyHostKeyDNS yes
    CanonicalizeHostname always
    ConnectTimeout 5
    Tunnel yes
    User me
"""


def test_what_is_set_for_every_host_does_not_reach_a_guest(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(EVERY_HOST)
    options = [*ssh._make_arguments("web", Settings(), "root"), *ssh._format_options(ssh._SESSION)]
    said = subprocess.run(
        ["ssh", "-F", str(tmp_path / "config"), *options, "-G", "web"], check=True, capture_output=True, text=True
    ).stdout
    shown = dict(line.split(" ", 1) for line in said.lower().splitlines())
    assert shown["user"] == "root"
    assert shown["stricthostkeychecking"] == "true"
    assert "ssh-proxy web" in shown["proxycommand"]
    for name in ("localforward", "remotecommand", "proxyjump", "knownhostscommand", "controlpath"):
        assert shown.get(name, "none") == "none", name
    for name in ("forwardagent", "forwardx11", "permitlocalcommand", "stdinnull", "forkafterauthentication", "tunnel"):
        assert shown[name] in ("no", "false"), name
    kept = {
        "connecttimeout": "120",
        "requesttty": "auto",
        "sessiontype": "default",
        "controlmaster": "false",
        "canonicalizehostname": "false",
    }
    assert {name: shown[name] for name in kept} == kept


@pytest.mark.parametrize(
    ("status", "user", "known", "told"),
    [
        (255, "root", "", True),
        (1, "root", "ssh-ed25519 other\n", True),
        (255, "root", f"{KEY} me\n", False),
        (255, "ann", f"{KEY} me\n", True),
        (0, "root", "", False),
        (7, "root", "", False),
    ],
)
def test_who_may_have_been_denied_is_told_how_to_let_a_key_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, status: int, user: str,
    known: str, told: bool,
) -> None:  # fmt: skip
    (tmp_path / "id.pub").write_text(f"{KEY} me@here\n")
    monkeypatch.setattr(ssh, "find_ssh_keys", lambda: (str(tmp_path / "id.pub"),))
    monkeypatch.setattr(programs, "read", lambda *_: known.encode())
    guest = MagicMock(running=True)
    guest.name = "web"
    assert ssh._explain_status(status, guest, user) == status
    said = capsys.readouterr().err
    assert (f"< {tmp_path}/id.pub" in said) == told
    if told:
        command = shlex.split(said.partition("./inv ")[2])
        assert command[:5] == ["exec", "web", "--", "sh", "-c"]
        assert f"cat >> {'/root' if user == 'root' else '~ann'}/.ssh/authorized_keys" in command[5]

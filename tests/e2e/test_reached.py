"""Guests of the embedded hypervisor are reached by ssh and its kin, see each other by name, and the outside."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.guest.guest import get
from pipelines.libvirt.connect import connect
from pipelines.recipe import machine_specific
from tests.conftest import Virtroot, named

NAMES = ("near", "far")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The user's ssh-agent with a key in it; its variables, and the file of the public key."""
    key = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    said = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    env = dict(re.findall(r"(SSH_[A-Z_]+)=([^;]+);", said))
    try:
        subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, **env}, check=True)
        yield {**env, "KEY": f"{key}.pub"}
    finally:
        os.kill(int(env["SSH_AGENT_PID"]), 15)


@pytest.fixture(scope="module")
def config(
    inv: Virtroot, recipe: Callable[..., Path], agent: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Two guests that run, and the file that ssh finds them by."""
    source = recipe(named("reached"), bootstrap="mmdebstrap", generator="none")
    more = "qemu-guest-agent, rsync, ssl-cert, open-iscsi, postfix]"
    source.write_text(source.read_text().replace("qemu-guest-agent]", more))
    artifact = inv("build", "--recipe", str(source)).stdout.strip()
    for name in NAMES:
        inv("install", name, "--artifact", artifact, "--ssh-key", agent["KEY"])
    starting = [inv.start("start", name) for name in NAMES]
    assert [(each.communicate()[1], each.returncode)[1] for each in starting] == [0, 0]
    for name in NAMES:
        # sshd comes up after the agent, with the keys that it makes at a first boot.
        inv("exec", name, "--", "sh", "-c", "systemctl is-system-running --wait || true")
    path = tmp_path_factory.mktemp("config") / "ssh config"
    path.write_text(inv("ssh-config").stdout)
    yield path
    for name in NAMES:
        inv("stop", name, "--force", status=0 if get(connect(inv.settings), name).running else 2)
        inv("remove", name, "--yes")


def as_user(inv: Virtroot, agent: dict[str, str]) -> Virtroot:
    return replace(inv, env={**inv.env, **agent})


def run(agent: dict[str, str], *argv: str, status: int = 0) -> str:
    done = subprocess.run(
        argv, env={**os.environ, **agent}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    # Not a question, not a warning of a key that is not known.
    assert done.stderr == ""
    return done.stdout


def test_ssh_and_its_kin_reach_a_guest(inv: Virtroot, config: Path, agent: dict[str, str], tmp_path: Path) -> None:
    assert as_user(inv, agent)("ssh", "near", "--", "hostname; exit 7", status=7).stdout == "near\n"
    assert run(agent, "ssh", "-F", str(config), "far", "hostname") == "far\n"

    blob = tmp_path / "a blob"
    blob.write_bytes(os.urandom(3 << 20))
    run(agent, "scp", "-q", "-F", str(config), str(blob), "near:/root/by scp")
    run(agent, "rsync", "-e", f"ssh -F {shlex.quote(str(config))}", "near:/root/by scp", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == blob.read_bytes()
    as_user(inv, agent)("cp", str(blob), "near:/root/by cp")
    as_user(inv, agent)("cp", "near:/root/by cp", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == blob.read_bytes()


@pytest.mark.long
def test_ansible_reaches_a_guest(
    inv: Virtroot, recipe: Callable[..., Path], agent: dict[str, str], tmp_path: Path
) -> None:
    # Ansible's modules run in the guest's Python, which must not be much newer than Ansible itself.
    source = recipe(named("ansible"), release="bookworm")
    source.write_text(source.read_text().replace("qemu-guest-agent]", "qemu-guest-agent, python3]"))
    artifact = inv("build", "--recipe", str(source)).stdout.strip()
    inv("install", "old", "--artifact", artifact, "--ssh-key", agent["KEY"])
    inv("start", "old")
    config = tmp_path / "ssh config"
    config.write_text(inv("ssh-config").stdout)
    # A connection that is kept would outlive the test.
    own = {"LC_ALL": "C.UTF-8", "ANSIBLE_SSH_ARGS": f"-F {shlex.quote(str(config))} -o ControlMaster=no"}
    python = ("--extra-vars", "ansible_python_interpreter=/usr/bin/python3")
    asked = ("ansible", "all", "--inventory", "old,", "--timeout", "120", *python, "--module-name", "ping")
    said = run({**agent, **own}, *asked)
    assert said.count('"ping": "pong"') == 1
    inv("stop", "old", "--force")
    inv("remove", "old", "--yes")


def test_guests_see_each_other_by_name_and_the_outside(inv: Virtroot, config: Path, agent: dict[str, str]) -> None:
    addresses = {row["name"]: row["address"] for row in json.loads(inv("list", "--json").stdout)}
    assert addresses["far"] in run(agent, "ssh", "-F", str(config), "near", "getent hosts far.internal")
    greeting = "exec 3<> /dev/tcp/far.internal/22; head -n 1 <&3"
    assert run(agent, "ssh", "-F", str(config), "near", f"bash -c '{greeting}'").startswith("SSH-2.0-OpenSSH")

    engine = engines.connect()
    image = images.ensure_base(engine, inv.settings.base, "debian:trixie-slim", "trixie")
    listen = "use IO::Socket; $s = IO::Socket::INET->new(LocalPort => 8123, Listen => 1, ReuseAddr => 1); "
    answer = 'print "up\\n"; $c = $s->accept; print $c "outside\\n"; close $c'
    outside = engine.start(image, labels={"virtroot.recipe": named("outside")}, argv=["sleep", "600"])
    try:
        address = outside.run(["hostname", "-I"]).text.split()[0]
        with outside.hold(["perl", "-MIO::Handle", "-e", f"STDOUT->autoflush; {listen}{answer}"]) as said:
            assert said == "up"
            read = f"exec 3<> /dev/tcp/{address}/8123; cat <&3"
            assert run(agent, "ssh", "-F", str(config), "near", f"bash -c '{read}'") == "outside\n"
    finally:
        outside.remove()


def test_two_guests_of_one_root_have_keys_ids_and_names_of_their_own(inv: Virtroot, config: Path) -> None:
    paths = ("/etc/ssl/private/ssl-cert-snakeoil.key", "/etc/iscsi/initiatorname.iscsi")
    seen = {name: [inv("exec", name, "--", "cat", path).stdout for path in paths] for name in NAMES}
    for one, other in zip(seen["near"], seen["far"], strict=True):
        assert one
        assert one != other
    for name in NAMES:
        # Beside another guest's boot its start may take longer than systemd waits: that is no fault of the root.
        asked = "postconf -h myhostname; cat /etc/mailname; systemctl start postfix; systemctl is-active postfix"
        assert inv("exec", name, "--", "sh", "-c", asked).stdout == f"{name}.localdomain\n" * 2 + "active\n"
    changed = inv("diff", "near").stdout
    assert not [path for path in ("ssl-cert-snakeoil", "initiatorname", "main.cf", "mailname") if path in changed]


def test_another_key_under_the_guests_name_is_refused(inv: Virtroot, config: Path, agent: dict[str, str]) -> None:
    """Whoever answers at the guest's address has to have the key that is in its root."""
    guest = get(connect(inv.settings), "far")
    public = f"{guest.root}/etc/ssh/ssh_host_ed25519_key.pub"
    other = get(connect(inv.settings), "near").root + "/etc/ssh/ssh_host_ed25519_key.pub"
    guest.target.run(["cp", "--preserve", public, f"{public}.own"])
    guest.target.run(["cp", other, public])
    try:
        assert "Host key verification failed" in as_user(inv, agent)("ssh", "far", "--", "true", status=255).stderr
    finally:
        guest.target.run(["mv", f"{public}.own", public])


def test_a_guest_that_is_off_is_reached_through_its_root(
    inv: Virtroot, config: Path, agent: dict[str, str], tmp_path: Path
) -> None:
    inv("stop", "far")
    assert "the guest far is not running" in as_user(inv, agent)("ssh", "far", status=2).stderr
    page = tmp_path / "page.html"
    page.write_text("<p>here\n")
    inv("cp", str(page), "far:/srv/www/")
    inv("cp", str(page), "far:/srv")
    inv("cp", "far:/srv/www/page.html", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "<p>here\n"
    guest = get(connect(inv.settings), "far")
    stat = guest.target.run(["stat", "--format=%u:%g %a", f"{guest.root}/srv/page.html"]).text
    assert stat == "0:0 644"

    guest.target.run(["ln", "-s", "/etc", f"{guest.root}/srv/out"])
    before = guest.target.run(["ls", "-A", "/etc"]).text
    assert "leaves the root through a link" in inv("cp", str(page), "far:/srv/out/", status=2).stderr
    assert "leaves the root through a link" in inv("cp", "far:/srv/out/shadow", str(tmp_path), status=2).stderr
    assert guest.target.run(["ls", "-A", "/etc"]).text == before


@pytest.mark.long
def test_a_clone_is_a_guest_of_its_own(inv: Virtroot, config: Path, agent: dict[str, str]) -> None:
    source = get(connect(inv.settings), "far")
    refused = inv("clone", "near", "third", status=2).stderr
    assert "the guest near is running" in refused
    if source.running:
        inv("stop", "far")
    source.target.run(
        ["sh", "-ec", 'echo lived > "$1/srv/lived"; ln "$1/srv/lived" "$1/srv/linked"', "sh", source.root]
    )
    before = source.target.run(["sh", "-c", _TREE, "tree", source.root]).text
    inv("clone", "far", "third")
    try:
        clone = get(connect(inv.settings), "third")
        after = source.target.run(["sh", "-c", _TREE, "tree", clone.root]).text
        own = (
            *("etc/machine-id", "etc/hostname", "etc/hosts", "etc/mailname", "etc/postfix/main.cf"),
            *(path.rstrip("*") for path in machine_specific.list_patterns()),
        )
        changed = set(before.splitlines()) ^ set(after.splitlines())
        assert {line for line in changed if not line.split(" ./")[1].startswith(own)} == set()
        assert "the guest third exists already" in inv("clone", "far", "third", status=2).stderr

        processes = [inv.start("start", name) for name in ("far", "third")]
        assert [(each.communicate()[1], each.returncode)[1] for each in processes] == [0, 0]
        user = as_user(inv, agent)
        assert user("ssh", "third", "--", "hostname; cat /srv/lived").stdout == "third\nlived\n"
        for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
            assert len({user("ssh", name, "--", f"cat {path}").stdout for name in ("far", "third")}) == 2
        addresses = [row["address"] for row in json.loads(inv("list", "--json").stdout)]
        assert len(set(addresses)) == 3
        inv("verify", "third", "--boot")
    finally:
        inv("stop", "third", "--force", status=0 if get(connect(inv.settings), "third").running else 2)
        inv("remove", "third", "--yes")
    assert source.target.run(["cat", f"{source.root}/srv/lived"]).text == "lived"


#: Type, mode, owner, size, number of links, time and path of each entry; directories take the time of what is in them.
_TREE = """
cd "$1"
find . ! -type d -printf "%y %m %U:%G %s %n %T@ %p -> %l\\n"; find . -type d -printf "%y %m %U:%G %p\\n"
"""

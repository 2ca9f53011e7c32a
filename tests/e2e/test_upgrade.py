"""A guest that has lived moves to another root with what is its own, and back; one that does not come up goes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.artifact.manifest import load
from pipelines.guest.guest import get
from pipelines.libvirt import host_files
from pipelines.libvirt.connect import connect
from pipelines.pool import place
from pipelines.settings import CHECKOUT
from tests.conftest import Virtroot, named

POOL = "/var/lib/libvirt/filesystems"

#: What both roots begin with; each changes a line of its own, and both the one in the middle of another file.
LINES = "printf 'a\\nb\\nc\\nd\\ne\\nf\\ng\\n'"

FAILING = (
    r"printf '[Service]\nType=oneshot\nExecStart=false\n[Install]\nWantedBy=multi-user.target\n'"
    " > /etc/systemd/system/e2e-fails.service && systemctl enable e2e-fails.service"
)

#: What somebody does to a guest in a while.
LIVE = """
useradd --create-home --uid 1500 ann
echo kept > /home/ann/file; chown ann: /home/ann/file; chmod 640 /home/ann/file
sed -i s/a/ours/ /etc/both.conf
sed -i s/d/ours/ /etc/conflict.conf
echo mine > /etc/mine.conf
echo mine > /srv/site/mine; rm /srv/site/gone
mkdir -p /srv/data /var/lib/docker/overlay2 /opt/app
echo data > /srv/data/file; chown svc /srv/data/file; chmod 4755 /srv/data/file
echo layer > /var/lib/docker/overlay2/file; chown 410 /var/lib/docker/overlay2/file
echo app > /opt/app/run
mkfifo /etc/pipe; chown svc /etc/pipe; chmod 620 /etc/pipe
apt-mark hold tar
mkdir -p /etc/docker /srv/engine/overlay2; echo '{"data-root": "/srv/engine"}' > /etc/docker/daemon.json
echo layer > /srv/engine/overlay2/file; chown 410 /srv/engine/overlay2/file
"""

#: What of it is neither a file's content nor in a place that every guest has.
LOOK_FURTHER = "stat -c '%n %U %a %F' /etc/pipe; stat -c '%n %u' /srv/engine/overlay2/file; apt-mark showhold\n"
FURTHER = ["/etc/pipe svc 620 fifo", "/srv/engine/overlay2/file 410", "tar"]

#: What is of it, wherever the guest is by now.
LOOK = (
    """
cat /etc/both.conf | tr '\\n' ' '; cat /etc/conflict.conf | tr '\\n' ' '; cat /etc/theirs.conf | tr '\\n' ' '; echo
stat -c '%n %U %a' /srv/data/file /home/ann/file; stat -c '%n %u' /var/lib/docker/overlay2/file
cat /etc/mine.conf /etc/hostname /srv/site/*; ls /opt; id -u svc
"""
    + LOOK_FURTHER
)

#: What somebody does to it after its upgrade.
LIVE_ON = """
useradd --create-home --uid 1501 bob; chmod 700 /home/bob
sed -i s/ours/since/ /etc/both.conf
echo since > /etc/since.conf
echo since > /srv/since; chown svc /srv/since; chmod 644 /srv/since
rm /srv/data/file
echo since > /opt/since
"""

#: What is of both, after it was carried back.
AFTER = (
    """
cat /etc/both.conf | tr '\\n' ' '; cat /etc/conflict.conf | tr '\\n' ' '; cat /etc/theirs.conf | tr '\\n' ' '; echo
stat -c '%n %U %a' /home/ann/file /home/bob /srv/since; stat -c '%n %u' /var/lib/docker/overlay2/file
test ! -e /srv/data/file
cat /etc/mine.conf /etc/since.conf; ls /opt; id -u svc
"""
    + LOOK_FURTHER
)

Write = Callable[..., Path]


@dataclass(frozen=True)
class Roots:
    """Artifacts: what a guest is made of, what it moves to, and one that does not boot."""

    before: str
    after: str
    broken: str


@pytest.fixture(scope="module")
def build(inv: Virtroot, recipe: Write) -> Callable[..., str]:
    def build(name: str, *commands: str) -> str:
        files = [f"{LINES} > /etc/{each}.conf" for each in ("both", "conflict", "theirs")]
        files += ["mkdir -p /srv/site", f"cd /srv/site; for each in gone mine page; do echo of {name} > $each; done"]
        line = f"run: {json.dumps([*files, *commands])}"
        return inv(
            "build", "--recipe", str(recipe(name, line, bootstrap="mmdebstrap", generator="none"))
        ).stdout.strip()

    return build


@pytest.fixture(scope="module")
def roots(build: Callable[..., str]) -> Roots:
    after = ["useradd --system --uid 410 other", "useradd --system --uid 411 svc",
             "sed -i s/g/theirs/ /etc/both.conf /etc/theirs.conf", "sed -i s/d/theirs/ /etc/conflict.conf"]  # fmt: skip
    return Roots(
        build(named("before"), "useradd --system --uid 410 svc"),
        build(named("after"), *after),
        build(named("unbootable"), *after, "ln -sf /usr/bin/false /usr/lib/systemd/systemd"),
    )


def build_id(artifact: str) -> str:
    return load(Path(artifact) / "manifest.json").id


def look(inv: Virtroot, script: str = LOOK) -> tuple[list[str], list[str]]:
    """Return what the script prints in the guest, and the guest's identity."""
    identity = "\ncat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub\n"
    lines = inv("exec", "moves", "--", "sh", "-ec", script + identity).stdout.splitlines()
    return lines[:-2], lines[-2:]


def test_upgrade_rollback_and_a_root_that_does_not_boot(inv: Virtroot, roots: Roots) -> None:
    inv("install", "moves", "--artifact", roots.before, "--ssh-key", "none")
    inv("start", "moves")
    _, own = look(inv, LIVE)

    assert "is running" in inv("upgrade", "moves", "--to", roots.after, status=2).stderr
    said = inv("upgrade", "moves", "--to", roots.after, "--restart", status=2).stderr
    assert "3 things are for you to decide: /etc/conflict.conf" in said
    assert "is off" not in said
    planned = json.loads(inv("upgrade", "moves", "--to", roots.after, "--preview", "--json").stdout)
    verdicts = {each["path"]: each["verdict"] for each in planned["etc"]}
    assert verdicts["etc/both.conf"] == "merged"
    assert verdicts["etc/conflict.conf"] == "conflict"
    assert verdicts["etc/theirs.conf"] == "theirs"
    assert verdicts["etc/mine.conf"] == "ours"
    assert verdicts["etc/pipe"] == "ours"
    assert [each["name"] for each in planned["undecided"]] == ["opt/app", "var/lib/docker"]
    assert (planned["systems"], planned["selections"]) == (["srv/engine"], {"tar": "hold"})

    decided = ["--take", "old", "/etc/conflict.conf", "--keep", "/var/lib/docker", "--discard", "/opt/app"]
    said = inv("upgrade", "moves", "--to", roots.after, "--restart", *decided).stderr
    assert f"moves is on {build_id(roots.after)}" in said
    now = [
        "ours b c d e f theirs a b c ours e f g a b c d e f theirs ",
        "/srv/data/file svc 4755",
        "/home/ann/file ann 640",
        "/var/lib/docker/overlay2/file 410",
        "mine",
        "moves",
        "mine",
        f"of {named('after')}",
        "411",
        *FURTHER,
    ]
    assert look(inv) == (now, own)
    row = next(row for row in json.loads(inv("list", "--json").stdout) if row["name"] == "moves")
    assert row["former"] > 100 << 20

    inv("exec", "moves", "--", "sh", "-ec", LIVE_ON)
    written = json.loads(inv("rollback", "moves", "--preview", "--json").stdout)
    assert [(each["kind"], each["name"]) for each in written["accounts"]] == [
        ("added", "user bob"), ("added", "group bob")]  # fmt: skip
    assert [(each["kind"], each["name"]) for each in written["etc"]] == [
        ("changed", "etc/both.conf"), ("added", "etc/since.conf")]  # fmt: skip
    assert {("added", "srv/since"), ("removed", "srv/data/file"), ("added", "opt/since")} <= {
        (each["kind"], each["name"]) for each in written["files"]
    }
    said = inv("rollback", "moves", "--carry", "--restart", status=2).stderr
    assert "1 thing is for you to decide: /opt/since" in said
    inv("rollback", "moves", "--carry", "--restart", "--discard", "/opt/since")
    back = [
        "since b c d e f g a b c ours e f g a b c d e f g ",
        "/home/ann/file ann 640",
        "/home/bob bob 700",
        "/srv/since svc 644",
        "/var/lib/docker/overlay2/file 410",
        "mine",
        "since",
        "app",
        "410",
        *FURTHER,
    ]
    assert look(inv, AFTER) == (back, own)
    assert get(connect(inv.settings), "moves").source.artifact == build_id(roots.before)

    # /var/lib/docker is kept from now on.
    decided = ["--take", "old", "/etc/conflict.conf", "--discard", "/opt/app"]
    said = inv("upgrade", "moves", "--to", roots.broken, "--restart", *decided, status=2).stderr
    assert "goes back to its previous root" in said
    assert "did not come up" in said
    assert look(inv, AFTER) == (back, own)
    previewed = inv("upgrade", "moves", "--to", roots.broken, *decided, "--preview")
    assert "an upgrade to it needs --again" in previewed.stderr
    assert "kept (" in previewed.stdout
    assert "--again" in inv("upgrade", "moves", "--to", roots.broken, *decided, "--restart", status=2).stderr

    failed = f"{POOL}/former.moves/failed"
    assert f"the root that it failed on is kept as {failed}" in said
    assert json.loads(inv("info", "moves", "--json").stdout)["failed"] == failed

    # The way back leads to no root that failed.
    inv("stop", "moves", "--force")
    for artifact in (roots.after, roots.before):
        inv("rollback", "moves")
        assert get(connect(inv.settings), "moves").source.artifact == build_id(artifact)
    inv("remove", "moves", "--yes")
    assert "moves" not in connect(inv.settings).target.run(["ls", "-A", POOL, "/var/lib/libvirt/boot"]).text


@pytest.mark.long
def test_a_root_whose_checks_fail_is_left_for_the_former_one(
    inv: Virtroot, roots: Roots, build: Callable[..., str]
) -> None:
    failing = build(named("failing"), "useradd --system --uid 410 svc", FAILING)
    inv("install", "fails", "--artifact", roots.before, "--ssh-key", "none")
    inv("start", "fails")
    inv("exec", "fails", "--", "sh", "-c", "echo mine > /srv/mine; sync")
    failed = inv("upgrade", "fails", "--to", failing, "--restart", status=1).stderr
    assert "goes back to its previous root" in failed
    assert "test_default_target_was_reached_without_a_failed_unit" in failed
    assert inv("exec", "fails", "--", "cat", "/srv/mine", "/etc/theirs.conf").stdout.split() == ["mine", *"abcdefg"]
    assert get(connect(inv.settings), "fails").source.artifact == build_id(roots.before)
    assert "--again" in inv("upgrade", "fails", "--to", failing, "--restart", status=2).stderr
    inv("stop", "fails", "--force")
    inv("remove", "fails", "--yes")


#: The last commit before the programs for libvirt's host became one package, with journals that are written in JSON.
FORMER = "d53d221"


@pytest.fixture
def former(inv: Virtroot, tmp_path: Path) -> Callable[..., None]:
    """Return what runs a task of the former version, with this version's Python."""
    known = subprocess.run(["git", "cat-file", "-e", f"{FORMER}^{{commit}}"], cwd=CHECKOUT, capture_output=True)
    if known.returncode:
        pytest.skip(f"this clone is shallow and has no commit {FORMER}; see the README")
    packed = subprocess.run(["git", "archive", FORMER], cwd=CHECKOUT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract", "--directory", str(tmp_path)], input=packed, check=True)

    def run(*arguments: str) -> None:
        argv = [sys.executable, "-P", str(tmp_path / "pipelines/cli/__main__.py"), *arguments]
        done = subprocess.run(argv, env=inv.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}"

    return run


def test_a_guest_of_the_former_version_is_started_upgraded_rolled_back_and_removed(
    inv: Virtroot, roots: Roots, former: Callable[..., None]
) -> None:
    former("install", "stays", "--artifact", roots.before, "--ssh-key", "none")
    former("snapshot", "stays", "first")
    former("upgrade", "stays", "--to", roots.after)
    target = connect(inv.settings).target
    hook = target.run(["cat", host_files.HOOK]).stdout
    assert hook != host_files.hook(), "the former version's hook is there"
    assert inv("start", "stays").stderr
    look = ["sh", "-c", "cat /srv/site/page; echo mine > /srv/mine; hostname"]
    assert inv("exec", "stays", "--", *look).stdout.split("\n") == [f"of {named('after')}", "stays", ""]
    assert [each["name"] for each in json.loads(inv("snapshots", "stays", "--json").stdout)] == ["first"]
    inv("upgrade", "stays", "--to", roots.before, "--again", "--discard", "/srv/mine", "--restart")
    assert get(connect(inv.settings), "stays").source.artifact == build_id(roots.before)
    inv("stop", "stays", "--force")
    inv("restore", "stays", "first")
    formerly = target.run(["ls", f"{POOL}/former.stays"]).text.split()
    inv("rollback", "stays")
    now = target.run(["ls", f"{POOL}/former.stays"]).text.split()
    assert max(now) > max(formerly), "the root that it left was replaced now"
    assert get(connect(inv.settings), "stays").source.artifact == build_id(roots.after)
    assert target.run(["cat", f"{POOL}/root.stays/srv/mine"]).text == "mine"
    inv("remove", "stays", "--yes")
    left = target.run(["find", POOL, place.BOOT, "-maxdepth", "1", "-name", "*stays*"])
    assert left.text == ""

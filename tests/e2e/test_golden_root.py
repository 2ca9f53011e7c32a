"""The main job on real parts: build, install, boot, verify in the guest, shut down, remove."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from pipelines.artifact.manifest import load
from pipelines.host.process import Completed
from pipelines.libvirt import embedded
from pipelines.libvirt.connect import connect
from pipelines.package import build_wheel
from pipelines.pool import place
from pipelines.settings import CHECKOUT
from tests.conftest import Virtroot, named
from tests.support import installed
from tests.support.terminal import converse

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUqMtmkXGq3NBc2hCNGi2NCBgKVMn5hLpWvW0jFZVcR test"


def on_hypervisor(inv: Virtroot, *argv: str) -> Completed:
    return connect(inv.settings).target.run(argv, check=False)


def test_demo_goes_from_nothing_to_a_verified_running_guest(inv: Virtroot, tmp_path: Path) -> None:
    """The README's first command, with trixie as its recipe says; by an installed program, then by the checkout's."""
    virtroot = installed.install(build_wheel(tmp_path), tmp_path / "venv") / "virtroot"
    home = {"HOME": str(tmp_path / "home")}
    subprocess.run([virtroot, "init", "vms"], cwd=tmp_path, env=inv.environment | home, check=True)
    done = subprocess.run(
        [virtroot, "demo"],
        cwd=tmp_path / "vms",
        env=inv.environment | home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "virtroot exec debian -- uname -r" in done.stderr

    artifact = (inv.output / "debian" / "latest").resolve()
    manifest = load(artifact / "manifest.json")
    assert manifest.recipe.release == "trixie"
    assert manifest.verdicts["guest"].passed
    assert manifest.verdicts["guest"].tests >= 10
    assert (artifact / "junit-guest-debian.xml").exists()

    (listed,) = json.loads(inv("list", "--json").stdout)
    assert (listed["name"], listed["state"], listed["artifact"]) == ("debian", "running", manifest.id)

    table = inv("list").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATE", "ADDRESS", "RECIPE", "AGE", "SIZE", "SHARED"]
    assert table[1].split()[:4] == ["debian", "running", listed["address"], "debian"]
    assert ip_address(listed["address"]) in ip_network("10.122.122.0/24")
    facts = json.loads(inv("info", "debian", "--json").stdout)
    assert (facts["kernel_version"], facts["size"] > 100 << 20) == (manifest.kernel_version, True)

    assert inv("exec", "debian", "--", "uname", "-r").stdout.strip() == manifest.kernel_version
    inv("wait", "debian")
    again = inv("demo").stderr
    assert "the guest debian exists already, and is used as it is" in again
    assert "debian is running and stays up" in again
    failed = inv("exec", "--name", "debian", "--", "sh", "-c", "echo out; echo 'to  err' >&2; exit 7", status=7)
    assert (failed.stdout, failed.stderr) == ("out\n", "to  err\n")

    # More than one call of the agent takes, of any bytes, read by a command that has what a login has.
    blob = os.urandom(200_000)
    login = ["sh", "-c", "umask; pwd; sha256sum"]
    read = subprocess.run([CHECKOUT / "inv", "exec", "debian", "--", *login], input=blob, env=inv.environment,
                          capture_output=True, check=True)  # fmt: skip
    assert read.stdout.decode().split() == ["0022", "/root", hashlib.sha256(blob).hexdigest(), "-"]

    # More than libvirt passes on at once, and slower than what is handed out at the end.
    much = ["sh", "-c", "head -c 9000000 /dev/zero; sleep 3; echo end; echo late >&2; exit 5"]
    streamed = inv("exec", "debian", "--", *much, status=5)
    assert (len(streamed.stdout), streamed.stdout[-5:], streamed.stderr) == (9_000_004, "\0end\n", "late\n")
    slow = inv.start(
        "exec", "debian", "--", "sh", "-c", "echo early; sleep 60 & systemctl restart qemu-guest-agent; exit 3"
    )
    assert slow.stdout is not None
    assert slow.stdout.readline() == "early\n"
    assert slow.communicate()[0] == ""
    assert slow.returncode == 3

    interrupted = inv.start("exec", "debian", "--", "sh", "-c", "echo begun; sleep 4711; echo never")
    assert interrupted.stdout is not None
    assert interrupted.stdout.readline() == "begun\n"
    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate()
    assert interrupted.returncode == 130
    inv("exec", "debian", "--", "pgrep", "-f", "^sleep 4711", status=1)

    inv("exec", "debian", "--", "sh", "-c", r"printf '\033]0;title\007\033\033[0m [2Jhostile\n' > /dev/console")
    console = inv("logs", "debian").stdout
    assert "[2Jhostile\n" in console
    assert not {character for character in console if character < " "} - {"\n", "\t"}
    assert "virtiofsd" in inv("logs", "debian", "--virtiofsd").stdout
    assert "-name guest=debian" in inv("logs", "debian", "--qemu").stdout

    status, screen = converse(inv, "console", "--name", "debian", typed=b"\n", awaited=b"login:", closing=b"\x1d")
    assert (status, b"debian login:" in screen) == (0, True), screen

    assert "is running" in inv("remove", "--name", "debian", "--yes", status=2).stderr
    assert "is already running" in inv("start", "--name", "debian", status=2).stderr
    # The machine's end, as far as guests can tell: they are shut down with their hypervisor, in their own time.
    farewell = ["systemd-run", "--remain-after-exit", "--property=ExecStop=/bin/touch /root/ended", "/bin/true"]
    inv("exec", "debian", "--", *farewell)
    embedded.stop(inv.settings, with_volumes=False)
    (listed,) = json.loads(inv("list", "--json").stdout)
    assert listed["state"] == "shut off"
    assert on_hypervisor(inv, "test", "-e", f"{listed['root']}/root/ended").returncode == 0
    assert "was not removed" in inv("remove", "--name", "debian", status=2).stderr  # nobody answered yes
    inv("remove", "--name", "debian", "--yes")
    assert inv("list").stdout == ""
    places = ("/var/lib/libvirt/filesystems", place.BOOT, "/var/log/libvirt/qemu/debian@console.log")
    assert on_hypervisor(inv, "find", *places, "-name", "*debian*").text == ""


#: In a guest whose /usr is a device of its own: dpkg needs neither links nor renames across its edge.
UPGRADE = """
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet
apt-get install --yes --quiet --reinstall libc6 systemd "linux-image-$(uname -r)"
test -z "$(dpkg --audit)"
"""


#: Two packages, three files, a user, a tree: what a guest's user does to it.
CHANGE = """
export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --quiet --no-install-recommends hello tree
useradd --create-home ann
echo 'UseDNS no' >> /etc/ssh/sshd_config
echo welcome > /etc/motd
rm /etc/issue.net
mkdir -p /srv/site/pages
echo page | tee /srv/site/pages/one > /srv/site/index
"""


def _says_what_was_changed(inv: Virtroot) -> None:
    said = json.loads(inv("diff", "worm", "--json").stdout)
    packages = {kind: {each["name"] for each in found} for kind, found in said["packages"].items()}
    assert packages == {"added": {"hello", "tree"}, "removed": set(), "upgraded": set(), "downgraded": set()}
    assert [(each["kind"], each["name"]) for each in said["accounts"]] == [
        ("added", "user ann"),
        ("added", "group ann"),
    ]
    assert [(each["kind"], each["name"], each["what"]) for each in said["etc"]] == [
        ("removed", "etc/issue.net", ""),
        ("changed", "etc/motd", "content"),
        ("changed", "etc/ssh/sshd_config", "content"),
    ]
    assert [(each["name"], each["entries"]) for each in said["files"]] == [("home/ann", 3), ("srv/site", 3)]
    assert (said["edited"], said["altered"]) == ([], [])
    lines = inv("diff", "worm").stdout.splitlines()
    assert lines[0] == "added packages (2)"
    assert "  ~ /etc/motd  (content, 8 B)" in lines
    assert max(map(len, lines)) <= 80


#: The same to a guest that is off, but for the packages.
CHANGE_FROM_OUTSIDE = """
chroot "$1" useradd --create-home ann
cd "$1"
echo 'UseDNS no' >> etc/ssh/sshd_config
echo welcome > etc/motd
rm etc/issue.net
mkdir -p srv/site/pages
echo page | tee srv/site/pages/one > srv/site/index
"""


@pytest.mark.long
def test_a_guest_moves_to_the_next_release(inv: Virtroot, bookworm: Path, trixie: Path) -> None:
    """With a warning: packages, kernel and /etc are the new release's, and what the guest has of its own comes along.

    Where both changed the same lines, the new release's are taken here.
    """
    inv("install", "elder", "--artifact", str(bookworm), "--ssh-key", "none")
    root = "/var/lib/libvirt/filesystems/root.elder"
    on_hypervisor(inv, "sh", "-ec", CHANGE_FROM_OUTSIDE, "change", root)
    previewed = inv("upgrade", "elder", "--to", str(trixie), "--preview", "--json")
    assert "elder goes from bookworm to trixie" in previewed.stderr
    planned = json.loads(previewed.stdout)
    assert planned["lost"] == []
    verdicts = {each["path"]: each["verdict"] for each in planned["etc"]}
    conflicts = [path for path, verdict in verdicts.items() if verdict == "conflict"]
    assert {*conflicts} <= {"etc/issue.net", "etc/motd", "etc/ssh/sshd_config"}
    discarded = [*planned["lost"], *(f"/{each['name']}" for each in planned["undecided"])]
    decided = [word for path in conflicts for word in ("--take", "new", f"/{path}")]
    decided += [word for each in discarded for word in ("--discard", each)]
    inv("upgrade", "elder", "--to", str(trixie), *decided)
    inv("verify", "elder", "--boot")
    look = 'cd "$1"; cat srv/site/pages/one etc/os-release etc/motd etc/ssh/sshd_config; ls -l home'
    seen = on_hypervisor(inv, "sh", "-ec", look, "look", root).text
    assert seen.startswith("page\n")
    assert "VERSION_CODENAME=trixie" in seen
    assert "ann" in seen.splitlines()[-1]
    for path, line in {"etc/motd": "welcome", "etc/ssh/sshd_config": "UseDNS no"}.items():
        assert (line in seen.splitlines()) == (path not in conflicts)
    inv("remove", "elder", "--yes")


@pytest.mark.long
def test_bookworm_boots_with_virtiofs_as_a_module(inv: Virtroot, bookworm: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(KEY + "\n")
    manifest = load(bookworm / "manifest.json")
    assert manifest.recipe.release == "bookworm"

    xml = inv("install", "--name", "worm", "--artifact", str(bookworm), "--memory", "1536MiB", "--print-xml").stdout
    assert '<memory unit="KiB">1572864</memory>' in xml
    assert inv("list").stdout == ""

    inv(
        "install",
        "--name",
        "worm",
        "--artifact",
        str(bookworm),
        "--hostname",
        "early",
        "--ssh-key",
        str(tmp_path / "key.pub"),
    )
    again = inv("install", "--name", "worm", "--artifact", str(bookworm), status=2)
    assert "the guest worm exists already" in again.stderr
    inv("verify", "worm")
    assert inv("diff", "worm").stdout == "nothing has changed since it was made\n"
    inv("start", "worm")
    inv("exec", "worm", "--", "sh", "-ec", UPGRADE + CHANGE)
    inv("stop", "worm")
    _says_what_was_changed(inv)
    assert "worm has changed since it was made: added hello" in inv("verify", "worm", "--boot").stderr
    verdicts = load(bookworm / "manifest.json").verdicts
    assert verdicts["root"].passed
    assert verdicts["guest"].passed
    assert [change.split()[1] for change in verdicts["guest"].drift] == ["hello", "tree"]

    root = "/var/lib/libvirt/filesystems/root.worm"
    assert on_hypervisor(inv, "cat", f"{root}/etc/hostname").text == "early"
    assert on_hypervisor(inv, "cat", f"{root}/root/.ssh/authorized_keys").text == KEY
    assert on_hypervisor(inv, "stat", "-c", "%a %u", f"{root}/root/.ssh/authorized_keys").text == "600 0"
    inv("remove", "--name", "worm", "--yes")
    assert on_hypervisor(inv, "test", "-e", root).returncode == 1


def test_the_artifacts_tree_is_verified_too(inv: Virtroot, trixie: Path, recipe) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    inv("verify", "--recipe", str(recipe(named("trixie"), bootstrap="mmdebstrap")))
    latest = (inv.output / named("trixie") / "latest").resolve()
    assert load(latest / "manifest.json").verdicts["tree"].passed


def test_a_failed_check_is_exit_1_and_a_verdict(inv: Virtroot, trixie: Path) -> None:
    inv("install", "--name", "odd", "--artifact", str(trixie))
    root = "/var/lib/libvirt/filesystems/root.odd"
    on_hypervisor(inv, "sh", "-c", f"echo /dev/vda1 / ext4 defaults 0 1 > {root}/etc/fstab")
    # What the user has for tests of their own leaves out no check.
    said = inv("verify", "--name", "odd", status=1, PYTEST_ADDOPTS="-k boot_loader").stderr
    inv("remove", "--name", "odd", "--yes")
    assert "1 of 7 checks failed: test_fstab_mounts_the_root_over_virtiofs" in said
    verdict = load(trixie / "manifest.json").verdicts["root"]
    assert not verdict.passed
    assert verdict.failures == ("test_fstab_mounts_the_root_over_virtiofs",)


def test_a_guest_that_does_not_come_up_shows_its_console(inv: Virtroot, trixie: Path) -> None:
    """No init in the root: the kernel panics, and the task must not wait for its whole time-out."""
    inv("install", "--name", "mute", "--artifact", str(trixie))
    root = "/var/lib/libvirt/filesystems/root.mute"
    on_hypervisor(inv, "rm", "-f", f"{root}/usr/sbin/init", f"{root}/usr/bin/sh", f"{root}/usr/lib/systemd/systemd")
    said = inv("start", "--name", "mute", status=2).stderr
    inv("stop", "--name", "mute", "--force")
    inv("remove", "--name", "mute", "--yes")
    assert "error: the root has no working init: the guest mute did not come up: its console says" in said
    assert "init" in said.partition("error: ")[0]


def test_plan_needs_no_engine(inv: Virtroot) -> None:
    done = inv("plan", "--distro", "debian", "--json", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert [stage["name"] for stage in json.loads(done.stdout)["stages"]][:2] == ["base", "skeleton"]


def test_build_prints_only_the_artifacts_path(trixie: Path) -> None:
    assert trixie.is_dir()
    kept = subprocess.run(
        ["tar", "--zstd", "-tvf", trixie / "rootfs.tar.zst"], capture_output=True, text=True, check=True
    ).stdout
    assert "crw-rw-rw-" in kept, "no device node survived"
    assert "-rwsr-xr-x" in kept, "no setuid bit survived"


def test_security_and_updates_are_in_the_roots_sources(trixie: Path) -> None:
    extract = ["tar", "--zstd", "-xOf", str(trixie / "rootfs.tar.zst"), "./etc/apt/sources.list.d/debian.sources"]
    sources = subprocess.run(extract, capture_output=True, text=True, check=True).stdout
    suites = [line for line in sources.splitlines() if line.startswith("Suites: ")]
    assert suites == ["Suites: trixie trixie-updates", "Suites: trixie-security"]

"""Two guests of one root with a share; one of them writes overlays. Shares come and go while both are off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.guest.guest import get
from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot

POOL = "/var/lib/libvirt/filesystems"

#: An overlay whose upper directory is in the root, as container engines mount it.
MOUNT = """
cd /srv; mkdir -p upper work merged
mount -t overlay overlay -o lowerdir=/srv/lower,upperdir=/srv/upper,workdir=/srv/work /srv/merged
"""

#: A file that is new, one that goes, one that is renamed, a directory that is renamed and one that is made anew.
WRITE = """
set -eu
mkdir -p /srv/lower/dir/deep /srv/lower/moves
cd /srv/lower; echo below | tee goes moves/kept dir/deep/hidden > renames
%s
cd merged
echo new > comes; rm goes; mv renames renamed; mv moves moved; rm -r dir/deep; mkdir dir/deep; echo only > dir/deep/only
""".replace("%s", MOUNT)

#: What is there then, and what the upper directory has to remember of what is not.
TREE = "./comes ./dir/deep/only ./moved/kept ./renamed"
WHITEOUTS = "./goes ./moves ./renames"


@pytest.fixture(scope="module")
def sharing(inv: Virtroot, quick: Path) -> Iterator[Path]:
    """An artifact, and two guests made from it, shut off."""
    asked = ("--accept", "--overlayfs", "--share", "common:common:/srv/common")
    inv("install", "able", "--artifact", str(quick), *asked)
    shares = ("--share", "common:common:/srv/common", "--share", "look:common:/mnt/to look:ro")
    said = inv("install", "plain", "--artifact", str(quick), *shares).stderr
    assert f"able shares {POOL}/share.common, too: file locks do not work between guests" in said
    yield quick
    for name in ("able", "plain"):
        inv("stop", name, "--force", status=0 if get(connect(inv.settings), name).running else 2)
        inv("remove", name, "--yes")


def test_overlays_in_a_guest_and_two_guests_with_one_share(inv: Virtroot, sharing: Path) -> None:
    starting = [inv.start("start", name) for name in ("able", "plain")]
    assert [(each.communicate()[1], each.returncode)[1] for each in starting] == [0, 0]
    inv("exec", "able", "--", "sh", "-c", WRITE)
    assert _overlay(inv) == (TREE, WHITEOUTS)
    inv("exec", "able", "--", "sh", "-c", "echo of able > /srv/common/able")
    assert "overlayfs      yes, its virtiofsd keeps CAP_SYS_ADMIN" in inv("info", "able").stdout

    _sees_the_share_and_cannot_write_what_is_read_only(inv)
    assert inv("exec", "able", "--", "cat", "/srv/common/plain").stdout == "of plain\n"
    inv("stop", "plain")

    inv("restart", "able")
    inv("exec", "able", "--", "sh", "-ec", MOUNT)
    assert _overlay(inv) == (TREE, WHITEOUTS)
    inv("verify", "able", "--boot")
    assert "overlayfs" not in inv("logs", "able").stderr


def _overlay(inv: Virtroot) -> tuple[str, str]:
    """Return the files of the overlay, and the whiteouts in its upper directory."""
    script = "cd /srv/merged; echo $(find . -type f | sort); cd ../upper; echo $(find . -type c | sort)"
    files, whiteouts = inv("exec", "able", "--", "sh", "-c", script).stdout.splitlines()
    return files, whiteouts


def _sees_the_share_and_cannot_write_what_is_read_only(inv: Virtroot) -> None:
    assert inv("exec", "plain", "--", "cat", "/srv/common/able", "/mnt/to look/able").stdout == "of able\n" * 2
    inv("exec", "plain", "--", "sh", "-c", "echo of plain > /srv/common/plain")
    # The guest may say what it likes of its own mount: it is the host that does not write.
    inv("exec", "plain", "--", "mount", "-o", "remount,rw", "/mnt/to look")
    said = inv("exec", "plain", "--", "findmnt", "--noheadings", "--output", "OPTIONS", "/mnt/to look").stdout
    assert said.startswith("rw")
    for command in ("touch", "rm -f", "chmod 777", "mv -t /srv"):
        refused = inv("exec", "plain", "--", "sh", "-c", f"{command} '/mnt/to look/able'", status=1)
        assert "Read-only file system" in refused.stderr, command
    assert inv("exec", "plain", "--", "cat", "/srv/common/able").stdout == "of able\n"


@pytest.mark.usefixtures("sharing")
def test_shares_come_and_go_while_the_guest_is_off(inv: Virtroot) -> None:
    inv("stop", "able", "--force", status=0 if get(connect(inv.settings), "able").running else 2)
    inv("share", "able", "more:more.data:/srv/more:ro")
    assert [(each.tag, each.directory, each.readonly) for each in get(connect(inv.settings), "able").shares] == [
        ("common", f"{POOL}/share.common", False),
        ("more", f"{POOL}/share.more.data", True),
    ]
    assert _fstab(inv)[1:] == [
        "common /srv/common virtiofs nofail,x-systemd.before=local-fs.target 0 0",
        "more /srv/more virtiofs nofail,x-systemd.before=local-fs.target,ro 0 0",
    ]
    lines = [line.split() for line in inv("list", "--shares").stdout.splitlines()]
    assert ["common", "able", "(common),", "plain", "(common),", "plain", "(look,", "ro)"] in [
        [words[0], *words[3:]] for words in lines
    ]
    owner = connect(inv.settings).target.run(["stat", "--format=%U:%G %a", f"{POOL}/share.more.data"]).text
    assert owner == "root:root 755"
    inv("unshare", "able", "more")
    assert [each.tag for each in get(connect(inv.settings), "able").shares] == ["common"]
    assert len(_fstab(inv)) == 2
    assert "use an existing share: common" in inv("unshare", "able", "more", status=2).stderr
    # What was in it outlives whoever had it.
    assert any(line.split()[0] == "more.data" for line in inv("list", "--shares").stdout.splitlines())


def _fstab(inv: Virtroot) -> list[str]:
    text = connect(inv.settings).target.run(["cat", f"{POOL}/root.able/etc/fstab"]).text
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.usefixtures("sharing")
def test_what_no_guest_may_share(inv: Virtroot) -> None:
    target = connect(inv.settings).target
    before = target.run(["virsh", "-q", "dumpxml", "plain"]).text
    target.run(["sh", "-ec", 'cd "$1"; ln -sfn /etc share.link; : > share.file', "make", POOL])
    for share, reason in {
        "a:link:/srv/a": "leads to /etc",
        "a:file:/srv/a": "not a directory",
        "a:/srv:/srv/a": "no access to /srv of this machine",
        "a:common/deep:/srv/a": "invalid share source",
        "a:common:/srv/common": "mounts common at /srv/common",
        "common:common:/srv/a": "already has a share common",
        "root:common:/srv/a": "reserved for the guest's root",
        f"{'a' * 37}:common:/srv/a": "longer than 36 bytes",
        "a:common:/etc": "would hide files that the guest needs",
        "a:common:srv/a": "invalid mount point",
        "a:common:/srv/a:rw": "invalid share",
    }.items():
        assert reason in inv("share", "plain", share, status=2).stderr, share
    assert target.run(["virsh", "-q", "dumpxml", "plain"]).text == before
    shares = ("--share", "a:one:/srv/a", "--share", "a:two:/srv/b")
    assert "two shares have the tag 'a'" in inv("install", "third", "--artifact", "x", *shares, status=2).stderr


@pytest.mark.usefixtures("sharing")
def test_a_guest_whose_share_is_gone_does_not_start_and_says_why(inv: Virtroot) -> None:
    inv("share", "plain", "fleeting:fleeting:/srv/fleeting")
    target = connect(inv.settings).target
    target.run(["rmdir", f"{POOL}/share.fleeting"])
    said = inv("start", "plain", status=2).stderr
    assert f"{POOL}/share.fleeting, which plain shares as fleeting, is missing" in said
    # What a guest could have put there is not followed either.
    target.run(["ln", "-s", "/etc", f"{POOL}/share.fleeting"])
    assert "leads to /etc now" in inv("start", "plain", status=2).stderr
    inv("unshare", "plain", "fleeting")


def test_what_a_recipe_asks_of_the_host_is_refused_without_a_word_for_it(inv: Virtroot, sharing: Path) -> None:
    manifest = json.loads((sharing / "manifest.json").read_text())
    manifest["recipe"]["guest"] |= {"overlayfs": True, "shares": ["mine:common:/srv/common"]}
    asking = inv.output / "asking"
    asking.mkdir()
    (asking / "manifest.json").write_text(json.dumps(manifest))
    (asking / "rootfs.tar.zst").symlink_to(sharing / "rootfs.tar.zst")
    said = inv("install", "asking", "--artifact", str(asking), status=2).stderr
    assert f"share mine: {POOL}/share.common of the host, read-write, at /srv/common, which able, plain shares" in said
    assert "overlayfs: the virtiofsd of its root keeps CAP_SYS_ADMIN on the host" in said
    assert "try: use --accept" in said
    assert inv("run", "--artifact", str(asking), "--", "true", status=2).stderr.count("use --accept") == 1
    assert "asking" not in inv("list").stdout
    inv("install", "asking", "--artifact", str(asking), "--accept")
    inv("remove", "asking", "--yes")
    manifest["recipe"]["guest"]["shares"] = ["h:/srv:/mnt/h"]
    (asking / "manifest.json").write_text(json.dumps(manifest))
    refused = inv("install", "asking", "--artifact", str(asking), "--accept", status=2).stderr
    assert "requests the directory /srv" in refused


def test_a_root_on_an_overlay_cannot_have_overlayfs(inv: Virtroot, sharing: Path) -> None:
    where = ("--pool", "overlaid", "--pool-path", "/srv/overlaid", "--artifact", str(sharing))
    said = inv("install", "layered", "--overlayfs", *where, status=2).stderr
    assert "/srv/overlaid (overlayfs) cannot use overlayfs" in said
    assert connect(inv.settings).target.run(["ls", "-A", "/srv/overlaid"]).text == ".virtroot"

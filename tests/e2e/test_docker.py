"""Docker on overlay2 in a guest: images, containers and what they change live through a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Virtroot, named

#: An image of the guest's own files, and a container that writes, deletes and renames in it.
WORK = r"""
set -eu
[ "$(docker info --format '{{.Driver}}')" = overlay2 ]
cd /
lib=usr/lib/x86_64-linux-gnu
tar -c bin sbin lib lib64 usr/lib64 usr/bin/dash usr/bin/sh usr/bin/rm usr/bin/mv usr/bin/mkdir usr/bin/cat \
    usr/bin/true $lib/ld-linux* $lib/libc.so.6 $lib/libselinux* $lib/libpcre2-8* $lib/libacl* $lib/libattr* \
    usr/share/bash-completion/completions etc/passwd | docker import - own
docker run --network none --name worker own sh -ec '
    echo written > /etc/new
    rm /usr/bin/true
    mv /etc/passwd /etc/people
    mv /usr/share/bash-completion /usr/share/moved
    rm -r /usr/share/moved/completions
    mkdir /usr/share/moved/completions
    echo only > /usr/share/moved/completions/only
'
"""

#: What the container changed, as `docker diff` says it.
CHANGED = """\
A /etc/new
A /etc/people
A /usr/share/moved
A /usr/share/moved/completions
A /usr/share/moved/completions/only
C /etc
C /usr
C /usr/bin
C /usr/share
D /etc/passwd
D /usr/bin/true
D /usr/share/bash-completion
"""


# Overlays in a guest's root are written, and kept through a restart, by `test_shares` in every run.
@pytest.mark.long
def test_docker_in_a_guest_that_may_have_overlayfs_and_in_one_that_may_not(
    inv: Virtroot, recipe: Callable[..., Path]
) -> None:
    path = recipe(named("docker"), bootstrap="mmdebstrap", generator="none")
    path.write_text(path.read_text().replace("qemu-guest-agent]", "qemu-guest-agent, docker.io, docker-cli, iptables]"))
    artifact = inv("build", "--recipe", str(path)).stdout.strip()
    inv("install", "containers", "--artifact", artifact, "--accept", "--overlayfs")
    inv("start", "containers")
    # Docker is the last that comes up.
    inv("exec", "containers", "--", "systemctl", "is-system-running", "--wait")
    inv("exec", "containers", "--", "sh", "-c", WORK)
    assert _changes(inv) == CHANGED
    inv("restart", "containers")
    assert _changes(inv) == CHANGED
    inv("exec", "containers", "--", "docker", "commit", "worker", "again")
    kept = inv("exec", "containers", "--", *["docker", "run", "--rm", "--network", "none", "again", "cat", "/etc/new"])
    assert kept.stdout == "written\n"
    inv("verify", "containers", "--boot")
    assert "overlayfs" not in inv("logs", "containers").stderr
    inv("stop", "containers", "--force")
    inv("remove", "containers", "--yes")

    inv("install", "refused", "--artifact", artifact)
    inv("start", "refused")
    # Docker tries overlay2, is refused, and comes up with copies of whole images.
    inv("exec", "refused", "--", "systemctl", "is-system-running", "--wait")
    assert "install it with --overlayfs" in inv("verify", "refused", "--boot", status=1).stderr
    assert "guest: {overlayfs: true}" in inv("logs", "refused").stderr
    inv("stop", "refused", "--force")
    inv("remove", "refused", "--yes")


def _changes(inv: Virtroot) -> str:
    said = inv("exec", "containers", "--", "docker", "diff", "worker").stdout
    return "".join(sorted(said.splitlines(keepends=True)))

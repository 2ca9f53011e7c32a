"""A machine with a libvirt of its own: virtroot runs on it as on any fresh Debian, and uses that libvirt."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine import engine as engines
from pipelines.engine.engine import Container
from pipelines.host import process
from pipelines.libvirt import embedded, wrappers
from pipelines.libvirt.host_files import HOOK, wrapper
from pipelines.libvirt.wrappers import Wrapper
from pipelines.pool.pool import MARK
from pipelines.settings import CHECKOUT
from tests.conftest import HYPERVISOR, Virtroot
from tests.support import recording

NAME = f"{HYPERVISOR}-host"
ENV = {"LC_ALL": "C.UTF-8", "INVOKE_VIRTROOT_CONNECT": "auto"}


@pytest.fixture(scope="module")
def host(inv: Virtroot, trixie: Path) -> Iterator[Container]:
    """A trixie machine with libvirt running, this checkout's files in /src and an artifact in /artifact."""
    engine = engines.connect()
    engine.remove_container(NAME)
    container = engine.start(
        embedded.ensure_image(engine, inv.settings),
        name=NAME,
        labels={"virtroot.purpose": "test-host"},
        capabilities=("SYS_ADMIN", "NET_ADMIN"),
        seccomp=False,
        # Its root lies on overlayfs, which libvirt's pool and virtiofsd are not to be tried on.
        volumes={f"{NAME}-state": "/var/lib/libvirt"},
        hostname="farm1",
    )
    try:
        container.run(["sh", "-ec", 'rm "$1"; rm -r "$2"', "rm", HOOK, wrappers.DIRECTORY])
        container.run(["mkdir", "/src", "/artifact"])
        container.run(["tar", "-x", "-C", "/src"], stdin=checkout())
        container.run(["tar", "-x", "-C", "/artifact"], stdin=process.run(["tar", "-c", "-C", str(trixie), "."]).stdout)
        container.run(["sh", "-ec", "apt-get update -qq && apt-get install -qq -y python3-venv"])
        yield container
    finally:
        container.remove()
        engine.remove_volume(f"{NAME}-state")


def checkout() -> bytes:
    """Pack the files that git knows, and those it would, as they are now."""
    listed = process.run(["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in listed.text.split("\0"):
            if name and (CHECKOUT / name).exists():
                tar.add(CHECKOUT / name, name, recursive=False)
    return buffer.getvalue()


def run(host: Container, *arguments: str, status: int = 0) -> str:
    env = {
        **ENV,
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
    }
    argv = ["/src/inv", *arguments]
    recording.note(argv)
    done = host.run(argv, env=env, check=False)
    assert done.returncode == status, f"{arguments}: {done.stdout.decode()}\n{done.stderr.decode()}"
    return done.stdout.decode() + done.stderr.decode()


def test_install_boot_verify_remove_on_the_hosts_libvirt(host: Container) -> None:
    assert "the host's answers" in run(host, "doctor", status=1)  # no hook there yet
    # Directories of the host, one of them made, and a virtiofsd that keeps what overlayfs needs.
    host.run(["mkdir", "/srv/kept"])
    host.run(["chown", "games:games", "/srv/kept"])
    shares = ("--share", "kept:/srv/kept:/srv/kept", "--share", "made:/srv/made/for it:/srv/made:ro:create")
    said = run(host, "install", "--name", "farm", "--artifact", "/artifact", "--overlayfs", *shares)
    assert "libvirt's hook was updated" in said
    assert host.run(["stat", "--format=%U %a", "/srv/kept", "/srv/made/for it"]).text == "games 755\nroot 755"
    assert '"where": "qemu:///system"' in run(host, "list", "--json")
    run(host, "verify", "--name", "farm", "--boot")
    for each in (Wrapper(acl=True, overlayfs=True), Wrapper(acl=True)):
        assert host.run(["cat", each.path]).stdout == wrapper()
    # No engine there, and none needed: guests run on the host's libvirt.
    assert "only builds and imports need one here" in run(host, "doctor")
    run(host, "verify", "--name", "farm")
    for directory in ("/", "/var/lib/libvirt/boot", "/var/lib/libvirt/filesystems/root.farm/srv", "/srv"):
        run(host, "share", "farm", f"more:{directory}:/srv/more", status=2)
    assert "more" not in run(host, "list", "--shares")
    assert host.run(["stat", "-c", "%a", "/var/lib/libvirt/filesystems"]).text == "700"
    assert "no guest ghost" in run(host, "start", "--name", "ghost", status=2)
    run(host, "remove", "--name", "farm", "--yes")
    assert host.run(["virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name"]).text.strip() == ""
    assert host.run(["ls", "-A", "/var/lib/libvirt/filesystems"]).text == MARK

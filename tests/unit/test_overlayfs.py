"""overlayfs in a guest: the wrapper of virtiofsd, where it cannot be had, and how a refusal looks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.host.process import Completed
from pipelines.libvirt import host_files
from pipelines.pool import overlayfs
from pipelines.target.target import Local

_DAEMON = """#!/bin/sh
case $1 in
--help) printf '%s\\n' '{help}' ;;
*) printf '%s\\n' "{name}" "$@" ;;
esac
"""

RUST = "      --modcaps <MODCAPS>"
C = "    -o modcaps=CAPLIST         Modify the list of capabilities"


def daemon(path: Path, help_text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_DAEMON.format(help=help_text, name=path))
    path.chmod(0o755)
    return path


def wrapped(root: Path, *arguments: str) -> list[str]:
    """Run the wrapper as on a machine whose /usr and /etc are below ``root``."""
    wrapper = root / "virtiofsd"
    wrapper.write_text(
        host_files.wrapper().decode().replace(" /usr/l", f" {root}/usr/l").replace("/etc/qemu", f"{root}/etc/qemu")
    )
    wrapper.chmod(0o755)
    done = subprocess.run([str(wrapper), *arguments], capture_output=True, text=True, check=False)
    return [str(done.returncode), *done.stdout.splitlines(), *done.stderr.splitlines()]


def test_each_family_of_virtiofsd_is_told_in_its_own_words(tmp_path: Path) -> None:
    old = daemon(tmp_path / "usr/lib/qemu/virtiofsd", C)
    given = ("--fd=3", "-o", "source=/a b,xattr", "")
    assert wrapped(tmp_path, *given) == ["0", str(old), "-o", "modcaps=+sys_admin", *given]
    new = daemon(tmp_path / "usr/libexec/virtiofsd", RUST)
    assert wrapped(tmp_path, *given) == ["0", str(new), "--modcaps=+sys_admin", *given]
    assert wrapped(tmp_path, "--print-capabilities")[1:] == [str(new), "--print-capabilities"]


def test_the_daemon_is_the_one_that_libvirt_would_take(tmp_path: Path) -> None:
    daemon(tmp_path / "usr/libexec/virtiofsd", RUST)
    own = daemon(tmp_path / "opt/virtiofsd-next", RUST)
    described = tmp_path / "etc/qemu/vhost-user/10-own.json"
    described.parent.mkdir(parents=True)
    described.write_text(f'{{\n  "type": "fs",\n  "binary": "{own}"\n}}\n')
    assert wrapped(tmp_path)[1] == str(own)
    described.write_text('{\n  "type": "fs",\n  "binary": "/nowhere/virtiofsd"\n}\n')
    assert wrapped(tmp_path)[1] == str(tmp_path / "usr/libexec/virtiofsd")


def test_without_any_daemon_the_wrapper_says_so(tmp_path: Path) -> None:
    assert wrapped(tmp_path) == ["127", "virtroot: no virtiofsd is installed"]


def test_the_wrapper_is_written_once_and_can_be_run_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hooks/virtroot/virtiofsd"
    monkeypatch.setattr(host_files, "WRAPPER", str(path))
    before = os.umask(0o077)
    try:
        host_files.install_wrapper(Local())
        first = path.stat()
        host_files.install_wrapper(Local())
    finally:
        os.umask(before)
    assert path.read_bytes() == host_files.wrapper()
    assert (first.st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o755, 0o755)
    assert path.stat().st_ino == first.st_ino
    path.write_text("#!/bin/sh\n# of an earlier version\n")
    host_files.install_wrapper(Local())
    assert path.read_bytes() == host_files.wrapper()


class Machine(Local):
    """A machine with one file system, which answers what overlayfs writes with ``complaint``, if any."""

    kind = "ext2/ext3"
    complaint = b""

    def run(self, argv: Sequence[str], **_: object) -> Completed:
        if argv[0] == "stat":
            return Completed(tuple(argv), 0, self.kind.encode(), b"")
        return Completed(tuple(argv), 1 if self.complaint else 0, b"", self.complaint)


class OnOverlay(Machine):
    kind = "overlayfs"


class OnNfs(Machine):
    kind = "nfs"
    complaint = b"Traceback\nOSError: Operation not supported"


def test_a_place_that_takes_no_upper_directory_is_refused_with_the_reason() -> None:
    overlayfs.refuse_unfit(Machine(), "/pool")
    with pytest.raises(VirtrootError, match=r"/pool \(overlayfs\) cannot use overlayfs: .*an overlay of the host"):
        overlayfs.refuse_unfit(OnOverlay(), "/pool")
    with pytest.raises(VirtrootError, match=r"/pool \(nfs\) cannot use overlayfs: OSError: Operation not supported"):
        overlayfs.refuse_unfit(OnNfs(), "/pool")

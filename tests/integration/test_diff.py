"""./inv diff on made-up builds with real tarballs. Needs no engine and no libvirt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.artifact.archive import pack_argv
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Package
from pipelines.settings import CHECKOUT
from tests.support.artifacts import made

#: A package with a long name, two of the kind that comes first, and one whose author wishes us ill.
BEFORE = {
    "zlib1g": "1:1.3-1",
    "linux-image-cloud-amd64": "6.12.48-1",
    "systemd": "257.8-1",
    "bash": "5.3-1",
    "a-package-with-a-name-that-is-longer-than-most-others": "1.2.3~really1.2.2+dfsg-1+deb13u1+b2",
    "gone\x1b[31m": "1\u202e",
}
AFTER = {
    "zlib1g": "1:1.3-2",
    "linux-image-cloud-amd64": "6.12.57-1",
    "systemd": "257.9-1",
    "bash": "5.2-9",
    "a-package-with-a-name-that-is-longer-than-most-others": "1.2.4~really1.2.3+dfsg-1+deb13u2+b1",
    "<script>": "\x07$(id)",
}

TEXT = """\
before    web/20261101T020000Z-1
after     web/20261102T020000Z-2
kernel    6.12.48 -> 6.12.57
packed    1.0 KiB, unchanged
unpacked  200 MiB -> 190 MiB (-10 MiB)
packages  6, unchanged

added (1)
  <script>  $(id)

removed (1)
  gone  1

upgraded (4)
  linux-image-cloud-amd64           6.12.48-1 -> 6.12.57-1
  systemd                           257.8-1 -> 257.9-1
  a-package-with-a-name-that-is-longer-than-most-others
      1.2.3~really1.2.2+dfsg-1+deb13u1+b2 -> 1.2.4~really1.2.3+dfsg-1+deb13u2+b1
  zlib1g                            1:1.3-1 -> 1:1.3-2

downgraded (1)
  bash  5.3-1 -> 5.2-9
"""


def inv(output: Path, *arguments: str, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "INVOKE_VIRTROOT_OUTPUT": str(output), **env}
    argv = [str(CHECKOUT / "inv"), *arguments]
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two builds of web: the first is golden, the second the latest."""
    builds = (("20261101T020000Z-1", BEFORE, "6.12.48", 200 << 20), ("20261102T020000Z-2", AFTER, "6.12.57", 190 << 20))
    for build, packages, kernel, unpacked in builds:
        artifact = made(tmp_path, "web", build, kernel_version=kernel)
        rootfs = artifact.manifest.rootfs.model_copy(update={"size": 1024, "unpacked_size": unpacked})
        listed = tuple(Package(name=name, version=version) for name, version in packages.items())
        artifact.describe(artifact.manifest.model_copy(update={"packages": listed, "rootfs": rootfs}))
    (tmp_path / "web" / "golden").symlink_to(builds[0][0])
    (tmp_path / "web" / "latest").symlink_to(builds[1][0])
    return tmp_path


def pack(artifact: Path, tree: Path) -> None:
    with Artifact(artifact).tarball.open("wb") as tarball:
        subprocess.run(pack_argv(str(tree), 0), stdout=tarball, check=True)


def test_packages_kernel_and_sizes_fit_a_terminal(output: Path) -> None:
    said = inv(output, "diff", "golden", "latest", "--recipe", "web").stdout
    assert said == TEXT
    assert max(len(line) for line in said.splitlines()) <= 80
    # However the two are named, and wherever one is.
    for words in (["web/golden", "latest"], ["latest~1", "latest", "--recipe", "elsewhere/web.yaml"]):
        assert inv(output, "diff", *words, LC_ALL="C", LANG="C").stdout == said
    assert "no packages added, removed" in inv(output, "diff", "web/latest", "web/latest").stdout


def test_programs_get_json(output: Path) -> None:
    said = json.loads(inv(output, "diff", "web/golden", "web/latest", "--json").stdout)
    assert (said["before"], said["after"]) == ("web/20261101T020000Z-1", "web/20261102T020000Z-2")
    assert said["kernel_version"] == {"before": "6.12.48", "after": "6.12.57"}
    assert said["unpacked_size"] == {"before": 200 << 20, "after": 190 << 20}
    assert said["packages"]["upgraded"][1] == {"name": "systemd", "before": "257.8-1", "after": "257.9-1"}
    assert said["packages"]["added"] == [{"name": "<script>", "before": "", "after": "\x07$(id)"}]
    assert "files" not in said


def test_files_are_compared_by_what_is_in_them(output: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for tree, content in ((one, "1"), (other, "2")):
        (tree / "etc").mkdir(parents=True)
        # Of one size and, clamped, of one time: only their content tells.
        (tree / "etc" / "changed").write_text(content)
        (tree / "etc" / "same").write_text("same")
        (tree / "etc.d").mkdir()
        (tree / "etc.d" / "link").symlink_to(content)
        (tree / "mode").write_text("")
        (tree / "kind").write_text("12345")
    (one / "etc" / "gone").write_bytes(b"x" * 2048)
    (other / "etc" / "b\udcffnew\x1b[2J\n\u202e").write_bytes(b"x" * 5000)
    (other / "mode").chmod(0o4755)
    (other / "kind").unlink()
    (other / "kind").mkdir()
    for build, tree in (("20261101T020000Z-1", one), ("20261102T020000Z-2", other)):
        tree.chmod(0o755)
        pack(output / "web" / build, tree)
    lines = inv(output, "diff", "web/golden", "latest", "--files").stdout.partition("\nfiles\n")[2].splitlines()
    assert [line.split(maxsplit=1) for line in lines[:-1]] == [
        ["+", "4.9 KiB  etc/b\ufffdnew"],
        ["~", "1 B  etc/changed"],
        ["-", "2.0 KiB  etc/gone"],
        ["~", "0 B  etc.d/link"],
        ["~", "5 B -> 0 B  kind  (file, now directory)"],
        ["~", "0 B  mode  (mode 0644, now 4755)"],
    ]
    assert lines[-1] == "1 added, 1 removed, 4 changed"
    said = json.loads(inv(output, "diff", "web/golden", "latest", "--files", "--json").stdout)
    assert said["files"][2] == {"kind": "removed", "path": "etc/gone", "before": 2048, "after": None, "what": ""}
    assert len(said["files"]) == 6


def test_a_tarball_that_is_none_is_said_with_its_name(output: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "noise").write_bytes(os.urandom(3 << 20))
    latest = Artifact(output / "web" / "20261102T020000Z-2")
    pack(output / "web" / "20261101T020000Z-1", tmp_path / "tree")
    assert "no such tarball" in inv(output, "diff", "web/golden", "latest", "--files", status=2).stderr

    pack(latest.directory, tmp_path / "tree")
    whole = latest.tarball.read_bytes()
    flipped = whole[: 1 << 20] + bytes([whole[1 << 20] ^ 1]) + whole[(1 << 20) + 1 :]
    for damaged in (whole[: 2 << 20], whole[:-2], flipped, b"no archive", b""):
        latest.tarball.write_bytes(damaged)
        assert f"{latest.tarball}" in inv(output, "diff", "web/golden", "latest", "--files", status=2).stderr

    wide = [*pack_argv(str(tmp_path / "tree"), 0)[:-1], "--blocking-factor=4096", "."]
    whole = subprocess.run(wide, stdout=subprocess.PIPE, check=True).stdout
    latest.tarball.write_bytes(whole[:-2])
    # All files are whole, and what is cut off comes after them.
    assert "zstd exited with 1" in inv(output, "diff", "web/golden", "latest", "--files", status=2).stderr

    for name in ("b", "a"):
        (tmp_path / name).write_text("")
    unsorted = ["tar", "--create", "--zstd", f"--file={latest.tarball}", "--directory", str(tmp_path), "b", "a"]
    subprocess.run(unsorted, check=True)
    assert "tarball is not sorted" in inv(output, "diff", "web/golden", "latest", "--files", status=2).stderr


def test_memory_does_not_grow_with_the_roots(output: Path) -> None:
    with subprocess.Popen(["zstd", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zstd:
        assert zstd.stdin is not None
        assert zstd.stdout is not None
        packed: list[bytes] = []
        reader = threading.Thread(target=lambda stream=zstd.stdout: packed.append(stream.read()))
        reader.start()
        with tarfile.open(fileobj=zstd.stdin, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            large = tarfile.TarInfo("./a")
            large.size = 300 << 20
            with Path("/dev/zero").open("rb") as zeros:
                tar.addfile(large, zeros)
            for number in range(12_000):
                entry = tarfile.TarInfo(f"./file-{number:05}")
                entry.pax_headers = {"SCHILY.xattr.user.note": "x" * 8000}
                tar.addfile(entry)
                cast("Any", tar).members.clear()
        zstd.stdin.close()
        reader.join()
    for build in ("20261101T020000Z-1", "20261102T020000Z-2"):
        Artifact(output / "web" / build).tarball.write_bytes(packed[0])
    environment = {**os.environ, "INVOKE_VIRTROOT_OUTPUT": str(output)}
    argv = [str(CHECKOUT / "inv"), "diff", "web/golden", "latest", "--files"]
    # At exec the kernel counts the memory of the process that spawns as the new one's, and a test process may be large.
    small = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    small += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    peak = subprocess.run(
        [sys.executable, "-c", small, *argv], env=environment, check=True, text=True, stdout=subprocess.PIPE
    ).stdout
    assert 1 << 10 < int(peak) < 150 << 10

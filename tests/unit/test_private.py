"""What other users of the machine can read, and lock, of what virtroot keeps: whatever the umask."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.artifact import manifest as manifests
from pipelines.artifact.history import RunRecord
from pipelines.artifact.store import Store
from pipelines.builder.cache import StageCache
from pipelines.builder.stages import StageRunner
from pipelines.errors import VirtrootError
from pipelines.host import private
from pipelines.target import lock
from pipelines.target.lock import Busy
from pipelines.target.target import Local
from tests.support.artifacts import made


@pytest.fixture(autouse=True, params=[0o000, 0o002, 0o022], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> list[str]:
    """Return what below ``directory`` another user can reach and read, or lock."""
    found = []
    for path in directory.iterdir():
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink() or not mode & 0o077:
            continue
        if path.is_dir():
            found += open_to_others(path)
        elif mode & 0o044:
            found.append(path.relative_to(directory).name)
    return sorted(found)


def fail(store: Store) -> None:
    with store.new_build("web", "3") as artifact:
        artifact.log.write_text("a password")
        raise RuntimeError


def test_what_is_kept_of_a_build_is_its_owners_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    described = made(tmp_path / "elsewhere", "web", "1").manifest
    with store.lock("web"), store.new_build("web", "2") as artifact:
        runner = StageRunner({}, artifact.log, store.failed_log("web"), lambda _: pytest.fail("no container is needed"))
        with runner.log_stage("base"):
            pass
        with private.create(artifact.tarball) as tarball:
            tarball.write(b"/etc/shadow")
        artifact.describe(described)
    built = tmp_path / "web" / "2"
    assert stat.S_IMODE(built.stat().st_mode) == 0o700
    for name in ("rootfs.tar.zst", "manifest.json", "build.log"):
        assert stat.S_IMODE((built / name).stat().st_mode) == 0o600, name
    cache = StageCache(tmp_path, 1 << 20)
    with cache.create_entry("a", "base", "web") as new_entry:
        assert new_entry
        new_entry.write(b"/etc/shadow")
        cache.commit(new_entry)
    with pytest.raises(RuntimeError):
        fail(store)
    assert open_to_others(tmp_path / "web") == []
    assert stat.S_IMODE((tmp_path / "stages").stat().st_mode) == 0o700
    assert open_to_others(tmp_path / ".locks") == []


def test_builds_of_an_earlier_version_are_closed_by_the_next_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = made(tmp_path, "web", "1")
    old.tarball.touch()
    (tmp_path / "mine").touch(0o644)
    (old.directory / "link").symlink_to(tmp_path / "mine")
    for path in (old.directory, *old.directory.iterdir()):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    for _ in range(2):
        with Store(tmp_path).new_build("web", "2"):
            pass
        (tmp_path / "web" / "2").rename(tmp_path / "web" / "3")
        (tmp_path / "web" / "3").rmdir()
    assert [name for name in open_to_others(tmp_path / "web") if name != ".recipe"] == []
    assert stat.S_IMODE(old.tarball.stat().st_mode) == 0o600
    assert capsys.readouterr().err.count("removed other users' access to 1 builds of web") == 1
    # Nothing else is touched, and nothing through a link.
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) & 0o004 == 0o004


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_told_why_a_build_cannot_be_read(tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents):
        if not each.stat().st_mode & 0o001:
            each.chmod(0o711)
    artifact = made(tmp_path, "web", "1")
    artifact.directory.chmod(0o700)
    os.seteuid(65534)
    try:
        assert artifact.exists
        with pytest.raises(VirtrootError, match="Permission denied"):
            manifests.load(artifact.manifest_file)
        with pytest.raises(PermissionError):
            artifact.tarball.read_bytes()
    finally:
        os.seteuid(0)


def test_a_lock_file_is_nobody_elses_to_hold(tmp_path: Path) -> None:
    locks = tmp_path / ".locks"
    locks.mkdir(0o755)
    (locks / "recipe-web").touch(0o644)
    with Store(tmp_path).lock("web"):
        assert stat.S_IMODE(locks.stat().st_mode) == 0o700
        assert stat.S_IMODE((locks / "recipe-web").stat().st_mode) == 0o600
    with lock.on(Local(), f"{tmp_path}/run/guest", "the guest web"):
        assert open_to_others(tmp_path / "run") == []
    history = Store(tmp_path).history("web")
    night = RunRecord(recipe="web", outcome="promoted", time="2026-11-01T00:00:00Z", seconds=1.0)
    history.append(night)
    # Others may read it, and lock it, to no effect.
    held = os.open(tmp_path / "web" / "history.jsonl", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    history.append(night)
    os.close(held)
    assert len(history.records()) == 2


#: Locks a file, says so, and keeps it.
_KEEP = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(60)
"""


def test_who_holds_a_lock_is_named_and_no_lock_is_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    path.write_text("process 1, since yesterday\n")
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    with subprocess.Popen([sys.executable, "-c", _KEEP, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        named = f"process {holder.pid} of "
        with pytest.raises(Busy, match=named), lock.hold(path, "the recipe web"):
            pass
        with pytest.raises(TimeoutError, match=named), lock.wait_for(path):
            pass
        for wait in (0, 1):
            with pytest.raises(Busy, match=named), lock.on(Local(), str(path), "the pool", wait=wait):
                pass
        holder.kill()
    here = pytest.raises(Busy, match=f"process {os.getpid()} of ")
    with lock.hold(path, "the recipe web"), here, lock.on(Local(), str(path), "the pool"):
        pass

"""The door to the engine, with a real one: what commands in containers may do, and images that are made anew."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import docker
import pytest

from pipelines.builder.container import run_builder
from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.engine.engine import Container, Engine, NameTaken, NoSuchDevice
from pipelines.errors import VirtrootError
from pipelines.libvirt import embedded
from pipelines.settings import CHECKOUT, Settings
from tests.support.bad_disk import BadDisk

NAME = f"virtroot-test-engine-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engines.connect()


@pytest.fixture(scope="module")
def base(engine: Engine) -> str:
    return images.ensure_base(engine, Settings().base, "debian:trixie-slim", "trixie")


@pytest.fixture(scope="module")
def container(engine: Engine, base: str) -> Iterator[Container]:
    container = engine.start(base, name=NAME, labels={}, argv=["sleep", "600"], stop_timeout=7)
    yield container
    container.remove()


def running(container: Container) -> str:
    """Return the command lines of all that runs in the container."""
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline || true; echo; done"
    return container.run(["sh", "-c", script]).text


def test_much_input_and_output_at_once(container: Container) -> None:
    data = b"0123456789abcdef" * (1 << 18)
    assert container.run(["cat"], stdin=data).stdout == data


def test_input_that_cannot_be_read_ends_the_command(container: Container) -> None:
    with pytest.raises(VirtrootError, match="cannot read /srv/rootfs: Input/output error"):
        container.run(["sh", "-c", "cat; exec sleep 1234"], stdin=BadDisk())  # type: ignore[arg-type]
    assert "sleep 1234" not in running(container)


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(container: Container) -> None:
    begin = time.monotonic()
    with pytest.raises(VirtrootError, match="sh did not end within 1 s"):
        container.run(["sh", "-c", "setsid sleep 2345 & sleep 3456"], timeout=1)
    assert time.monotonic() - begin < 5
    assert "2345" not in running(container)
    assert "3456" not in running(container)


def test_a_command_that_says_too_much_is_ended(container: Container) -> None:
    with pytest.raises(VirtrootError, match="yes printed more than 100000 bytes"):
        container.run(["yes"], limit=100_000)
    assert "yes" not in running(container)


def test_bounds_leave_what_keeps_them_alone(container: Container) -> None:
    done = container.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in", check=False, timeout=60, limit=100)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"err\n")


def test_a_niced_container_is_as_nice_as_its_task(engine: Engine, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpriority", lambda which, who: 10)
    shares = []
    for niced in (True, False):
        started = engine.start(base, labels={}, argv=["sleep", "60"], transient=True, niced=niced)
        try:
            seen = docker.from_env().containers.get(started.id)
            shares.append(seen.attrs["HostConfig"]["CpuShares"])
        finally:
            started.remove()
    assert shares == [110, 0]


def test_names_devices_and_states_are_told_apart(engine: Engine, base: str, container: Container) -> None:
    assert engine.container_state(NAME) == "running"
    with pytest.raises(NameTaken):
        engine.start(base, name=NAME, labels={}, argv=["true"])
    other = f"{NAME}-other"
    with pytest.raises(NoSuchDevice, match="/dev/virtroot-has-none"):
        engine.start(base, name=other, labels={}, argv=["true"], devices=("/dev/null", "/dev/virtroot-has-none"))
    assert engine.container_state(other) == ""
    with pytest.raises(VirtrootError, match="cannot start a container"):
        engine.start(f"{NAME}/no-such-image", name=other, labels={}, argv=["true"])
    assert engine.container_state(other) == ""


#: Starts a container that is tied to it, says which, and waits for its end.
_TIED = """
import sys, time
from pipelines.engine import engine
print(engine.connect().start(sys.argv[1], labels={}, tied=True).id, flush=True)
time.sleep(600)
"""


def test_a_tied_container_ends_with_its_task_however_that_ends(engine: Engine, base: str) -> None:
    argv = [sys.executable, "-c", _TIED, base]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout is not None
        name = task.stdout.readline().strip()
        assert engine.container_state(name) == "running"
        task.kill()
    deadline = time.monotonic() + 30
    while engine.container_state(name):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_output_directories_build_a_recipe_of_one_name_at_once(engine: Engine, base: str, tmp_path: Path) -> None:
    here, there = (Settings(output=str(tmp_path / name)) for name in ("here", "there"))
    with run_builder(engine, base, "same", here, "build", cache=f"{NAME}-{here.key}") as first:
        with run_builder(engine, base, "same", there, "build", cache=f"{NAME}-{there.key}") as second:
            second.run(["touch", "/var/cache/virtroot/of-there"])
            first.run(["test", "!", "-e", "/var/cache/virtroot/of-there"])
        assert first.run(["echo", "on"]).text == "on"
        # One that a killed task of the same output directory left goes first.
        with run_builder(engine, base, "same", here, "build") as again:
            again.run(["true"])
        assert engine.container_state(first.container.id) == ""
    for settings in (here, there):
        engine.remove_volume(f"{NAME}-{settings.key}")


def test_a_container_of_somebody_elses_is_neither_used_nor_removed(engine: Engine, base: str) -> None:
    name = f"{NAME}-foreign"
    client = docker.from_env()
    foreign = client.containers.create(base, ["true"], name=name)
    try:
        settings = Settings(embedded=name)
        for task in (embedded.start, embedded.find, lambda given: embedded.stop(given, with_volumes=True)):
            with pytest.raises(VirtrootError, match=f"container {name} on this engine does not have virtroot's labels"):
                task(settings)
        assert client.containers.get(name).id == foreign.id
    finally:
        foreign.remove()


def test_stopping_lets_the_container_end_by_itself(engine: Engine, base: str) -> None:
    name = f"{NAME}-stopped"
    script = "trap 'echo bye > /bye; exit 0' TERM; touch /ready; while :; do sleep 0.1; done"
    stopped = engine.start(base, name=name, labels={}, argv=["sh", "-c", script], stop_timeout=7)
    try:
        while stopped.run(["test", "-e", "/ready"], check=False).returncode:
            time.sleep(0.1)
        stopped.stop(20)
        described = docker.from_env().api.inspect_container(name)
        assert described["Config"]["StopTimeout"] == 7
        assert described["State"]["ExitCode"] == 0
        assert engine.container_state(name) == "exited"
        assert engine.container(name) is None
        stopped.stop(1)
    finally:
        engine.remove_container(name)
    assert engine.container_state(name) == ""
    stopped.stop(1)


def test_memory_is_this_machines_own(engine: Engine) -> None:
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    assert abs(engine.memory() - int(available.split()[1]) * 1024) < 1 << 30


@pytest.fixture
def tiny(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The name of an image that is another one each time it is built."""
    monkeypatch.setattr(images, "_CONTAINERFILES", tmp_path)
    (tmp_path / f"{NAME}.Containerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN date +%N > /stamp\n")
    yield NAME
    for tag in engine.images(f"virtroot/{NAME}"):
        docker.from_env().images.remove(tag)


def test_an_image_is_built_once_and_anew_when_told(
    engine: Engine, base: str, tiny: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tag, first = images.ensure_built(engine, tiny, base)
    assert images.ensure_built(engine, tiny, base, made_since=images.compute_oldest(30)) == (tag, first)
    user = engine.start(tag, labels={}, argv=["sleep", "600"])
    try:
        same_tag, second = images.ensure_built(engine, tiny, base, made_since=datetime.now(UTC))
        assert same_tag == tag
        assert second != first
        # The container still uses it.
        assert engine.image(first) is not None
    finally:
        user.remove()
    _, third = images.ensure_built(engine, tiny, base, made_since=datetime.now(UTC))
    assert engine.image(tag) == engine.image(third)
    assert engine.image(first) is None
    assert engine.image(second) is None
    assert "warning" not in capfd.readouterr().err


def test_an_image_that_cannot_be_built_anew_serves_on(
    engine: Engine, base: str, tiny: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tag, identity = images.ensure_built(engine, tiny, base)
    original = Engine.build_image

    def fail(self: Engine, context: bytes, tag: str, arguments: dict[str, str], labels: dict[str, str]) -> None:
        original(self, context, tag, {**arguments, "BASE": f"{NAME}/no-such-base"}, labels)

    monkeypatch.setattr(Engine, "build_image", fail)
    assert images.ensure_built(engine, tiny, base, made_since=datetime.now(UTC)) == (tag, identity)
    assert f"the image {tag} of " in capfd.readouterr().err

"""How the tests reach virtroot: as its user does, through ./inv, with output and hypervisor of their own."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import docker
import pytest

import tasks
from pipelines.cli import exit_status
from pipelines.engine import engine as engines
from pipelines.libvirt import embedded
from pipelines.settings import CHECKOUT, Settings
from pipelines.target import lock
from tests import book, durations
from tests.support import lean, recording

#: How pytest-xdist calls this process where several test side by side: each has a hypervisor and recipes of its own.
#: One that tests alone is the first.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")

# As ./inv has it, however pytest was started: what a test starts does not find the checkout by where it stands.
os.environ["PYTHONSAFEPATH"] = "1"

HYPERVISOR = f"virtroot-test-{WORKER}"


def named(name: str) -> str:
    """Return the name of a recipe of the tests, as this process has it."""
    return f"e2e-{WORKER}-{name}"


#: The package set of the recipes under test; most with cache: always, because nobody edits these roots, and boots are
#: 2.7x faster.
_RECIPE = """
distro: debian
release: {release}
bootstrap: {bootstrap}
generator: {generator}
packages: [systemd-sysv, systemd-resolved, udev, dbus, openssh-server, qemu-guest-agent]
guest: {{memory: 1GiB, vcpus: 1, cache: {cache}}}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew instead of comparing")


def pytest_configure() -> None:
    recording.listen()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes test, what takes longest starts first, so that no process works alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        durations.sort_longest_first(items, durations.read())


@cache
def _shown_in_the_book() -> dict[str, list[book.Block]]:
    """Return the blocks of the book that tests run, by the test."""
    found = defaultdict(list)
    for block in (block for page in book.pages() for block in book.blocks(page) if block.test):
        found[block.test].append(block)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that did not run what the book says that it runs; all its cases together do."""
    report = yield
    test = item.nodeid.partition("[")[0]
    if call.when == "call" and report.passed and test in _shown_in_the_book():
        last = [each for each in item.session.items if each.nodeid.partition("[")[0] == test][-1]
        left = [words for block in _shown_in_the_book()[test] for words in recording.missing(block)]
        if item is last and left:
            report.outcome, report.longrepr = "failed", f"the book says that {test} runs: {left}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of each file where those of the slowest tests are printed."""
    if terminalreporter.config.getoption("durations") is None:
        return
    reports = [report for kind in terminalreporter.stats.values() for report in kind if hasattr(report, "duration")]
    terminalreporter.write_sep("=", "seconds by file")
    for file, seconds in durations.sums((report.nodeid, report.duration) for report in reports):
        terminalreporter.write_line(f"{seconds:8.1f}  {file}")


def heed_ctrl_c() -> None:
    """Whoever started the tests in the background had it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Virtroot:
    """Runs ./inv with settings of the test session's own."""

    output: Path
    embedded: str = HYPERVISOR
    env: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return Settings(output=str(self.output), embedded=self.embedded, connect="embedded")

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "INVOKE_VIRTROOT_OUTPUT": str(self.output),
            "INVOKE_VIRTROOT_EMBEDDED": self.embedded,
            "INVOKE_VIRTROOT_CONNECT": "embedded",
            # Guests of several tests share the processors.
            "INVOKE_VIRTROOT_TIMEOUT": "900",
        }
        return {**os.environ, **own, **self.env}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a task, to be killed or waited for."""
        argv = [str(CHECKOUT / "inv"), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            preexec_fn=heed_ctrl_c,
        )

    def __call__(self, *arguments: str, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a task to its end, which must have ``status``."""
        argv = [str(CHECKOUT / "inv"), *arguments]
        done = subprocess.run(
            argv, env={**self.environment, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def here(self, *arguments: str, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Do the same in this process, which saves the start of another; for tasks that say something and end."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["inv", *arguments])
            for name, value in {**self.environment, **env}.items():
                patch.setenv(name, value)
            code = exit_status.run_task(lambda: tasks.program.run(["inv", *arguments]))
        # What a process leaves open ends with it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        done = subprocess.CompletedProcess(["inv", *arguments], code, out.getvalue(), err.getvalue())
        assert done.returncode == status, f"{' '.join(done.args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="session")
def inv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Virtroot]:
    """The command, with what the session makes, or a killed one left, cleared away."""
    virtroot = Virtroot(tmp_path_factory.mktemp("output"))
    # Containers and volumes have the same names in every session, wherever that has its files.
    with lock.hold(Path(tempfile.gettempdir()) / f"{HYPERVISOR}.lock", "the tests on this machine"):
        clear(virtroot)
        yield virtroot
        clear(virtroot)


def clear(virtroot: Virtroot) -> None:
    """Remove the hypervisor of the tests with its guests, their builders and package caches."""
    if not engines.is_available():
        return
    embedded.stop(virtroot.settings, with_volumes=True)
    engine = engines.connect()
    # What asked mirrors for a build that was killed.
    engine.remove_containers({"virtroot.output": str(virtroot.output)})
    # A package cache of another session's has other packages under the same names: the test mirror's are made anew.
    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": "virtroot.recipe"}, ignore_removed=True):
        if container.labels["virtroot.recipe"].startswith(named("")):
            engine.remove_container(str(container.id))
    for volume in client.volumes.list():
        if volume.name.startswith(f"virtroot-cache-{named('')}"):
            engine.remove_volume(volume.name)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a recipe file; lines given are added to it. Without an overlay among them it has the one of `lean`."""
    directory = tmp_path_factory.mktemp("recipes")
    lean.write(directory / "lean")

    def write(name: str, *lines: str, **fields: str) -> Path:
        path = directory / f"{name}.yaml"
        usual = {"release": "trixie", "bootstrap": "debootstrap", "generator": "initramfs-tools", "cache": "always"}
        filled = usual | fields
        overlay = [] if any(line.startswith("overlay:") for line in lines) else ["overlay: lean"]
        path.write_text("\n".join([_RECIPE.format(**filled), *overlay, *lines]) + "\n")
        return path

    return write


@pytest.fixture(scope="session")
def trixie(inv: Virtroot, recipe: Callable[..., Path]) -> Path:
    """A trixie artifact, built with mmdebstrap."""
    return built_now(inv, recipe)


def built_now(inv: Virtroot, recipe: Callable[..., Path]) -> Path:
    """Return the trixie artifact as it is built now: another one than before where Debian's mirror has moved on.

    For tests that compare other builds with it.
    """
    return Path(inv("build", "--recipe", str(recipe(named("trixie"), bootstrap="mmdebstrap"))).stdout.strip())


@pytest.fixture(scope="session")
def quick(inv: Virtroot, recipe: Callable[..., Path]) -> Path:
    """The same without an initramfs, which boots in 0.8 of the time: for tests that are about something else."""
    path = recipe(named("quick"), bootstrap="mmdebstrap", generator="none")
    return Path(inv("build", "--recipe", str(path)).stdout.strip())


@pytest.fixture(scope="session")
def bookworm(inv: Virtroot, recipe: Callable[..., Path]) -> Path:
    """A bookworm artifact, built with debootstrap: its kernel has virtiofs and virtio_pci as modules."""
    path = recipe(named("bookworm"), release="bookworm", cache="mixed")
    return Path(inv("build", "--recipe", str(path)).stdout.strip())

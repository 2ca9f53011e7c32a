"""Whether a running guest's directories are still served, asked of the processes of a real machine: this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest.agent import Silent
from pipelines.guest.guest import Guest
from pipelines.guest.virtiofsd import find_unserved
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.symptom.known import GONE
from pipelines.target.target import Local
from tests.support.guests import make_guest

SOURCE = "<filesystem><driver type='{type}'/><source {source}/><target dir='root'/></filesystem>"


class Machine(Local):
    """This machine, with a libvirt that knows one domain."""

    domain, state = "<domain/>", "running"

    def run(self, argv: Sequence[str], **options: object) -> Completed:
        if "virsh" in argv:
            assert "--inactive" not in argv
            said = self.domain if "dumpxml" in argv else self.state
            return Completed(tuple(argv), 0, said.encode(), b"")
        return super().run(argv, **options)  # type: ignore[arg-type] # they are passed on


def hypervisor(*sources: str, state: str = "running", kind: str = "virtiofs") -> Hypervisor:
    machine = Machine(sys.executable)
    devices = "".join(SOURCE.format(type=kind, source=source) for source in sources)
    # A frozen value has its answers as attributes of its class.
    fitting = type("Fitting", (Machine,), {"domain": f"<domain><devices>{devices}</devices></domain>", "state": state})
    return Hypervisor(fitting(machine.python))


@contextmanager
def daemon(*arguments: str) -> Iterator[None]:
    """A process with these arguments, which ends with the block."""
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--fd=30", "--shared-dir", "{}", "--cache", "always"),
        ("--fd=30", "-o", "source={}"),
        ("--fd=30", "-o", "source={},xattr"),
    ],
)
def test_a_directory_is_served_as_long_as_its_daemon_lives(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    root = tmp_path / "root.web"
    asked = hypervisor(f"dir='{root}'")
    assert find_unserved(asked, "1") == f"no virtiofsd serves {root} any more"
    with daemon(*(argument.format(root) for argument in arguments)):
        assert find_unserved(asked, "1") == ""
        assert find_unserved(hypervisor(f"dir='{root}'", f"dir='{root}/usr'"), "1").endswith("root.web/usr any more")
    assert find_unserved(asked, "1") == f"no virtiofsd serves {root} any more"


def test_commas_in_a_path_are_doubled_for_the_daemon(tmp_path: Path) -> None:
    with daemon("--fd=3", "-o", f"source={tmp_path}/a,,b,xattr"):
        assert find_unserved(hypervisor(f"dir='{tmp_path}/a,b'"), "1") == ""


def test_who_only_looks_at_a_directory_does_not_serve_it(tmp_path: Path) -> None:
    with daemon(str(tmp_path)), daemon("--fd=3", f"{tmp_path}/other", f"source={tmp_path}2"):
        assert find_unserved(hypervisor(f"dir='{tmp_path}'"), "1") == f"no virtiofsd serves {tmp_path} any more"


def test_what_libvirt_does_not_serve_is_not_missed(tmp_path: Path) -> None:
    assert find_unserved(hypervisor("socket='/run/mine.sock'"), "1") == ""
    assert find_unserved(hypervisor(f"dir='{tmp_path}'", kind="path"), "1") == ""
    # Its daemon ends with a guest.
    assert find_unserved(hypervisor(f"dir='{tmp_path}'", state="shut off"), "1") == ""


def guest(asked: Hypervisor) -> Guest:
    return make_guest(asked)


def test_an_agent_that_is_silent_is_explained_where_it_can_be(tmp_path: Path) -> None:
    silent = Silent("the agent of web does not answer", "look")
    with pytest.raises(VirtrootError) as told, guest(hypervisor(f"dir='{tmp_path}'")).explain_silence():
        raise silent
    assert told.value.what == f"{GONE.cause}: web hangs: no virtiofsd serves {tmp_path} any more"
    assert "./inv stop web --force, then ./inv start web" in told.value.hint
    with pytest.raises(Silent) as told, guest(hypervisor()).explain_silence():
        raise silent
    assert told.value is silent

"""./inv as a program: what it imports, how it ends, and that a shell completes it. Needs no engine and no libvirt."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipelines import __version__
from pipelines.settings import CHECKOUT

INV = CHECKOUT / "inv"

#: The programs that an activated environment has.
PROGRAMS = [INV, CHECKOUT / ".venv/bin/inv", CHECKOUT / ".venv/bin/invoke"]

#: Libvirt's URI that makes tasks ask virsh, and nothing else.
LIBVIRT = {"INVOKE_VIRTROOT_CONNECT": "qemu:///system"}


@pytest.fixture(scope="session", autouse=True)
def made() -> None:
    """Tests may run before ./inv ever did."""
    subprocess.run([INV, "--version"], check=True, capture_output=True)


@pytest.fixture
def virsh(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Put a virsh that runs a script of the test's first on PATH; return the environment for that."""

    def placeholder(script: str) -> dict[str, str]:
        directory = tmp_path / "bin"
        directory.mkdir()
        (directory / "virsh").write_text(f"#!/bin/sh\n{script}\n")
        (directory / "virsh").chmod(0o755)
        return {**LIBVIRT, "PATH": f"{directory}:{os.environ['PATH']}"}

    return placeholder


def run(
    *argv: str | Path, status: int = 0, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(
        argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A guest's root, whose files tell when they are run."""
    root = tmp_path / "root.web"
    root.mkdir()
    marker = f"open({str(tmp_path / 'marker')!r}, 'a').write(__file__ + '\\n')\n"
    for name in ("ctypes", "invoke", "tasks", "pytest", "yaml", "sitecustomize", "ensurepip", "encodings", "docker"):
        (root / f"{name}.py").write_text(marker)
    (root / "pipelines").mkdir()
    (root / "pipelines" / "__init__.py").write_text(marker)
    (root / "invoke.yaml").write_text("virtroot: {base: floppy}\n")
    (root / "inv").write_text(f"#!/bin/sh\necho inv >>{tmp_path / 'marker'}\n")
    (root / "inv").chmod(0o755)
    return root


@pytest.mark.parametrize("path", [None, ".:", ":/nowhere"])
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_nothing_of_the_current_directory_runs(
    program: Path, path: str | None, hostile: Path, virsh: Callable[[str], dict[str, str]]
) -> None:
    env = virsh("exit 1") | ({} if path is None else {"PYTHONPATH": path})
    run(program, "--list", cwd=hostile, env=env)
    # The hostile invoke.yaml would make this a wrong setting.
    assert "libvirt does not answer" in run(program, "list", cwd=hostile, status=2, env=env).stderr
    assert not (hostile.parent / "marker").exists()


def test_settings_that_a_guest_wrote_are_not_used(hostile: Path, virsh: Callable[[str], dict[str, str]]) -> None:
    (hostile / "virtroot.yaml").write_text("on_failure: touch marker\nbase: floppy\n")
    env = virsh("exit 1") | {"XDG_STATE_HOME": str(hostile.parent / "state")}
    for directory in (hostile, hostile / "pipelines"):
        refused = run(INV, "list", cwd=directory, status=2, env=env).stderr
        assert refused.startswith(f"error: {hostile} is a project directory that you did not make or use before\n")
    # The checkout, which somebody names, is another one.
    assert "libvirt does not answer" in run(INV, "-C", str(CHECKOUT), "list", cwd=hostile, status=2, env=env).stderr
    assert not (hostile.parent / "marker").exists()


def test_programs_that_a_task_starts_keep_out_of_the_current_directory(
    hostile: Path, virsh: Callable[[str], dict[str, str]]
) -> None:
    seen = hostile.parent / "seen"
    env = virsh(f"cd {hostile}; {sys.executable} -c 'import ctypes, yaml; print(ctypes.__file__)' >{seen}; exit 1")
    run(INV, "list", cwd=hostile, status=2, env={**env, "PYTHONPATH": ":"})
    assert "ctypes" in seen.read_text()
    assert not (hostile.parent / "marker").exists()


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_every_way_to_call_it_is_the_same(program: Path, tmp_path: Path) -> None:
    assert run(program, "--version", cwd=tmp_path).stdout == f"virtroot {__version__}\n"
    link = tmp_path / "link to inv"
    link.symlink_to(program)
    assert run(link, "--version", cwd=tmp_path).stdout == f"virtroot {__version__}\n"


def test_the_environment_is_made_anew_when_it_no_longer_fits(tmp_path: Path) -> None:
    checkout = tmp_path / "check out"
    (checkout / "pipelines" / "cli").mkdir(parents=True)
    shutil.copy(INV, checkout)
    (checkout / "pipelines" / "cli" / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\n")
    (checkout / "requirements.lock").write_text("")

    def made(*words: str) -> bool:
        done = run(checkout / "inv", *words)
        assert done.stdout == f"{list(words)}\n"
        return "making .venv" in done.stderr

    assert made("a b", "")
    assert not made("once more")
    assert run(checkout / ".venv/bin/invoke", "x y").stdout == "['x y']\n"
    (checkout / "requirements.lock").write_text("# changed\n")
    assert made()
    checkout = checkout.rename(tmp_path / "moved")
    assert made()
    assert not made()


def test_settings_of_a_file_that_is_named(tmp_path: Path) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text("virtroot: {base: floppy}\n")
    assert "virtroot.base: 'floppy'" in run(INV, "-f", settings, "build", "--distro", "debian", status=2).stderr
    settings.write_text("virtroot: [\n")
    refused = run(INV, "-f", settings, "build", "--distro", "debian", status=2).stderr.splitlines()
    assert refused[0].startswith("error: cannot read the settings: ")
    assert refused[1].startswith("try: ")
    settings.unlink()
    assert "No such file or directory" in run(INV, "-f", settings, "list", status=2).stderr


@pytest.mark.parametrize(
    "line", ["--nope", "frob", "start", "build --nope", "install web --vcpus many", "plan --distro"]
)
def test_a_line_that_cannot_be_read(line: str) -> None:
    done = run(INV, *line.split(), status=2)
    what, hint = done.stderr.splitlines()
    assert (what[:7], hint[:5], done.stdout) == ("error: ", "try: ", "")


@pytest.mark.parametrize(
    "line", ["", "--help", "--list", "install --help", "plan --distro debian", "schema", "--version"]
)
def test_a_reader_that_has_seen_enough(line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run([INV, *line.split()], stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_disk_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([INV, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "error: No space left on device\ntry: free space on that disk, then run it again\n"
    assert done.returncode == 2


def test_an_output_directory_that_is_none(tmp_path: Path) -> None:
    taken = tmp_path / "output"
    taken.write_text("a file")
    done = run(INV, "build", "--distro", "debian", status=2, env={"INVOKE_VIRTROOT_OUTPUT": str(taken)})
    what, hint = done.stderr.splitlines()
    assert what == f"error: cannot lock the recipe debian: {taken}/.locks/recipe-debian: Not a directory"
    assert hint.startswith("try: ")


def heed_ctrl_c() -> None:
    """Whoever started the tests in the background had it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.5])
def test_ctrl_c(delay: float, virsh: Callable[[str], dict[str, str]], tmp_path: Path) -> None:
    env = virsh(f"touch {tmp_path / 'begun'}; sleep 30")
    task = subprocess.Popen(
        [INV, "list"], env={**os.environ, **env}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(delay)
    os.killpg(task.pid, signal.SIGINT)
    _, said = task.communicate(timeout=30)
    assert (task.returncode, said) == (130, "interrupted\n")


#: Completes "$@", of which the last word is begun, as pressing Tab does.
SHELLS = {
    "bash": """
        eval "$("$INV" --print-completion-script bash)"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { echo "compopt $*"; }
        _virtroot; printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "fish": """
        $INV --print-completion-script fish | source
        complete --do-complete "$argv"
    """,
}


@pytest.mark.parametrize("typed", ["inv", "./inv", "/somewhere/inv"])
@pytest.mark.parametrize("shell", [shell for shell in sorted(SHELLS) if shell == "bash" or shutil.which(shell)])
def test_completion_in_a_shell(shell: str, typed: str, virsh: Callable[[str], dict[str, str]], hostile: Path) -> None:
    listed = "echo 11111111-1111-4111-8111-111111111111 web; echo 22222222-2222-4222-8222-222222222222 work"
    names = f'case "$*" in *--name*) {listed};; *dumpxml*) cat "$XML";; esac'
    env = virsh(names)
    xml = hostile.parent / "guest.xml"
    xml.write_text((CHECKOUT / "tests/golden/files/domain-no-network.xml").read_text())

    def complete(*words: str) -> list[str]:
        argv = [shell, "-c", SHELLS[shell], *(["shell"] if shell == "bash" else []), typed, *words]
        return run(*argv, cwd=hostile, env={**env, "INV": str(INV), "XML": str(xml)}).stdout.split()

    assert complete("star") == ["start"]
    assert complete("start", "we") == ["web"]
    if typed != "./inv":
        # The same script answers, whatever it was called by.
        return
    assert complete("start", "") == ["web", "work"]
    assert complete("stop", "--force", "wo") == ["work"]
    # The checkout may have recipes of its user's own.
    assert "debian" in complete("install", "new", "--distro", "deb")
    assert "--distro" in complete("build", "--")
    assert not (hostile.parent / "marker").exists()


#: Names that libvirt takes, and that would run a command if a shell read them.
COMMANDS = ["zz$(touch marker)", "zz`touch marker`", "zz'\";touch marker"]


@pytest.fixture
def named(virsh: Callable[[str], dict[str, str]], tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Have one guest of some name; return the environment for that."""

    def guest(name: str) -> dict[str, str]:
        (tmp_path / "listed").write_text(f"11111111-1111-4111-8111-111111111111 {name}\n")
        env = virsh('case "$*" in *--name*) cat "$LISTED";; *dumpxml*) cat "$XML";; esac')
        xml = CHECKOUT / "tests/golden/files/domain-no-network.xml"
        return {**env, "INV": str(INV), "XML": str(xml), "LISTED": str(tmp_path / "listed")}

    return guest


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_offers_names_as_words(named: Callable[[str], dict[str, str]], name: str, tmp_path: Path) -> None:
    read_again = f'{SHELLS["bash"]}\nwords="$(printf \'%s \' "${{COMPREPLY[@]}}")"; eval "printf \'<%s>\' $words"'
    words = ["start", "--name", "=", "zz"] if "`" in name else ["start", "zz"]
    done = run("bash", "-c", read_again, "shell", "inv", *words, cwd=tmp_path, env=named(name))
    assert done.stdout.endswith(f"<{name}>")
    assert not (tmp_path / "marker").exists()


def test_tab_and_enter_in_bash_run_no_guests_name(named: Callable[[str], dict[str, str]], tmp_path: Path) -> None:
    # What would start a guest prints what it is given.
    setup = 'eval "$("$INV" --print-completion-script bash)"; inv() { echo "<$2>"; }; PS1="ready "'
    (tmp_path / "rc").write_text(f"{setup}\n")
    env = {**os.environ, **named("zz$(touch marker)"), "TERM": "dumb", "HOME": str(tmp_path)}
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 200))
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"],
        stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, env=env, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""

    def wait(text: bytes, typed: bytes) -> None:
        """Type, and type a Tab again where a busy machine had no answer in time."""
        nonlocal shown
        os.write(master, typed)
        end, again = time.monotonic() + 120, time.monotonic() + 15
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([master], [], [], 1)[0]:
                shown += os.read(master, 1 << 16)
            elif time.monotonic() > again and typed.endswith(b"\t"):
                os.write(master, b"\t")
                again += 15

    try:
        wait(b"ready ", b"")
        wait(b"touch", b"inv start zz\t")
        wait(b"<zz$(touch marker)>", b"\n")
    finally:
        shell.kill()
        shell.wait()
        os.close(master)
    assert not (tmp_path / "marker").exists()


def test_bash_splits_words_at_the_equals_sign(virsh: Callable[[str], dict[str, str]]) -> None:
    env = virsh("exit 1")

    def complete(*words: str) -> list[str]:
        return run("bash", "-c", SHELLS["bash"], "shell", "inv", *words, env={**env, "INV": str(INV)}).stdout.split()

    # The checkout may have recipes of its user's own.
    assert "debian" in complete("build", "--distro", "=", "deb")
    assert {"arch", "debian"} <= {*complete("build", "--distro", "=")}
    assert complete("build", "--recipe", "") == ["compopt", "-o", "default"]
    assert complete("start", "we") == []

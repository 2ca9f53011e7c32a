"""What the checks of a running guest look at, and what becomes of them where it cannot be gathered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.settings import CHECKOUT
from pipelines.verify import CONTEXT_VARIABLE, SuiteContext
from tests.acceptance.facts import SERVICES, Fact, Facts, parse

PROGRAM = (CHECKOUT / "tests" / "acceptance" / "gather.sh").read_text()

#: Stands in for a guest whose facts cannot be gathered.
SILENT = """
from types import SimpleNamespace
import pipelines.artifact.artifact, pipelines.guest.guest, pipelines.libvirt.connect
from pipelines.errors import VirtrootError
from tests.acceptance import facts

def gather(*_):
    raise VirtrootError("the agent of web does not answer", "look at it")

pipelines.libvirt.connect.connect = lambda settings: None
pipelines.guest.guest.get = lambda hypervisor, name: SimpleNamespace(name=name, agent=None)
pipelines.artifact.artifact.Artifact = lambda directory: SimpleNamespace(manifest=None)
facts.gather = gather
"""


def gathered(tmp_path: Path, *lines: str) -> bytes:
    """Return what the program prints, with other facts than a guest's."""
    begin, _, rest = PROGRAM.partition("fact echo")
    end = rest[rest.index("printf '%s") :]
    script = "\n".join([begin.replace("/run/", f"{tmp_path}/"), *lines, end])
    return subprocess.run(["sh", "-c", script, "gather", "", "", ""], check=True, capture_output=True).stdout


def test_a_fact_is_how_a_command_ended_and_what_it_printed(tmp_path: Path) -> None:
    hostile = r"fact hostile printf '3\nname 0\n 4 0.out\n\n\377'"
    facts = parse(gathered(tmp_path, hostile, "fact bad sh -c 'echo out; echo why >&2; exit 3'", "fact empty true"))
    assert facts == {
        "hostile": Fact(0, "3\nname 0\n 4 0.out\n\n�", ""),
        "bad": Fact(3, "out\n", "why\n"),
        "empty": Fact(0, "", ""),
    }
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AssertionError, match="bad cannot be found out in the guest, exit status 3: why"):
        facts.text("bad")


@pytest.mark.parametrize("kept", [0, 1, 10, -1])
def test_facts_that_are_cut_off_are_none(tmp_path: Path, kept: int) -> None:
    whole = gathered(tmp_path, "fact one echo 1", "fact two echo 2")
    with pytest.raises((ValueError, IndexError)):
        parse(whole[:kept])


def test_services_are_told_by_their_order() -> None:
    states = [f"ActiveState={state}\nUnitFileState={of_file}" for state, of_file in
              (("active", "static"), ("active", "enabled"), ("inactive", "disabled"), ("inactive", ""))]  # fmt: skip
    facts = Facts(services=Fact(0, "\n\n".join(states) + "\n", ""))
    assert facts.service(SERVICES[2]) == ("inactive", "disabled")
    assert facts.service(SERVICES[3]) == ("inactive", "")


def test_without_facts_one_check_fails_and_none_passes(tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    (tmp_path / "context").write_text(json.dumps(asdict(SuiteContext("", {}, guest="web"))))
    env = {**os.environ, CONTEXT_VARIABLE: str(tmp_path / "context"), "PYTHONPATH": f"{tmp_path}:{CHECKOUT}"}
    argv = [sys.executable, "-m", "pytest", "tests/acceptance", "-m", "guest", "-p", "silent", "-p", "no:cacheprovider"]
    done = subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nothing is known of web: error: the agent of web does not answer" in done.stdout
    assert " passed" not in done.stdout
    assert ("1 error" in done.stdout) or ("1 failed" in done.stdout), done.stdout

"""The wheel, installed in an empty environment outside the checkout."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from pipelines.package import build_wheel
from pipelines.settings import CHECKOUT
from tests.conftest import Virtroot
from tests.support import installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def bin_directory(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed.install(wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return installed.make_environment(tmp_path / "home")


def run(*argv: object, cwd: Path | str, env: dict[str, str], status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_the_wheel_has_one_package_and_no_tests_of_its_own(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"virtroot", wheel.name.rpartition("-py3")[0] + ".dist-info"}
    assert not [name for name in names if name.startswith(("virtroot/tests/unit", "virtroot/benchmarks"))]
    for needed in (
        "containerfiles/debian.Containerfile",
        "docs/guests.md",
        "pipelines/recipe/skeletons/sshd.links",
        "recipes/debian.yaml",
        "tests/acceptance/pytest.ini",
        "tests/acceptance/test_guest.py",
    ):
        assert f"virtroot/{needed}" in names


def test_the_same_commit_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "virtroot-0.0.1-py3-none-any.whl").touch()
    assert build_wheel(tmp_path).read_bytes() == wheel.read_bytes()
    # The book installs by a pattern.
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]


def test_the_wheel_makes_a_project_and_plans_a_build(
    bin_directory: Path, tmp_path: Path, environment: dict[str, str], inv: Virtroot
) -> None:
    virtroot = bin_directory / "virtroot"
    made = inv("package").stdout.strip()
    assert made.endswith(".whl")
    assert zipfile.is_zipfile(made)
    refused = run(virtroot, "list", cwd=tmp_path, env=environment, status=2)
    assert refused.stderr.splitlines() == [
        "error: no project directory",
        "try: run virtroot init DIR to make one, then use it by cd or -C DIR",
    ]
    run(virtroot, "init", "vms", cwd=tmp_path, env=environment)
    assert "wrote" not in run(CHECKOUT / "inv", "init", "vms", cwd=tmp_path, env=environment).stderr
    plan = run(virtroot, "plan", "--distro", "debian", cwd=tmp_path / "vms" / "recipes", env=environment).stdout
    own = subprocess.run(
        [CHECKOUT / "inv", "plan", "--distro", "debian"], env=environment, capture_output=True, text=True, check=True
    )
    assert plan == own.stdout
    help_text = run(virtroot, "help", "guests", cwd=tmp_path, env=environment).stdout
    assert "virtroot start web" in help_text
    assert "./inv" not in help_text
    assert run(bin_directory / "python", "-m", "virtroot", "--version", cwd=tmp_path, env=environment).stdout


def test_what_is_printed_for_later_names_the_program_and_the_project(
    bin_directory: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    virtroot, project = bin_directory / "virtroot", tmp_path / "my vms"
    said = run(virtroot, "init", "my vms", cwd=tmp_path, env=environment).stderr
    assert said.splitlines()[-1].endswith("next: cd 'my vms' && virtroot demo")
    shown = run(virtroot, "-C", project, "nightly-timer", "--show", cwd="/", env=environment).stdout
    assert f"{virtroot} -C '{project}' nightly" in shown or f'{virtroot} -C "{project}" nightly' in shown
    script = run(virtroot, "--print-completion-script", "bash", cwd="/", env=environment).stdout
    assert f"< <({virtroot} --complete -- " in script
    assert script.splitlines()[-1] == "complete -F _virtroot inv invoke virtroot"
    (project / "virtroot.yaml").write_text("project: elsewhere\n")
    refused = run(virtroot, "-C", project, "plan", "-d", "debian", cwd="/", env=environment, status=2)
    assert refused.stderr.startswith("error: unknown setting virtroot.project\n")


def test_an_installed_program_has_no_tasks_for_development(
    bin_directory: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    for task in ("test", "release", "package", "book", "reference"):
        refused = run(bin_directory / "virtroot", task, cwd=tmp_path, env=environment, status=2)
        assert f"unknown task '{task}'" in refused.stderr


def test_plain_invoke_runs_the_tasks_in_a_project(
    bin_directory: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    run(bin_directory / "virtroot", "init", "vms", cwd=tmp_path, env=environment)
    project = tmp_path / "vms"
    invoke = bin_directory / "invoke"
    plan = run(invoke, "plan", "--distro", "arch", cwd=project / "tests", env=environment)
    assert plan.stdout.startswith("arch rolling")
    refused = run(invoke, "plan", "--distro", "nope", cwd=project, env=environment, status=2)
    assert refused.stderr.splitlines()[0] == "error: no recipe nope"
    refused = run(invoke, "stop", cwd=project, env=environment, status=2)
    assert refused.stderr.splitlines()[0] == "error: no guest is named"
    (project / "virtroot.yaml").write_text("recipes: mine\n")
    refused = run(invoke, "plan", "--distro", "arch", cwd=project, env=environment, status=2)
    assert refused.stderr.splitlines()[0] == "error: no recipe arch"
    (project / "virtroot.yaml").write_text("recipes: [")
    refused = run(invoke, "plan", "--distro", "arch", cwd=project, env=environment, status=2)
    assert "cannot read" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_tasks_are_a_collection_in_a_file_of_the_user(
    bin_directory: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    run(bin_directory / "virtroot", "init", "vms", cwd=tmp_path, env=environment)
    (tmp_path / "vms" / "tasks.py").write_text(
        "from invoke import Collection, task\n"
        "from virtroot import collection\n"
        "@task\n"
        "def hello(c):\n"
        "    print('hello')\n"
        "namespace = Collection(hello)\n"
        "namespace.add_collection(collection, name='vm')\n"
    )
    invoke = bin_directory / "invoke"
    assert run(invoke, "hello", cwd=tmp_path / "vms", env=environment).stdout == "hello\n"
    plan = run(invoke, "vm.plan", "--distro", "debian", cwd=tmp_path / "vms", env=environment)
    assert plan.stdout.startswith("debian trixie")

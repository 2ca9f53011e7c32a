"""Build the packages that people install: a wheel, for pipx and uv."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipelines.cli.task import Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.log import result, step
from pipelines.settings import CHECKOUT
from pipelines.target import durable
from pipelines.text import trim


def build_wheel(directory: Path) -> Path:
    """Build the wheel in ``directory``, and return its path; the same commit gives the same bytes.

    Raises `VirtrootError` if hatchling fails.
    """
    commit = process.run(
        ["git", "-C", str(CHECKOUT), "-c", f"safe.directory={CHECKOUT}", "log", "-1", "--format=%ct"], check=False
    )
    # Without git's time, as in an unpacked archive, hatchling uses a fixed one.
    env = {} if commit.returncode else {"SOURCE_DATE_EPOCH": trim(commit.text)}
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=directory) as partial:
        hatchling = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", partial]
        done = process.run(["env", f"--chdir={CHECKOUT}", *hatchling], check=False, env=env)
        if done.returncode:
            raise VirtrootError("hatchling cannot build the wheel", "read its message above", done.complaint)
        [made] = Path(partial).glob("*.whl")
        for earlier in directory.glob("virtroot-*.whl"):
            # pip takes a pattern for all of them.
            earlier.unlink()
        durable.publish(made, directory / made.name)
    return directory / made.name


@task(name="package")
def package_task(
    c: Context,
) -> None:
    """Build the wheel of this checkout, for pipx, and print its path.

    ./inv package
    """
    with step("building the wheel"):
        path = build_wheel(settings_of(c).output_dir / ".packages")
    result(str(path))

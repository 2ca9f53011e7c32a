"""virtroot as users install it: from its wheel, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.settings import CHECKOUT


def install(wheel: Path, environment: Path) -> Path:
    """Install the wheel with what it needs in a new environment; return the directory with its program."""
    uv = shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
        command = [uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python")]
    else:
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        command = [str(environment / "bin" / "pip"), "install", "--quiet"]
    # The versions of the checkout, so that a new release of a library cannot fail a test.
    subprocess.run([*command, "--constraint", str(_write_constraints(environment)), str(wheel)], check=True)
    return environment / "bin"


def _write_constraints(environment: Path) -> Path:
    """Write the versions in the lock file, without digests."""
    lines = (CHECKOUT / "requirements.lock").read_text().splitlines()
    path = environment.with_name("constraints.txt")
    path.write_text("\n".join(line.rstrip(" \\") for line in lines if line[:1].isalnum()))
    return path


def make_environment(home: Path) -> dict[str, str]:
    """Return the environment of a user with the directory ``home``, who has no project directory and no settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTROOT", "INVOKE", "PYTHON"))}
    return {**kept, "HOME": str(home), "XDG_STATE_HOME": ""}

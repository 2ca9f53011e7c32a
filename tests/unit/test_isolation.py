"""The tests of this folder see nothing of who runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipelines.settings import CHECKOUT

#: What a user may have set.
SETTINGS = {
    "INVOKE_VIRTROOT_OUTPUT": "/nowhere",
    "INVOKE_VIRTROOT_TIMEOUT": "nonsense",
    "DOCKER_HOST": "ssh://elsewhere",
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "HTTPS_PROXY": "http://proxy.example",
    "SOURCE_DATE_EPOCH": "x",
}


def test_no_setting_home_or_language_of_the_users_is_seen() -> None:
    seen = [name for name in os.environ if name.startswith(("INVOKE_", "DOCKER_", "LC_", "SUDO_"))]
    assert seen == []
    assert list(Path.home().iterdir()) == []
    assert os.environ["LANG"] == "C.UTF-8"
    before = os.umask(0o022)
    assert before == 0o022


def test_tests_pass_whatever_the_user_has(tmp_path: Path) -> None:
    """A few tests that read settings, and the one above, as somebody runs them who has all of that."""
    (tmp_path / ".invoke.yaml").write_text("virtroot: {output: /nowhere}\n")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "base")]
    tests = ["tests/unit/test_isolation.py::test_no_setting_home_or_language_of_the_users_is_seen"]
    tests += ["tests/unit/test_status.py", "tests/unit/test_build.py"]
    done = subprocess.run(
        [*argv, *tests],
        env={**os.environ, **SETTINGS, "HOME": str(tmp_path)},
        preexec_fn=lambda: os.umask(0o077) and None,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout

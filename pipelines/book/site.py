"""Builds the book as a site: static pages with a search, without external resources."""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.log import step
from pipelines.settings import CHECKOUT, Settings
from pipelines.target import lock

#: The environment of mkdocs, separate from .venv because most users do not need its many packages.
_VENV = CHECKOUT / ".venv-book"
_LOCK = CHECKOUT / "requirements-book.lock"

#: Suppresses an advertisement in mkdocs' output.
_ENV = {"NO_MKDOCS_2_WARNING": "1"}


def build(settings: Settings) -> Path:
    """Build the site in ``.book`` of the output directory; return its first page.

    Raises VirtrootError, with mkdocs' output, for a broken link.
    """
    directory = settings.output_dir / ".book"
    with lock.hold(CHECKOUT / ".venv-book.lock", "the book's environment"):
        _prepare()
        with step("building the site"):
            done = process.run(command(directory), env=_ENV, check=False)
    if done.returncode:
        raise VirtrootError("mkdocs found errors in the book", "fix the pages named above", done.complaint)
    return directory / "index.html"


def command(directory: Path) -> list[str]:
    """Return the command line that makes the site in ``directory`` and fails where mkdocs warns."""
    argv = [str(_VENV / "bin" / "mkdocs"), "build", "--strict", "--clean", f"--site-dir={directory}"]
    # Not --quiet: mkdocs 1.6.1 then drops the warnings before --strict counts them, and accepts every broken link.
    return [*argv, f"--config-file={CHECKOUT / 'mkdocs.yml'}"]


def _prepare() -> None:
    made = _VENV / "requirements.lock"
    if made.exists() and made.read_bytes() == _LOCK.read_bytes():
        return
    with step("installing mkdocs"):
        process.run([sys.executable, "-m", "venv", "--clear", str(_VENV)])
        pip = [str(_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        process.run([*pip, "--no-deps", "--require-hashes", f"--requirement={_LOCK}"])
    # Write it last, so that an interrupted installation is repeated.
    made.write_bytes(_LOCK.read_bytes())

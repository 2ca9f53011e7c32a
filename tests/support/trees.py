"""A tree to import, its files, and the signs in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.origin import signs
from pipelines.settings import CHECKOUT
from pipelines.target.payload import signs as searching

#: The script that changes a root when it is imported.
IMPORT_ROOT = CHECKOUT / "containerfiles/debian/import-root"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree without signs."""
    root = tmp_path / "system"
    (root / "etc").mkdir(parents=True)
    root.chmod(0o755)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    return root


def write(root: Path, path: str, content: str = "") -> Path:
    """Write a file, or a link where ``content`` is ``->TARGET``, and make the directories above it."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if content.startswith("->"):
        file.symlink_to(content[2:])
    else:
        file.write_text(content)
    return file


def find_signs(root: Path) -> signs.Shown:
    """Search the tree for all signs with the program that is sent along."""
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        return signs.parse_answer(searching.find(descriptor, signs.make_queries()))
    finally:
        os.close(descriptor)

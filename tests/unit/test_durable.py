"""A file on libvirt's host is put in place whole, or stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import VirtrootError
from pipelines.libvirt import host_files
from pipelines.target import durable
from pipelines.target.target import Local, Target

#: Each puts a file on a target.
PUTS: dict[str, Callable[[Target, str], object]] = {
    "put": lambda target, path: durable.put(target, path, b"new content", 0o640),
    "wrapper": host_files.install_wrapper,
}


class CutShort(Local):
    """A target whose caller is killed while it sends: of each command's input the last byte does not arrive."""

    def run(self, argv: Any, *, stdin: Any = None, **how: Any) -> Any:
        return super().run(argv, stdin=stdin[:-1] if stdin else stdin, **how)


@pytest.mark.parametrize("put", PUTS)
def test_input_that_ends_early_replaces_nothing(tmp_path: Path, put: str) -> None:
    path = tmp_path / "directory/file"
    path.parent.mkdir()
    path.write_text("old")
    with pytest.raises(VirtrootError, match="sh exited with"):
        PUTS[put](CutShort(), str(path))
    assert path.read_text() == "old"
    PUTS[put](Local(), str(path))
    assert path.read_text() != "old"
    assert path.stat().st_mode & 0o777 == (0o640 if put == "put" else 0o755)

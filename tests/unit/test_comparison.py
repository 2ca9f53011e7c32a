"""What is said where two builds differ in a byte."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.comparison import differences


def tarball(path: Path, *, order: int = 1, **changed: object) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("./a", "./b", "./c")[::order]:
            entry = tarfile.TarInfo(name)
            content = b"content"
            if name == "./b":
                for key, value in changed.items():
                    if key == "content":
                        content = str(value).encode()
                    else:
                        setattr(entry, key, value)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    subprocess.run(["zstd", "-q", "-o", path], input=buffer.getvalue(), check=True)
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"content": "Content"}, "./b: content"),
        ({"mode": 0o600}, "./b: mode 644 and 600"),
        ({"uid": 7}, "./b: owner (0, 0) and (7, 0)"),
        ({"mtime": 5}, "./b: time 0 and 5"),
        ({"pax_headers": {"SCHILY.xattr.user.x": "1"}}, "./b: headers {} and {'SCHILY.xattr.user.x': '1'}"),
        ({"order": -1}, "the order of the entries"),
        ({}, "nothing but how the tarballs are written"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    first, second = tarball(tmp_path / "first"), tarball(tmp_path / "second", **changed)  # type: ignore[arg-type]
    assert differences(first, second) == [said]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    first, second = tarball(tmp_path / "first"), tarball(tmp_path / "second", name="./d")
    assert differences(first, second) == [f"./b: only in {first}", f"./d: only in {second}"]

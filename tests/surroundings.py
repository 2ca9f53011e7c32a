"""What tests that need nothing have around them: no settings, home or language of who runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Beginnings of variables that change what virtroot, its engine, ssh or a program's messages do.
_OF_THE_USER = ("INVOKE_", "DOCKER_", "LC_", "LANG", "XDG_", "SUDO_", "GIT_", "SSH_", "SOURCE_DATE_EPOCH", "NO_COLOR")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with nothing in it."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def without_the_users(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what the user has in the environment and at home, for one test."""
    for name in os.environ:
        if name.startswith(_OF_THE_USER) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(empty_home))
    monkeypatch.setenv("LANG", "C.UTF-8")
    before = os.umask(0o022)
    yield
    os.umask(before)

"""Which engine is meant, by what docker's own client reads."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from docker.errors import DockerException

from pipelines import setup
from pipelines.engine import engine as engines
from pipelines.engine.endpoint import Endpoint, Forbidden, get_endpoint
from pipelines.errors import VirtrootError
from pipelines.settings import Settings


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's configuration, with a few contexts, and none of its variables set."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    context(tmp_path, "far", Host="unix:///run/far.sock", SkipTLSVerify=False)
    context(tmp_path, "shell", Host="ssh://root@far")
    context(tmp_path, "locked", Host="tcp://far:2376")
    (tmp_path / "contexts" / "tls" / key("locked") / "docker").mkdir(parents=True)
    context(tmp_path, "careless", Host="tcp://far:2376", SkipTLSVerify=True)
    context(tmp_path, "open", Host="tcp://far:2375", SkipTLSVerify=False)
    return tmp_path


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def context(directory: Path, name: str, **docker: Any) -> None:
    path = directory / "contexts" / "meta" / key(name) / "meta.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": docker}}))


def test_nothing_said_is_the_local_socket(docker: Path) -> None:
    assert get_endpoint() == Endpoint("unix:///var/run/docker.sock", "")


def test_host_wins_over_context_and_context_over_the_current_one(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (docker / "config.json").write_text('{"currentContext": "open"}')
    assert get_endpoint().url == "tcp://far:2375"
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    assert str(get_endpoint()) == "(unix:///run/far.sock, from the Docker context far)"
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert get_endpoint().url == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")
    assert get_endpoint() == Endpoint("unix:///run/mine.sock", "DOCKER_HOST")


@pytest.mark.parametrize("by", ["variable", "configuration"])
def test_an_unknown_context_is_named_with_those_that_are_there(
    docker: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "variable":
        monkeypatch.setenv("DOCKER_CONTEXT", "near")
    else:
        (docker / "config.json").write_text('{"currentContext": "near"}')
    with pytest.raises(VirtrootError, match="no Docker context near") as error:
        engines.connect()
    assert "one of: default, careless, far, locked, open, shell" in error.value.hint


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"DOCKER_HOST": "ssh://root@far"}, "over ssh"),
        ({"DOCKER_CONTEXT": "shell"}, "over ssh"),
        ({"DOCKER_HOST": "https://far:2376"}, "behind TLS"),
        ({"DOCKER_HOST": "tcp://far:2376", "DOCKER_TLS_VERIFY": "1"}, "behind TLS"),
        ({"DOCKER_HOST": "tcp://far:2376", "DOCKER_CERT_PATH": "/certs"}, "behind TLS"),
        ({"DOCKER_CONTEXT": "locked"}, "behind TLS"),
        ({"DOCKER_CONTEXT": "careless"}, "behind TLS"),
    ],
)
def test_what_cannot_half_close_is_refused(
    docker: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VirtrootError, match=says) as error:
        engines.connect()
    assert "ssh -nNT -L" in error.value.hint


def test_a_local_socket_is_never_behind_tls(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert get_endpoint().url == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")
    assert get_endpoint().url == "unix:///run/mine.sock"


def test_a_broken_configuration_is_named(docker: Path) -> None:
    (docker / "config.json").write_text("{")
    with pytest.raises(VirtrootError, match=r"cannot read .*/config\.json"):
        get_endpoint()


def test_an_engine_that_does_not_answer_is_named_with_who_chose_it(
    docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MagicMock(side_effect=DockerException("refused"))
    monkeypatch.setattr("docker.DockerClient", client)
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    with pytest.raises(VirtrootError, match="no Docker engine answers") as error:
        engines.connect()
    assert "(unix:///run/far.sock, from the Docker context far)" in error.value.what
    assert client.call_args.kwargs["base_url"] == "unix:///run/far.sock"


def test_a_user_who_may_not_use_the_engine_is_told_so(
    tmp_path: Path, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        monkeypatch.setattr("os.access", lambda *_: False)
        monkeypatch.setattr("docker.DockerClient", MagicMock(side_effect=DockerException("Permission denied")))
        with pytest.raises(Forbidden, match=f"may not use the Docker engine .unix://{path}") as refused:
            engines.connect()
        assert "sudo" in refused.value.hint
        assert not engines.is_available()
        # An engine that this user may not use is not installed a second time.
        with pytest.raises(Forbidden):
            setup.setup(Settings())

"""What is asked of the engine, and what its answers become."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import requests
from docker.errors import APIError, NotFound

from pipelines.engine import docker_client, this_machine
from pipelines.engine.container import Container
from pipelines.engine.engine import Engine, NameTaken, NoSuchDevice
from pipelines.engine.image import read_image
from pipelines.errors import VirtrootError
from pipelines.host import environment


def refusal(status: int, explanation: str) -> APIError:
    response: Any = SimpleNamespace(status_code=status, url="", reason="")
    return (NotFound if status == 404 else APIError)("refused", response, explanation)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    monkeypatch.setattr(environment, "get_files", dict)
    client = MagicMock()
    client.api.create_container.return_value = {"Id": "made"}
    return client


@pytest.mark.parametrize(
    ("capabilities", "seccomp", "expected"),
    [
        ((), True, []),
        (("NET_ADMIN",), True, []),
        (("SYS_ADMIN",), True, ["apparmor=unconfined"]),
        (("SYS_ADMIN", "NET_ADMIN"), False, ["seccomp=unconfined", "apparmor=unconfined"]),
    ],
)
def test_only_a_container_that_mounts_is_freed_of_apparmor(
    client: MagicMock, capabilities: tuple[str, ...], seccomp: bool, expected: list[str]
) -> None:
    Engine(client).start("image", labels={}, capabilities=capabilities, seccomp=seccomp)
    asked = client.api.create_host_config.call_args.kwargs
    assert asked["security_opt"] == expected
    assert asked["cap_add"] == list(capabilities)
    assert "privileged" not in asked


def test_the_engine_waits_as_long_as_it_is_told_before_it_kills(client: MagicMock) -> None:
    Engine(client).start("image", labels={}, stop_timeout=90)
    assert client.api.create_container.call_args.kwargs["stop_timeout"] == 90


def test_a_tied_container_reads_the_input_that_ends_with_its_task(client: MagicMock) -> None:
    started = Engine(client).start("image", labels={"a": "b"}, volumes={"cache": "/cache"}, tied=True)
    asked = client.api.create_container.call_args
    assert asked.args[1] == ["cat"]
    assert asked.kwargs["stdin_open"]
    made = client.api.create_host_config.call_args.kwargs
    assert made["auto_remove"]
    assert made["mounts"][0]["VolumeOptions"]["Labels"] == {"a": "b", "virtroot": "volume"}
    steps = [call[0] for call in client.api.method_calls]
    assert steps.index("attach_socket") < steps.index("start")
    client.api.attach_socket.return_value.close.assert_not_called()
    started.remove()
    client.api.attach_socket.return_value.close.assert_called_once_with()


@pytest.mark.parametrize("labels", [None, {}, {"virtroot.purpose": "hypervisor"}, {"virtroot": "container"}])
def test_what_virtroot_did_not_make_is_never_removed(client: MagicMock, labels: dict[str, str] | None) -> None:
    wanted = {"virtroot.purpose": "hypervisor"}
    found = {"Id": "1", "State": {"Status": "exited"}, "Config": {"Labels": labels}}
    client.api.inspect_container.return_value = found
    engine = Engine(client)
    for remove in (engine.remove_container, engine.remove_ended, engine.refuse_foreign):
        with pytest.raises(VirtrootError, match="container mine on this engine does not have"):
            remove("mine", wanted)
    client.volumes.get.return_value.attrs = {"Labels": {**wanted}}
    with pytest.raises(VirtrootError, match="volume mine on this engine does not have"):
        engine.remove_volume("mine")
    client.api.remove_container.assert_not_called()
    client.volumes.get.return_value.remove.assert_not_called()
    found["Config"] = {"Labels": {**wanted, "virtroot": "container"}}
    engine.remove_ended("mine", wanted)
    client.api.remove_container.assert_called_once_with("1", force=True, v=True)
    client.volumes.get.return_value.attrs = {"Labels": {"virtroot": "volume"}}
    engine.remove_volume("mine")
    client.volumes.get.return_value.remove.assert_called_once_with(force=True)


def test_a_name_that_is_taken_is_told_from_other_refusals(client: MagicMock) -> None:
    client.api.create_container.side_effect = refusal(409, "Conflict. The container name is already in use")
    with pytest.raises(NameTaken, match="a container web of another task"):
        Engine(client).start("image", name="web", labels={})
    client.api.create_container.side_effect = refusal(404, "No such image: image")
    with pytest.raises(VirtrootError, match="cannot start a container from image: No such image") as error:
        Engine(client).start("image", name="web", labels={})
    assert not isinstance(error.value, NameTaken)


def test_a_device_that_is_missing_is_told_from_other_refusals(client: MagicMock) -> None:
    client.api.start.side_effect = refusal(500, 'error gathering device information while adding "/dev/kvm": no such')
    with pytest.raises(NoSuchDevice, match="cannot give /dev/kvm"):
        Engine(client).start("image", labels={}, devices=("/dev/fuse", "/dev/kvm"))
    with pytest.raises(VirtrootError, match="cannot start a container") as error:
        Engine(client).start("image", labels={})
    assert not isinstance(error.value, NoSuchDevice)


@pytest.mark.parametrize("error", [refusal(500, "no"), KeyboardInterrupt()])
def test_a_container_that_does_not_start_is_not_left(client: MagicMock, error: BaseException) -> None:
    client.api.start.side_effect = error
    with pytest.raises((VirtrootError, KeyboardInterrupt)):
        Engine(client).start("image", labels={})
    client.api.remove_container.assert_called_once_with("made", force=True, v=True)


def test_what_the_environment_names_is_there_before_the_container_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = MagicMock()
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    (tmp_path / "ca.pem").write_bytes(b"a CA")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    Engine(client).start("image", labels={})
    assert client.api.create_container.call_args.kwargs["environment"]["https_proxy"] == "http://proxy:3128"
    Engine(client).start("image", labels={}, proxied=False)
    assert client.api.create_container.call_args.kwargs["environment"] == {}
    steps = [call[0] for call in client.api.method_calls]
    assert steps.index("put_archive") < steps.index("start")
    assert b"a CA" in client.api.put_archive.call_args.args[2]
    assert environment.get_files() == {"etc/ssl/certs/ca-certificates.crt": b"a CA"}


def test_states_are_the_engines_words(client: MagicMock) -> None:
    client.api.inspect_container.return_value = {"Id": "1", "State": {"Status": "paused"}}
    assert Engine(client).container_state("web") == "paused"
    assert Engine(client).container("web") is None
    client.api.inspect_container.return_value = {"Id": "1", "State": {"Status": "running"}}
    assert Engine(client).container("web") == Container("1", client.api)
    client.api.inspect_container.side_effect = refusal(404, "no such container")
    assert Engine(client).container_state("web") == ""
    assert Engine(client).container("web") is None


def test_stopping_what_is_gone_is_fine_and_other_refusals_are_not(client: MagicMock) -> None:
    Container("1", client.api).stop(60)
    client.api.stop.assert_called_once_with("1", timeout=60)
    client.api.stop.side_effect = refusal(404, "no such container")
    Container("1", client.api).stop(60)
    client.api.stop.side_effect = refusal(500, "cannot")
    with pytest.raises(VirtrootError, match="cannot stop"):
        Container("1", client.api).stop(60)


def here() -> dict[str, Any]:
    return {
        "Name": platform.node(),
        "KernelVersion": platform.release(),
        "MemTotal": this_machine.read_memory("MemTotal"),
    }


def test_on_this_machine_what_is_available_counts(client: MagicMock) -> None:
    client.info.return_value = here()
    assert Engine(client).memory() != here()["MemTotal"] // 2
    assert abs(Engine(client).memory() - this_machine.read_memory("MemAvailable")) < 1 << 30


@pytest.mark.parametrize("differs", [{"Name": "far"}, {"KernelVersion": "0.1"}, {"MemTotal": 8 << 30}])
def test_on_another_machine_half_of_all_counts(client: MagicMock, differs: dict[str, Any]) -> None:
    client.info.return_value = {**here(), **differs}
    assert Engine(client).memory() == client.info.return_value["MemTotal"] // 2


def test_an_image_is_as_old_as_its_last_pull() -> None:
    described = {"Id": "sha256:1", "Created": "2026-01-02T03:04:05.123456789Z", "Config": {"Labels": None}}
    assert read_image(described).made.isoformat() == "2026-01-02T03:04:05.123456+00:00"
    pulled = {**described, "Metadata": {"LastTagTime": "2026-02-02T03:04:05.123456789+01:00"}}
    assert read_image(pulled).made.month == 2
    never = {**described, "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"}}
    assert read_image(never).made.month == 1
    assert read_image({"Id": "sha256:1", "Created": ""}).made.year == 1


@pytest.mark.parametrize("error", [requests.ConnectionError("Connection aborted"), requests.ReadTimeout("timed out")])
def test_an_engine_that_answers_no_more_is_no_bug(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests.Session, "send", MagicMock(side_effect=error))
    api = docker_client.Api(base_url="unix:///nowhere", version="1.41")
    with pytest.raises(VirtrootError, match="the Docker engine no longer answers") as raised:
        api.ping()
    assert (raised.value.where, raised.value.detail) == ("engine", str(error))

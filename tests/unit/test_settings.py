"""Settings, from text and from YAML, and through ./inv."""

from __future__ import annotations

import os
import subprocess
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest
from pydantic import ValidationError

import tasks
from pipelines.cli import exit_status
from pipelines.errors import VirtrootError
from pipelines.settings import CHECKOUT, Settings, describe_settings, from_section, list_defaults


def test_defaults_are_text_and_mean_the_defaults() -> None:
    assert {type(value) for value in list_defaults().values()} == {str}
    assert from_section(list_defaults()) == Settings()
    assert from_section({}) == Settings()


def test_every_setting_is_explained() -> None:
    assert [*describe_settings()] == [field.name for field in fields(Settings) if field.name != "project"]
    assert [name for name, (_, what) in describe_settings().items() if not what] == []


@pytest.mark.parametrize(("value", "size"), [("10GiB", 10 << 30), ("500 MiB", 500 << 20), ("0", 0), (" 0 ", 0), (0, 0)])
def test_the_size_of_the_cache(value: object, size: int) -> None:
    assert from_section({"cache_size": value}).cache_bytes == size


@pytest.mark.parametrize("value", ["60", 60, " 60"])
def test_numbers_are_read_from_text_too(value: object) -> None:
    assert from_section({"timeout": value, "image_max_age": value}) == Settings(timeout=60, image_max_age=60)


@pytest.mark.parametrize("value", ["auto", "disk", "tmpfs:8g", "tmpfs:48m", "tmpfs:50%", "tmpfs:1000000"])
def test_good_workspace(value: str) -> None:
    assert from_section({"workspace": value}).workspace == value


BAD: list[tuple[str, Any, str]] = [
    ("connect", "", "a text that is not empty"),
    ("connect", None, "a text that is not empty"),
    ("pool", 5, "a text that is not empty"),
    ("pool", " ", "a text that is not empty"),
    ("pool_path", "here", "an absolute path"),
    ("embedded", "a b", "a name of letters"),
    ("workspace", "ram", "auto, disk or tmpfs:SIZE"),
    ("workspace", "tmpfs:", "auto, disk or tmpfs:SIZE"),
    ("workspace", "tmpfs:lots", "auto, disk or tmpfs:SIZE"),
    ("base", "floppy", "auto, registry or mirror"),
    ("cache_size", "much", "a size like 10GiB or 500MiB, or 0 for no cache"),
    ("cache_size", "", "a size like 10GiB"),
    ("cache_size", "-1GiB", "a size like 10GiB"),
    ("cache_size", "10", "a size like 10GiB"),
    ("cache_size", True, "a size like 10GiB"),
    ("debian_snapshots", "http://a.example/{archive}", "an address that contains {archive}, and {time} or"),
    ("debian_snapshots", "http://a.example/{time}", "an address that contains {archive}, and {time} or"),
    ("debian_snapshots", "a.example/{archive}/{time}", "an address that contains {archive}, and {time} or"),
    ("debian_snapshots", "http://a.example/{archive}/{time.year}", "an address that contains {archive}"),
    ("debian_snapshots", "http://a.example/{archive}/{time}{day:{month}}", "an address that contains {archive}"),
    ("debian_snapshots", "http://a.example/{archive}/{time!r}", "an address that contains {archive}"),
    ("debian_snapshots", "http://a.example/{archive}/{time}/{", "an address that contains {archive}"),
    ("arch_snapshots", "http://a.example/{year}/{month}/$repo", "an address that contains $repo, $arch, and {time} or"),
    ("arch_snapshots", "http://a.example/{year}/{month}/{day}", "an address that contains $repo, $arch, and {time} or"),
    ("timeout", "soon", "a whole number of seconds, 1 or more"),
    ("timeout", "0", "a whole number of seconds, 1 or more"),
    ("timeout", -5, "a whole number of seconds, 1 or more"),
    ("timeout", 1.5, "a whole number of seconds, 1 or more"),
    ("timeout", "nan", "a whole number of seconds, 1 or more"),
    ("timeout", float("inf"), "a whole number of seconds, 1 or more"),
    ("timeout", True, "a whole number of seconds, 1 or more"),
    ("timeout", ["60"], "a whole number of seconds, 1 or more"),
    ("image_max_age", "-1", "a whole number of days, or 0 for never"),
    ("upgrade", "all web", "none, all, or names of guests separated by spaces"),
    ("upgrade", True, "none, all, or names of guests separated by spaces"),
    ("upgrade", [], "none, all, or names of guests separated by spaces"),
    ("image_max_age", False, "a whole number of days, or 0 for never"),
]


@pytest.mark.parametrize(("name", "value", "use"), BAD)
def test_bad_value(name: str, value: object, use: str) -> None:
    with pytest.raises(VirtrootError) as error:
        from_section({name: value})
    assert error.value.what == f"invalid setting virtroot.{name}: {value!r}"
    assert error.value.hint.startswith(f"use {use}")


def test_unknown_setting() -> None:
    with pytest.raises(VirtrootError, match=r"unknown setting virtroot\.colour") as error:
        from_section({"colour": "red"})
    assert error.value.hint.startswith("use a known setting: arch_snapshots, base, cache_dir, cache_size, connect, ")
    with pytest.raises(ValidationError):
        Settings(colour="red")  # type: ignore[call-arg]


def test_settings_are_a_frozen_value() -> None:
    settings = replace(Settings(), output="elsewhere", cache_size="0")
    assert Settings(**asdict(settings)) == settings
    assert {settings: 1}[settings] == 1
    with pytest.raises(FrozenInstanceError):
        settings.output = "x"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        replace(settings, timeout=-1)


def doctor(**variables: str) -> subprocess.CompletedProcess[str]:
    """Run a task that reads the settings first, with no engine to ask."""
    env = {**os.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock", **variables}
    return subprocess.run(
        [str(CHECKOUT / "inv"), "doctor"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value, _ in BAD if isinstance(value, str) and value not in {" ", "nan"}]
)
def test_bad_variable_is_two_lines_and_exit_code_2(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv(f"INVOKE_VIRTROOT_{name.upper()}", value)
    assert exit_status.run_task(lambda: tasks.program.run(["inv", "doctor"])) == 2
    said = capsys.readouterr()
    assert said.out == ""
    what, hint = said.err.splitlines()
    assert what == f"error: invalid setting virtroot.{name}: {value!r}"
    assert hint.startswith("try: use ")


def test_the_program_ends_as_the_call_does() -> None:
    done = doctor(INVOKE_VIRTROOT_TIMEOUT="-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: invalid setting virtroot.timeout: '-1'"


def test_good_variables_are_taken() -> None:
    done = doctor(INVOKE_VIRTROOT_BASE_CACHE="false", INVOKE_VIRTROOT_TIMEOUT="60", INVOKE_VIRTROOT_BASE="mirror")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "no Docker engine answers" in done.stdout

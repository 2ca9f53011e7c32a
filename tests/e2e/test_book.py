"""The book, followed word by word in a fresh checkout: its files are written, its commands typed, page after page."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from pipelines.guest import guest as guests
from pipelines.libvirt.connect import connect
from pipelines.pool import place
from pipelines.settings import CHECKOUT
from tests import book
from tests.conftest import Virtroot


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would have of the checkout."""
    copy = tmp_path_factory.mktemp("fresh") / "virtroot"
    copy.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    there = b"\0".join(path for path in listed.split(b"\0") if path and os.path.lexists(CHECKOUT / os.fsdecode(path)))
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"], cwd=CHECKOUT, input=there, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "--extract", f"--directory={copy}"], input=packed, check=True)
    return copy


@pytest.fixture(scope="module")
def env(inv: Virtroot) -> Iterator[dict[str, str]]:
    """The settings of the tests' hypervisor; artifacts are the fresh checkout's own."""
    surroundings = inv.environment
    del surroundings["INVOKE_VIRTROOT_OUTPUT"]
    yield surroundings
    hypervisor = connect(inv.settings)
    for guest in guests.list_guests(hypervisor):
        if guest.running:
            inv("stop", guest.name, "--force")
        inv("remove", guest.name, "--yes")
    hypervisor.target.run(["rm", "-r", f"{place.share(inv.settings.pool_path, 'common')}"], check=False)
    for volume in docker.from_env().volumes.list():
        if volume.name.startswith("virtroot-cache-web"):
            volume.remove()


@pytest.mark.long
@pytest.mark.parametrize("page", book.STORY)
def test_a_page_can_be_followed_word_by_word(checkout: Path, env: dict[str, str], page: str) -> None:
    followed = 0
    for block in book.blocks(page):
        if block.title:
            path = checkout / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.status is not None:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text], cwd=checkout, env=env, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", check=False,
            )  # fmt: skip
            assert done.returncode == block.status, f"{block.text}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
            assert "Traceback" not in done.stderr
            followed += 1
    assert followed


def test_every_page_with_commands_that_are_run_is_followed() -> None:
    assert {block.page for page in book.pages() for block in book.blocks(page) if block.status is not None} == {
        *book.STORY
    }

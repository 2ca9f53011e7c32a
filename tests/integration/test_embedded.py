"""The embedded hypervisor's life, with several who use it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from docker import APIClient

from benchmarks import caches
from pipelines.engine import engine as engines
from pipelines.libvirt import embedded
from pipelines.pool import pool
from pipelines.settings import Settings
from tests.conftest import HYPERVISOR, Virtroot

NAME = f"{HYPERVISOR}-life"


@pytest.fixture
def settings(inv: Virtroot) -> Iterator[Settings]:
    """Those of a hypervisor that nobody has started yet."""
    settings = replace(inv.settings, embedded=NAME)
    embedded.stop(settings, with_volumes=True)
    embedded.ensure_image(engines.connect(), settings)
    yield settings
    embedded.stop(settings, with_volumes=True)


def test_two_first_users_share_one_and_a_paused_one_keeps_its_guests(inv: Virtroot, settings: Settings) -> None:
    users = [named(inv).start("list") for _ in range(3)]
    heard = [user.communicate() for user in users]
    assert [(user.returncode, listed) for user, (listed, _) in zip(users, heard, strict=True)] == [(0, "")] * 3, heard
    engine = engines.connect()
    container = engine.container(NAME)
    assert container is not None

    hypervisor = embedded.start(settings)
    with ThreadPoolExecutor(4) as together:
        assert set(together.map(lambda _: pool.ensure_directory(hypervisor, settings), range(4))) == {
            settings.pool_path
        }

    container.run(["sh", "-c", "echo here > /var/lib/libvirt/witness"])
    docker = client()
    docker.pause(NAME)
    try:
        said = inv("list", status=2, INVOKE_VIRTROOT_EMBEDDED=NAME).stderr
        assert f"the embedded hypervisor {NAME} is paused" in said
        assert engine.container_state(NAME) == "paused"
    finally:
        docker.unpause(NAME)

    # Ended from outside, it comes back with what is in its volumes.
    container.stop(embedded.STOP_TIMEOUT)
    assert engine.container_state(NAME) == "exited"
    inv("list", INVOKE_VIRTROOT_EMBEDDED=NAME)
    again = engine.container(NAME)
    assert again is not None
    assert again.run(["cat", "/var/lib/libvirt/witness"]).text == "here"


def test_a_tree_comes_to_be_on_a_disk_for_comparison(settings: Settings) -> None:
    target = embedded.start(settings).target
    target.run(["mkdir", "-p", "/srv/root/etc"])
    caches.make_disk(target, "/srv/root", "/srv/images/disk")
    listed = target.run(["debugfs", "-R", "cat /etc/fstab", "/srv/images/disk"]).text
    assert listed.startswith("/dev/vda / ext4")


def test_looking_starts_nothing(inv: Virtroot, settings: Settings, trixie: Path) -> None:
    xml = inv("install", "web", "--artifact", str(trixie), "--print-xml", INVOKE_VIRTROOT_EMBEDDED=NAME).stdout
    assert "<name>web</name>" in xml
    inv("doctor", INVOKE_VIRTROOT_EMBEDDED=NAME)
    assert engines.connect().container_state(NAME) == ""


def client() -> APIClient:
    return APIClient()


def named(inv: Virtroot) -> Virtroot:
    return replace(inv, embedded=NAME)

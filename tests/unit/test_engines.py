"""Where container engines keep their data, by many configurations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pipelines.errors import VirtrootError
from pipelines.merge import collisions, decisions, engines
from pipelines.merge.baselines import Inventory, Unowned
from pipelines.merge.copy_plan import build_copy_plan
from tests.support.moves import moved
from tests.support.surveys import system, tree


def found(etc: Mapping[str, str], links: Mapping[str, str] | None = None) -> list[str]:
    unowned = {path: Unowned("link", 0, content=to) for path, to in (links or {}).items()}
    base = Inventory((), {}, {})
    return [*engines.list_system_trees(base, replace(base, contents=_bytes(etc), unowned=unowned))]


def _bytes(etc: Mapping[str, str]) -> dict[str, bytes]:
    return {path: text.encode(errors="surrogateescape") for path, text in etc.items()}


@pytest.mark.parametrize(
    ("path", "text", "trees"),
    [
        ("docker/daemon.json", '{"data-root": "/srv/docker", "debug": true}', ["srv/docker"]),
        ("docker/daemon.json", r'{"data-root": "\/srv\/docker\/"}', ["srv/docker"]),
        ("docker/daemon.json", '{"graph": "/srv/old"}', ["srv/old"]),
        ("docker/daemon.json", '{"data-root": "/srv/docker", # no JSON', ["srv/docker"]),
        ("docker/daemon.json", '{"data-root": 7}', []),
        ("docker/daemon.json", '["data-root", "/srv"]', []),
        ("docker/daemon.json", "[" * 100_000, []),
        ("docker/daemon.json", '{"data-root": "../../srv/x"}', []),
        ("docker/daemon.json", '{"data-root": "/srv/a/../../../data/\udcff"}', ["data/\udcff"]),
        ("docker/daemon.json", '{"data-root": "/"}', []),
        ("docker/daemon.json", '{"data-root": "/home"}', []),
        ("docker/daemon.json", '{"data-root": "/var/lib"}', []),
        ("docker/daemon.json", '{"data-root": "/var/lib/docker"}', []),
        ("docker/daemon.json", '{"data-root": "/run/x"}', []),
        ("default/docker", 'DOCKER_OPTS="--data-root=/srv/docker -H x"', ["srv/docker"]),
        ("default/docker", "DOCKER_OPTS='-g /srv/docker'", ["srv/docker"]),
        (
            "systemd/system/docker.service.d/override.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// \\\n  --data-root /srv/docker\n",
            ["srv/docker"],
        ),
        ("systemd/system/docker.service", 'ExecStart=-/usr/bin/dockerd "--data-root=/srv/docker"', ["srv/docker"]),
        ("systemd/system/other.service", "ExecStart=/usr/bin/other --data-root /srv/other", []),
        ("systemd/system/containerd.service.d/a.conf", "ExecStart=/usr/bin/containerd --root /srv/c", ["srv/c"]),
        ("containerd/config.toml", "version = 2\nroot = '/srv/c'\nstate = '/run/c'\n", ["srv/c"]),
        ("containerd/config.toml", '[plugins."x.zfs"]\n  root_path = "/data/z"\n', ["data/z"]),
        ("containers/storage.conf", '[storage]\ngraphroot = "/srv/pod" # mine\nrunroot = "/run/x"\n', ["srv/pod"]),
        (
            "containers/storage.conf",
            '[storage.options]\nadditionalimagestores = [\n  "/srv/one",\n  "/srv/two",\n]\n',
            ["srv/one", "srv/two"],
        ),
        ("containers/storage.conf", '#graphroot = "/srv/pod"\n', []),
        ("containers/storage.conf", 'rootless_storage_path = "$HOME/pod"\n', []),
        ("containers/containers.conf.d/a.conf", '[engine]\nvolume_path = "/srv/vol"\n', ["srv/vol"]),
        ("crio/crio.conf.d/a.conf", '[crio]\nroot = "/srv/crio"\n', ["srv/crio"]),
        ("lxc/lxc.conf", "lxc.lxcpath = /srv/lxc\n", ["srv/lxc"]),
        ("lxc/one/config", "lxc.rootfs.path = dir:/srv/rootfs\n", []),
        ("lxc/one.conf", "lxc.rootfs.path = dir:/srv/rootfs\n", ["srv/rootfs"]),
        ("systemd/system/incus.service.d/a.conf", 'Environment="INCUS_DIR=/srv/incus"', ["srv/incus"]),
        ("schroot/chroot.d/sid", "[sid]\ntype=directory\ndirectory=/srv/chroot/sid\n", ["srv/chroot/sid"]),
        ("systemd/system/nspawn.service", "ExecStart=systemd-nspawn -b -D /srv/machines/%i", ["srv/machines"]),
        ("rancher/k3s/config.yaml", 'data-dir: "/srv/k3s"\n', ["srv/k3s"]),
        ("fstab", "/srv/a\\040b /var/lib/docker none defaults,bind 0 0\n", ["srv/a b"]),
        ("fstab", "/data/lib /var/lib none rbind 0 0\n", [
            f"data/lib/{path.removeprefix('var/lib/')}" for path in sorted(collisions.OTHER_SYSTEMS)]),
        ("fstab", "/srv/volumes /var/lib/docker/volumes none bind\n", ["srv/volumes"]),
        ("fstab", "/dev/sda /var/lib/docker ext4 defaults 0 0\n", []),
        ("fstab", "/srv/volumes /var/lib/docker/volumes none bind 0 0\n#/x /var/lib/lxc none bind\n", ["srv/volumes"]),
        ("systemd/system/var-lib-docker.mount", "[Mount]\nWhat=/srv/d\nWhere=/var/lib/docker\nOptions=bind\n", [
            "srv/d"]),
    ],
)  # fmt: skip
def test_each_engines_own_words(path: str, text: str, trees: list[str]) -> None:
    assert found({f"etc/{path}": text}) == trees


def test_links_are_gone_after_as_far_as_they_are_known() -> None:
    assert found({}, {"var/lib/docker": "/srv/docker"}) == ["srv/docker"]
    assert found({}, {"var/lib/docker": "../../data/docker"}) == ["data/docker"]
    linked = {"srv": "/data", "data/docker": "real"}
    assert found({"etc/docker/daemon.json": '{"data-root": "/srv/docker"}'}, linked) == ["data/real"]
    assert found({}, {"var/lib/docker": "/var/lib/lxc/x", "var/lib/lxc": "/var/lib/docker"}) == []
    then = Inventory((), {}, {"var/lib/docker": Unowned("link", 0, content="/srv/docker")})
    assert [*engines.list_system_trees(then, Inventory((), {}, {"var/lib/docker": Unowned("link", 0)}))] == [
        "srv/docker"
    ]


def test_what_an_engine_keeps_below_srv_keeps_its_numbers_and_is_not_merged() -> None:
    root = system({"etc/docker/daemon.json": '{"data-root": "/srv/docker"}'})
    ours = replace(root, unowned={"srv/docker": tree(), "srv/site": tree()})
    theirs = replace(system(), unowned={"srv/docker": Unowned("directory", 0), "srv/docker/new": Unowned("file", 0, 5)})
    move = moved(system(), ours, theirs)
    assert move.systems == {"srv/docker": "Docker, by /etc/docker/daemon.json"}
    plan = build_copy_plan(move, system(), ours, theirs)
    assert (plan["foreign"], plan["whole"]) == (["srv/docker"], [])
    assert "srv" in plan["trees"]
    assert move.replaced == ("srv/docker/new",)
    assert moved(system(), replace(root, unowned={}), theirs).systems == {}


@pytest.mark.parametrize(("path", "text"), [
    ("containerd/config.toml", "root=[\n" * 150_000),
    ("systemd/system/docker.service", "\n" * 1_000_000),
    ("systemd/system/docker.service", "ExecStart=" + "dockerd " * 100_000),
    ("systemd/system/docker.service", "--config-file=/etc/docker/daemon.json " * 25_000),
    ("systemd/system/a.mount", f"What={' ' * 1_000_000}x\nOptions={' ' * 1_000_000}x"),
    ("rancher/k3s/config.yaml", "\n" * 1_000_000),
    ("default/docker", "-g" + " " * 1_000_000),
    ("default/docker", "-g " * 300_000),
    ("pacman.conf", "\n" * 1_000_000),
])  # fmt: skip
def test_no_configuration_takes_long(path: str, text: str) -> None:
    begun = time.process_time()
    etc = {f"etc/{path}": text, "etc/docker/daemon.json": "[" * 900}
    assert found(etc) == []
    assert decisions.describe_holds(Inventory((), {}, {}, contents=_bytes(etc)), Inventory((), {}, {})) == []
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(("path", "line"), [
    ("fstab", "/srv/{} /mnt/{} none bind 0 0\n"), ("default/docker", "-g /srv/{}\n")])  # fmt: skip
def test_more_than_anybody_has_is_refused(path: str, line: str) -> None:
    with pytest.raises(VirtrootError, match="names more than"):
        found({f"etc/{path}": "".join(line.format(number, number) for number in range(2000))})

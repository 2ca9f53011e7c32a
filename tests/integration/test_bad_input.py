"""What users get wrong: one line what, one line what to try, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Virtroot, named
from tests.support.refusals import refused


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write


def test_unknown_recipe(inv: Virtroot) -> None:
    assert "no recipe slackware" in refused(inv, "build", "--distro", "slackware")


def test_a_reader_that_goes_away_is_no_error(inv: Virtroot) -> None:
    task = inv.start("plan", "--distro", "debian")
    assert task.stdout is not None
    task.stdout.close()
    assert task.stderr is not None
    assert task.stderr.read() == ""
    task.stderr.close()
    assert task.wait() == 0


def test_missing_recipe_file(inv: Virtroot) -> None:
    assert "no recipe /nowhere/x.yaml" in refused(inv, "build", "--recipe", "/nowhere/x.yaml")


def test_no_recipe_named(inv: Virtroot) -> None:
    assert "no recipe given" in refused(inv, "build")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("upgrade", "no guest is named"),
        ("upgrade --all --to latest", "--all without --to"),
        ("upgrade --all --keep /srv/x", "--all without --to"),
        ("upgrade --all --json", "requires --preview"),
        ("upgrade web --all", "--all excludes the name web"),
        ("rollback web --all", "--all needs --preview"),
        ("rollback web --all --carry", "--all needs --preview"),
        ("rollback web --keep /srv/x", "--discard need --carry"),
        ("rollback web --json", "--json needs --preview"),
    ],
)
def test_options_that_would_do_nothing(inv: Virtroot, words: str, why: str) -> None:
    assert why in refused(inv, *words.split())


def test_bad_yaml(inv: Virtroot, written: Callable[[str], str]) -> None:
    assert "mine.yaml:3: invalid YAML" in refused(inv, "build", "--recipe", written("distro: debian\npackages: [a\nx"))


def test_recipe_that_is_no_text(inv: Virtroot, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot read the recipe" in refused(inv, "plan", "--recipe", str(tmp_path / "binary.yaml"))


def test_unknown_key_and_wrong_type_are_reported_together(inv: Virtroot, written: Callable[[str], str]) -> None:
    answer = refused(inv, "build", "--recipe", written("distro: debian\ncolour: red\nguest: {vcpus: many}\n"))
    assert "mine.yaml:2: colour: unknown key" in answer
    assert "mine.yaml:3: guest.vcpus: " in answer


def test_generator_without_a_package(inv: Virtroot) -> None:
    answer = refused(inv, "build", "--distro", "debian", "--generator", "booster")
    assert "no package in debian, and usr/bin/booster is missing in the overlay" in answer


def test_unknown_generator(inv: Virtroot) -> None:
    answer = refused(inv, "build", "--distro", "debian", "--generator", "dracula")
    assert "--generator: unknown for debian: 'dracula'; use initramfs-tools or dracut or booster or none" in answer


def test_missing_overlay(inv: Virtroot, written: Callable[[str], str]) -> None:
    assert "overlay: not a directory" in refused(inv, "build", "--recipe", written("distro: debian\noverlay: gone"))


def test_wrong_setting(inv: Virtroot) -> None:
    assert "virtroot.base" in refused(inv, "build", "--distro", "debian", INVOKE_VIRTROOT_BASE="floppy")


def test_engine_not_running(inv: Virtroot) -> None:
    answer = refused(inv, "build", "--distro", "debian", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert "no Docker engine answers (unix:///nowhere/docker.sock, from DOCKER_HOST)" in answer


def test_mirror_that_does_not_answer(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    path = recipe(named("broken"), "mirror: http://127.0.0.1:9/debian")
    assert "the package mirror for debian trixie does not answer" in refused(inv, "build", "--recipe", str(path))


def test_full_disk(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    path = recipe(named("broken"), bootstrap="mmdebstrap")
    answer = refused(inv, "build", "--recipe", str(path), INVOKE_VIRTROOT_WORKSPACE="tmpfs:48m")
    assert "No space left on device" in answer
    assert "the workspace is full" in answer
    assert not (inv.output / named("broken") / "latest").exists()


@pytest.mark.usefixtures("trixie")
def test_package_that_does_not_exist(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    """What comes before the kernel is that of trixie, and kept."""
    path = recipe(named("broken"), "kernel: linux-image-of-dreams", bootstrap="mmdebstrap")
    answer = refused(inv, "build", "--recipe", str(path))
    assert "stage kernel: apt-get exited with 100" in answer
    assert "Unable to locate package linux-image-of-dreams" in answer
    assert not (inv.output / named("broken") / "latest").exists()
    assert (inv.output / named("broken") / "failed" / "build.log").exists()


def test_nothing_built_yet(inv: Virtroot, written: Callable[[str], str]) -> None:
    assert "no build of mine" in refused(inv, "install", "--name", "web", "--recipe", written("distro: debian"))


def test_name_that_fits_no_recipe(inv: Virtroot) -> None:
    assert "no recipe matches the name 'web'" in refused(inv, "install", "--name", "web")


def test_bad_name(inv: Virtroot, trixie: Path) -> None:
    assert "invalid guest name" in refused(inv, "install", "--name", "a/b", "--artifact", str(trixie))


def test_bad_hostname(inv: Virtroot, trixie: Path) -> None:
    answer = refused(inv, "install", "--name", "web", "--artifact", str(trixie), "--hostname", "-x-")
    assert "invalid host name '-x-'" in answer


def test_missing_ssh_key_file(inv: Virtroot, trixie: Path) -> None:
    answer = refused(inv, "install", "--name", "web", "--artifact", str(trixie), "--ssh-key", "/nowhere/key.pub")
    assert "cannot read the ssh key /nowhere/key.pub" in answer


def test_bad_memory(inv: Virtroot, trixie: Path) -> None:
    answer = refused(inv, "install", "--name", "web", "--artifact", str(trixie), "--memory", "plenty")
    assert "--memory: invalid size 'plenty'" in answer


def test_connection_to_another_machine(inv: Virtroot, trixie: Path) -> None:
    answer = refused(inv, "install", "--name", "web", "--artifact", str(trixie), "--connect", "qemu+ssh://far/system")
    assert "have to be on this machine" in answer


def test_directory_that_is_no_artifact(inv: Virtroot, tmp_path: Path) -> None:
    assert "cannot read " in refused(inv, "install", "--name", "web", "--artifact", str(tmp_path))


@pytest.mark.parametrize("which", ["kernel", "initrd"])
def test_manifest_that_names_a_boot_file_outside_the_root(
    inv: Virtroot, trixie: Path, tmp_path: Path, which: str
) -> None:
    manifest = json.loads((trixie / "manifest.json").read_text())
    manifest["boot"][which] = "../../etc/victim"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    answer = refused(inv, "install", "--name", "web", "--artifact", str(tmp_path))
    assert f"boot.{which}" in answer
    assert "not a path inside the root" in answer


def test_a_night_over_a_recipe_that_is_not_there_begins_nothing(inv: Virtroot) -> None:
    assert "no recipe nowhere" in refused(inv, "nightly", "--recipe", "debian", "--recipe", "nowhere")
    assert not (inv.output / "nowhere").exists()


def test_artifact_with_a_wrong_checksum(inv: Virtroot, trixie: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trixie, copy)
    with (copy / "rootfs.tar.zst").open("r+b") as tarball:
        tarball.seek(1_000_000)
        tarball.write(b"tampered")
    answer = refused(inv, "install", "--name", "web", "--artifact", str(copy))
    assert ": sha256 is " in answer
    assert inv("list", "--json").stdout.strip() == "[]"


def test_unknown_network(inv: Virtroot, trixie: Path, tmp_path: Path) -> None:
    manifest = json.loads((trixie / "manifest.json").read_text())
    manifest["recipe"]["guest"]["network"] = "dmz"
    shutil.copytree(trixie, tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").write_text(json.dumps(manifest))
    answer = refused(inv, "install", "--name", "web", "--artifact", str(tmp_path / "copy"))
    assert "no active network dmz" in answer


@pytest.mark.parametrize("task", ["start", "stop", "remove", "verify", "console", "exec"])
def test_unknown_guest(inv: Virtroot, task: str) -> None:
    extra = ("--", "true") if task == "exec" else ("--yes",) if task == "remove" else ()
    assert "no guest nobody" in refused(inv, task, "--name", "nobody", *extra)

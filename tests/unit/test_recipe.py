from __future__ import annotations

import json

import pytest

from pipelines.builder import inputs
from pipelines.errors import VirtrootError
from pipelines.recipe.parse import parse
from pipelines.recipe.recipe import Recipe
from pipelines.settings import CHECKOUT


def mistakes(text: str, **overrides: str) -> str:
    with pytest.raises(VirtrootError) as caught:
        parse(text, "r.yaml", overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_come_from_the_distribution() -> None:
    recipe = parse("distro: debian", "r.yaml")
    assert (recipe.release, recipe.bootstrap, recipe.generator) == ("trixie", "debootstrap", "initramfs-tools")
    assert recipe.kernel == "linux-image-cloud-amd64"


def test_memory_is_in_bytes_and_prints_as_written() -> None:
    recipe = parse("distro: debian\nguest: {memory: 1536MiB}", "r.yaml")
    assert recipe.guest.memory == 1536 * 1024 * 1024
    assert json.loads(recipe.model_dump_json())["guest"]["memory"] == "1536MiB"


def test_all_mistakes_are_reported_at_once_with_their_lines() -> None:
    report = mistakes(
        "distro: debian\ncolour: red\nguest:\n  memory: lots\n  vcpus: 0\npackages:\n  - dbus\n  - 'no good'\n"
    )
    assert "r.yaml:2: colour: unknown key" in report
    assert "r.yaml:4: guest.memory: invalid size 'lots'" in report
    assert "r.yaml:5: guest.vcpus: " in report
    assert "r.yaml:8: packages.1: invalid package name 'no good'" in report
    assert "4 mistakes in r.yaml" in report


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("distro: debian\ndistro: debian", "r.yaml:2: distro: duplicate key"),
        ("distro: [", "r.yaml:1: invalid YAML"),
        ("distro: debian\n\tx: 1", "r.yaml:2: invalid YAML"),
        ("- debian", "r.yaml: not a mapping"),
        ("", "r.yaml: not a mapping"),
        ("release: trixie", "distro: required key is missing"),
        ("distro: hannah-montana", "r.yaml:1: distro: "),
        (
            "distro: debian\nrelease: potato",
            "r.yaml:2: release: unknown for debian: 'potato'; use trixie or bookworm",
        ),
        (
            "distro: debian\ngenerator: dracula",
            "generator: unknown for debian: 'dracula'; use initramfs-tools or dracut or booster or none",
        ),
        ("distro: debian\npackages: [grub-pc]", "no boot loader"),
        ("distro: debian\nmirror: here", "invalid mirror 'here'"),
        (
            "distro: debian\nmirror: https://me:s3cret@a/debian",
            "mirror.0.url: a mirror's address must not contain a user",
        ),
        (
            "distro: debian\nsecurity_mirror: https://token@a/debian",
            "security_mirror: a mirror's address must not contain a user",
        ),
        ("distro: debian\nmirror: [http://a/b, http://c/d]", "debian has one mirror"),
        ("distro: debian\nsiglevel: never", "siglevel: for arch only"),
        (
            "distro: arch\ngenerator: initramfs-tools",
            "unknown for arch: 'initramfs-tools'; use mkinitcpio or booster or dracut or none",
        ),
        ("distro: arch\nrelease: trixie", "unknown for arch: 'trixie'; use rolling"),
        ("distro: arch\nsiglevel: sometimes", "siglevel: "),
        ("distro: arch\nsecurity_mirror: http://a/b", "security_mirror: for debian only"),
        ("distro: arch\nsiglevel: never\nmirror: {url: http://a/b, keyring: k}", "a keyring has no effect"),
        ("distro: arch\nmirror: [{address: http://a/b}]", "mirror.0.address: unknown key"),
        ("distro: debian\nguest: {memory: 64MiB}", "too little"),
        ("distro: debian\nguest: {network: 'a b'}", "invalid network name"),
        ("distro: debian\nrun: reboot", "run: "),
        ("distro: debian\npackages: {a: b}", "packages: "),
    ],
)
def test_mistake(text: str, says: str) -> None:
    assert says in mistakes(text)


def test_an_option_wins_over_the_recipe_and_is_named_when_wrong() -> None:
    assert parse("distro: debian\nrelease: trixie", "r.yaml", {"release": "bookworm"}).release == "bookworm"
    assert "--release: unknown for debian: 'potato'" in mistakes("distro: debian", release="potato")


def test_json_round_trip_keeps_the_recipe() -> None:
    recipe = parse((CHECKOUT / "recipes" / "debian.yaml").read_text(), "debian.yaml")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_schema_file_is_current() -> None:
    assert json.loads((CHECKOUT / "recipes" / "schema.json").read_text()) == inputs.make_schema()

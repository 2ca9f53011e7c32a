"""What a recipe may name, and which recipe a guest's name means."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tracemalloc
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from pipelines.builder import container, inputs
from pipelines.errors import VirtrootError
from pipelines.host import trees
from pipelines.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory for recipes, beside one with secrets."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "shadow").write_text("secret")
    home = tmp_path / "recipes"
    (home / "tree" / "etc").mkdir(parents=True)
    (home / "tree" / "etc" / "motd").write_text("hello")
    (home / "key.asc").write_text("key")
    (home / "out").symlink_to(tmp_path / "secrets")
    return home


def written(home: Path, *lines: str, name: str = "web.yaml") -> str:
    (home / name).write_text("\n".join(lines))
    return str(home / name)


def test_a_tree_and_a_key_beside_the_recipe_are_packed(home: Path) -> None:
    found = inputs.find(recipe=written(home, "distro: debian", "overlay: tree"))
    packed = next(packed for tree, packed in found.trees.items() if tree.kind == "overlay")
    assert b"hello" in packed.open().read()
    mirror = "mirror: {url: http://a.example, keyring: key.asc}"
    found = inputs.find(recipe=written(home, "distro: arch", mirror))
    assert [tree.name for tree in found.trees if tree.kind == "keyring"] == ["key.asc"]


@pytest.mark.parametrize("name", ["/etc", "../secrets", "out", "tree/../../secrets", "."])
def test_an_overlay_from_elsewhere_is_refused(home: Path, name: str) -> None:
    with pytest.raises(VirtrootError, match=f"overlay: {name} is outside"):
        inputs.find(recipe=written(home, "distro: debian", f"overlay: {name}"))


@pytest.mark.parametrize("name", ["/etc/shadow", "../secrets/shadow", "out/shadow"])
def test_a_key_from_elsewhere_is_refused(home: Path, name: str) -> None:
    mirror = f"mirror: {{url: http://a.example, keyring: {name}}}"
    with pytest.raises(VirtrootError, match=f"keyring: {name} is outside"):
        inputs.find(recipe=written(home, "distro: arch", mirror))


@pytest.mark.parametrize("name", ["my recipe.yaml", "-x.yaml", ".yaml", "a..b.yaml"])
def test_a_recipes_name_is_good_for_a_container(home: Path, name: str) -> None:
    with pytest.raises(VirtrootError, match="invalid recipe file name"):
        inputs.find(recipe=written(home, "distro: debian", name=name))


def test_options_that_replace_fields_are_known(home: Path) -> None:
    recipe = written(home, "distro: debian")
    assert not inputs.find(recipe=recipe).overridden
    assert not inputs.find(recipe=recipe, overrides={"release": ""}).overridden
    assert inputs.find(recipe=recipe, overrides={"release": "bookworm"}).overridden


@pytest.mark.parametrize(
    ("guest", "recipe", "fitting"),
    [
        ("arch", "arch", True),
        ("archlinux", "arch", True),
        ("archlinux-3", "arch", True),
        ("arch2", "arch", True),
        ("arch-web", "arch", True),
        ("archive", "arch", False),
        ("archlinuxen", "arch", False),
        ("debian12", "debian", True),
        ("web", "arch", False),
        ("my-arch", "arch", False),
    ],
)
def test_the_recipe_that_a_guests_name_begins_with(guest: str, recipe: str, fitting: bool) -> None:
    assert inputs.is_named_after(guest, recipe) == fitting


def test_what_was_not_checked_shares_no_cache_with_what_was(home: Path) -> None:
    (home / "other.asc").write_text("another key")
    recipes = (
        ("distro: arch",),
        ("distro: arch", "siglevel: never"),
        ("distro: arch", "mirror: {url: http://a.example, keyring: key.asc}"),
        ("distro: arch", "mirror: {url: http://a.example, keyring: other.asc}"),
    )
    volumes = {container.get_cache_volume(inputs.find(recipe=written(home, *lines)), Settings()) for lines in recipes}
    assert len(volumes) == len(recipes)
    assert all(volume.startswith("virtroot-cache-web") for volume in volumes)


def test_two_output_directories_share_nothing_on_an_engine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, found = MagicMock(), inputs.find(recipe=written(home, "distro: arch"))
    outputs = [Settings(output=str(home / name), workspace="disk") for name in ("one", "two")]
    for settings in outputs:
        with container.run_builder(engine, "image", "web", settings, "import", shared=True):
            pass
    names, labels, volumes = ([call.kwargs[key] for call in engine.start.call_args_list] for key in KEYS)
    assert names[0] != names[1]
    assert {*volumes[0]} & {*volumes[1]} == set()
    removed = [call.args[0] for call in engine.remove_containers.call_args_list]
    assert removed[0]["virtroot.key"] == labels[0]["virtroot.key"] != labels[1]["virtroot.key"]
    assert len({container.get_cache_volume(found, settings) for settings in outputs}) == 2
    here = outputs[0].key
    monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
    assert outputs[0].key != here


KEYS = ("name", "labels", "volumes")


def test_trees_of_the_checkout_have_modes_of_their_own(home: Path) -> None:
    (home / "tree" / "etc").chmod(0o700)
    (home / "tree" / "etc" / "motd").chmod(0o600)
    before = trees.pack(home / "tree", ours=True).digest
    (home / "tree" / "etc").chmod(0o775)
    (home / "tree" / "etc" / "motd").chmod(0o664)
    assert trees.pack(home / "tree", ours=True).digest == before


def test_a_large_tree_is_no_matter_of_memory(home: Path) -> None:
    with (home / "tree" / "large").open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    packed = trees.pack(home / "tree")
    read = hashlib.sha256()
    content = packed.open()
    while chunk := content.read(1 << 20):
        read.update(chunk)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert read.hexdigest() == packed.digest
    # Read as often as it is copied.
    with tarfile.open(fileobj=packed.open()) as tar:
        assert tar.getnames() == ["etc", "etc/motd", "large"]


@pytest.mark.parametrize("swapped", ["tree", "tree/etc", "tree/etc/file"])
def test_a_tree_that_is_changed_into_links_gives_no_file_of_the_hosts(
    home: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """Somebody who may write to a recipe's directory changes it between the look and the reading."""
    shutil.rmtree(home / "tree", ignore_errors=True)
    for name in ("tree", "secret/etc"):
        (home / name).mkdir(parents=True)
    for name, text in {"tree/etc/file": "public", "secret/etc/file": "secret", "secret/file": "secret"}.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    victim = home / "secret" / {"tree": "", "tree/etc": "etc", "tree/etc/file": "file"}[swapped]
    look = tarfile.TarFile.gettarinfo

    def swap(tar: tarfile.TarFile, path: Path, name: str) -> tarfile.TarInfo:
        entry = look(tar, path, name)
        if entry.isreg():
            (home / swapped).rename(home / "aside")
            (home / swapped).symlink_to(victim)
        return entry

    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", swap)
    if swapped == "tree":
        packed = trees.pack(home / "tree").open().read()
        assert b"secret" not in packed
        assert b"public" in packed
        return
    with pytest.raises(VirtrootError, match="cannot read"):
        trees.pack(home / "tree")


def test_a_tree_or_a_key_behind_a_link_is_not_read(home: Path) -> None:
    (home / "real").mkdir()
    (home / "real/key").write_text("key")
    (home / "link").symlink_to("real")
    with pytest.raises(VirtrootError, match="cannot read"):
        trees.pack(home / "link")
    with pytest.raises(VirtrootError, match="cannot read"):
        trees.pack_file(home / "link" / "key")


def test_files_with_invalid_names_are_not_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fine", "zz$(id)", "zz;id", "-rf", "a b", "x\ny", "..", "index.html"):
        (tmp_path / f"{name}.yaml").write_text("distro: debian\n")
    settings = Settings(recipes=str(tmp_path))
    assert inputs.list_names(settings) == ["fine"]
    # A nightly run reports why it does not build the others.
    assert len(inputs.list_nightly(settings)) == 8

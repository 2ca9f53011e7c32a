"""Real roots, broken one rule at a time in a builder: the inspection that guards publication refuses each by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import load
from pipelines.builder import container, inputs, inspection, private_keys
from pipelines.builder.container import Builder, run_builder
from pipelines.engine import engine as engines
from pipelines.recipe.generators import GENERATORS
from pipelines.recipe.stage import ROOT
from tests.conftest import Virtroot, named


@pytest.fixture(scope="module")
def worker(inv: Virtroot, bookworm: Path, recipe: Callable[..., Path]) -> Iterator[Builder]:
    """A builder with bookworm's root: a kernel that has both modules outside."""
    engine = engines.connect()
    planned = inputs.find(recipe=str(recipe(named("bookworm"), release="bookworm", cache="mixed")))
    image, _ = container.ensure_image(engine, planned.plan.distro, inv.settings)
    with run_builder(engine, image, planned.name, inv.settings, "broken-roots") as worker:
        with Artifact(bookworm).tarball.open("rb") as content:
            worker.run(archive.unpack_argv(ROOT), stdin=content)
        worker.run(["cp", "-a", ROOT, f"{ROOT}.good"])
        yield worker


@pytest.fixture
def inspect(worker: Builder, bookworm: Path) -> Iterator[Callable[..., list[str]]]:
    """Break the root with a shell script run inside it, and return what the inspection says."""
    packages = tuple(package.name for package in load(bookworm / "manifest.json").packages)

    def after(script: str, generator: str = "initramfs-tools") -> list[str]:
        worker.run(["chroot", ROOT, "sh", "-ec", script])
        facts = inspection.gather(worker.target, ROOT, GENERATORS["debian", generator], packages)
        return inspection.find_violations(facts)

    yield after
    worker.run(["sh", "-ec", 'rm -rf "$1" && cp -a "$1.good" "$1"', "restore", ROOT])


_REGENERATE = "update-initramfs -u -k all >/dev/null 2>&1"


def test_the_root_as_built_is_good(inspect: Callable[[str], list[str]]) -> None:
    assert inspect("true") == []


def test_initramfs_without_virtiofs(inspect: Callable[[str], list[str]]) -> None:
    broken = inspect(f"rm /usr/share/initramfs-tools/modules.d/virtroot.conf; {_REGENERATE}")
    assert [each.partition(":")[0] for each in broken] == ["virtiofs-modules"]
    assert "virtiofs" in broken[0]


def test_no_initramfs_for_a_kernel_that_has_virtiofs_as_a_module(inspect: Callable[..., list[str]]) -> None:
    # bookworm's image is there and good, but the guest would start without it.
    (broken,) = inspect("true", generator="none")
    assert broken.startswith("virtiofs-modules: without an initramfs, virtiofs and virtio_pci ")
    assert "must be built into kernel 6.1." in broken


def test_fstype_is_left_alone(worker: Builder) -> None:
    # It neither adds virtiofs nor is of use, and breaks the system once its root is another one.
    script = "cd etc/initramfs-tools && test -s initramfs.conf && cat initramfs.conf $(find conf.d -type f)"
    settings = worker.run(["sh", "-ec", f'cd "$1" && {script}', "settings", f"{ROOT}.good"]).text
    assert [line for line in settings.splitlines() if line.strip().startswith("FSTYPE")] in ([], ["FSTYPE=auto"])


def test_resume_device(inspect: Callable[[str], list[str]]) -> None:
    broken = inspect(f"echo RESUME=/dev/vda2 > /etc/initramfs-tools/conf.d/resume; {_REGENERATE}")
    assert [each.partition(":")[0] for each in broken] == ["no-resume"]
    assert "/dev/vda2" in broken[0]


def test_grub(inspect: Callable[[str], list[str]]) -> None:
    broken = inspect("mkdir /boot/grub")
    assert broken == ["no-grub: a virtiofs root must not have a boot loader, but has: boot/grub"]


def test_wrong_fstab(inspect: Callable[[str], list[str]]) -> None:
    broken = inspect("echo '/dev/vda1 / ext4 defaults 0 1' > /etc/fstab")
    assert [each.partition(":")[0] for each in broken] == ["fstab"]


def test_absolute_kernel_link(inspect: Callable[[str], list[str]]) -> None:
    broken = inspect("ln -sfn /$(readlink /vmlinuz) /vmlinuz")
    assert [each.partition(":")[0] for each in broken] == ["kernel-path"]
    assert "is absolute" in broken[0]


def test_initramfs_link_to_nowhere(inspect: Callable[[str], list[str]]) -> None:
    broken = inspect("ln -sfn boot/initrd.img-gone /initrd.img")
    assert "initramfs-path" in [each.partition(":")[0] for each in broken]


@pytest.mark.parametrize(
    "script",
    [
        "ln -sfn gone /usr/sbin/init",
        # A file of the builder's, which the guest will not find.
        f"ln -sfn {ROOT}.good/usr/lib/systemd/systemd /usr/sbin/init",
        "chmod a-x /usr/lib/systemd/systemd",
        "rm /usr/sbin/init",
        "ln -sfn init /usr/sbin/init",
    ],
)
def test_init_that_cannot_be_started(inspect: Callable[[str], list[str]], script: str) -> None:
    assert [each.partition(":")[0] for each in inspect(script)] == ["init"]


def test_a_private_key_is_found_in_a_root_that_has_none_as_built(
    worker: Builder, inspect: Callable[[str], list[str]]
) -> None:
    assert private_keys.find(worker.target, ROOT) == ()
    inspect("ssh-keygen -q -t ed25519 -N '' -f /var/lib/key; echo x > /etc/munge.key; ln -s /var/lib/key /etc/key")
    assert private_keys.find(worker.target, ROOT) == ("var/lib/key",)


def test_databases_that_maintainer_scripts_did_not_make_are_made_or_left_to_the_guest(
    worker: Builder, inspect: Callable[[str], list[str]]
) -> None:
    hwdb, catalog = f"{ROOT}/usr/lib/udev/hwdb.bin", f"{ROOT}/var/lib/systemd/catalog/database"
    worker.run(
        ["sh", "-ec", 'touch "$1/usr/lib/udev/hwdb.bin"; rm -f "$1/etc/udev/hwdb.bin" "$2"', "sh", ROOT, catalog]
    )
    gather = partial(inspection.gather, worker.target, ROOT, GENERATORS["debian", "initramfs-tools"], ())
    worker.run(["truncate", "--size=105", hwdb])
    assert gather().databases == ("usr/lib/udev/hwdb.bin", "var/lib/systemd/catalog/database")
    worker.run(["/usr/local/lib/virtroot/make-databases", ROOT])
    assert gather().databases == ()
    good = worker.run(["stat", "--format=%s", f"{ROOT}.good/var/lib/systemd/catalog/database"]).text
    assert worker.run(["stat", "--format=%s", catalog]).text == good
    # Programs that fail leave it to the guest, which looks whether anything is newer than these files.
    worker.run(["sh", "-ec", 'rm "$1" "$2"/usr/bin/journalctl; touch "$2/var/.updated"', "sh", catalog, ROOT])
    worker.run(["/usr/local/lib/virtroot/make-databases", ROOT])
    assert worker.run(["ls", f"{ROOT}/var/.updated"], check=False).returncode
    assert inspection.find_doubts(gather())


def test_a_build_that_breaks_a_rule_publishes_nothing(inv: Virtroot, recipe: Callable[..., Path]) -> None:
    path = recipe(named("broken"), "run: ['echo /dev/vda1 / ext4 defaults 0 1 > /etc/fstab']", bootstrap="mmdebstrap")
    done = inv("build", "--recipe", str(path), status=2)
    assert "error: the root breaks the rule fstab: etc/fstab must have the single line" in done.stderr
    published = [entry.name for entry in (inv.output / named("broken")).iterdir() if not entry.name.startswith(".")]
    assert published == ["failed"]

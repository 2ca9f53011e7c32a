"""Arch roots, made by the real pacstrap from the stand-in packages of tests/mirror."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.artifact import archive
from pipelines.artifact.artifact import Artifact
from pipelines.artifact.manifest import Manifest, load
from pipelines.engine import engine as engines
from pipelines.host.process import Completed
from pipelines.libvirt.connect import connect
from pipelines.pool.place import console_log
from pipelines.target.target import Local, Target
from tests import mirror
from tests.conftest import Virtroot, named
from tests.mirror import Repository
from tests.support import lean
from tests.support.comparison import made_elsewhere, same_bytes

REFUSED = {
    # name: repository, keyring, pacman's reason, what to try
    "tampered": ("tampered", "key.asc", "invalid or corrupted package (PGP signature)", "use another mirror"),
    "unsigned": (
        "unsigned",
        "key.asc",
        "failed retrieving file 'base-3-1-x86_64.pkg.tar.zst.sig'",
        "unsigned packages",
    ),
    "wrong-key": ("good", "rogue.asc", "required key missing from keyring", "mirror: keyring:"),
    "no-key": ("good", "", "required key missing from keyring", "mirror: keyring:"),
}
NAMES = (
    named("arch-booster"),
    named("arch-dracut"),
    named("arch-mkinitcpio"),
    named("arch-never"),
    named("arch-none"),
    named("arch-overlaid"),
    named("arch-renewed"),
    *(named(f"arch-{name}") for name in REFUSED),
)

#: The generators' hooks ask for what every running system has.
AS_IN_A_GUEST = """
root=$1; shift
mount -t proc proc "$root/proc"; mount -t sysfs sys "$root/sys"; mount --bind /dev "$root/dev"
exec chroot "$root" "$@"
"""

#: As Arch's own has it.
PACMAN_CONF = """\
[options]
Architecture = x86_64
CheckSpace
DownloadUser = alpm
SigLevel = Required DatabaseOptional

[core]
Include = /etc/pacman.d/mirrorlist
"""

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def repository(inv: Virtroot) -> Iterator[Repository]:
    with mirror.serve(inv.settings.base) as served:
        yield served
    engine = engines.connect()
    for name in NAMES:
        engine.remove_containers({"virtroot.recipe": name})
        engine.remove_volume(f"virtroot-cache-{name}-{inv.settings.key}")


@pytest.fixture(scope="module")
def arch(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write an Arch recipe for one of the repositories, trusting one of the keys, or none."""
    directory = tmp_path_factory.mktemp("arch")
    lean.write(directory / "lean")
    for key in ("key.asc", "rogue.asc"):
        (directory / key).write_bytes(repository.file(key))

    def write(name: str, generator: str = "dracut", kind: str = "good", key: str = "key.asc", **extra: str) -> Path:
        lines = ["distro: arch", f"generator: {generator}", "packages: [openssh, qemu-guest-agent, sudo]", "mirror:"]
        lines += [f"  - url: {repository.url(kind)}", *([f"    keyring: {key}"] if key else [])]
        lines += [
            "guest: {memory: 1GiB, vcpus: 1, cache: mixed}",
            *(f"{name}: {value}" for name, value in extra.items()),
        ]
        path = directory / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def boots(inv: Virtroot, recipe: Path, guest: str) -> Path:
    """Build, install, boot and verify; return the artifact."""
    artifact = Path(inv("build", "--recipe", str(recipe)).stdout.strip())
    inv("verify", "--recipe", str(recipe))
    inv("install", "--name", guest, "--artifact", str(artifact))
    inv("verify", "--name", guest)
    inv("verify", "--name", guest, "--boot")
    return artifact


def as_in_a_guest(target: Target, root: str, *argv: str) -> Completed:
    return target.run(["unshare", "--mount", "sh", "-ec", AS_IN_A_GUEST, "as-in-a-guest", root, *argv])


def checks_packages_with_a_keyring_of_its_own(target: Target, root: str, repository: Repository) -> None:
    """The first boot made the keyring; one that was interrupted is made anew, one without keys to take too."""
    keyring, public = f"{root}/etc/pacman.d/gnupg", f"{root}/usr/share/pacman/keyrings"
    secret = ["find", f"{keyring}/private-keys-v1.d", "-type", "f", "-printf", "%f"]
    for suffix in ("", ".sig"):
        content = repository.file(f"good/core/os/x86_64/sudo-1-1-x86_64.pkg.tar.zst{suffix}")
        target.run(["sh", "-ec", 'cat > "$1"', "put", f"{root}/root/sudo.pkg.tar.zst{suffix}"], stdin=content)

    def check() -> None:
        assert target.run(["stat", "--format=%a %U", keyring]).text == "755 root"
        assert b"Good signature" in as_in_a_guest(target, root, *verify).stderr

    verify = ["pacman-key", "--verify", "/root/sudo.pkg.tar.zst.sig"]
    check()
    first = target.run(secret).text
    target.run(["mv", keyring, f"{root}/etc/pacman.d/.virtroot-gnupg"])
    as_in_a_guest(target, root, "/usr/lib/virtroot/pacman-keyring")
    check()
    assert target.run(secret).text not in {first, ""}

    target.run(["rm", "-r", keyring])
    target.run(["mv", public, f"{public}.away"])
    as_in_a_guest(target, root, "/usr/lib/virtroot/pacman-keyring")
    assert target.run(secret).text not in {first, ""}
    target.run(["mv", f"{public}.away", public])


def follows_its_kernel(target: Target, root: str, manifest: Manifest, repository: Repository) -> None:
    """The guest reinstalls its kernel: pacman's hooks make the image anew, under the same name."""
    files = [f"{root}/{path}" for path in (manifest.boot.kernel, manifest.boot.initrd) if path]
    package = repository.file("good/core/os/x86_64/linux-6.12-1-x86_64.pkg.tar.zst")
    target.run(["sh", "-ec", 'cat > "$1"', "put", f"{root}/root/linux.pkg.tar.zst"], stdin=package)
    target.run(["rm", *files])
    # Outside a running guest there is no list of mounts to look for free space in.
    write = 'printf "[options]\\nArchitecture = x86_64\\n" > "$1"'
    target.run(["sh", "-ec", write, "configure", f"{root}/root/pacman.conf"])
    config = ["--config", "/root/pacman.conf", "--disable-sandbox"]
    as_in_a_guest(target, root, "pacman", "--upgrade", "--noconfirm", *config, "/root/linux.pkg.tar.zst")
    for file in files:
        target.run(["test", "-s", file])


@pytest.mark.long
def test_dracut_boots_and_follows_its_kernel(inv: Virtroot, arch: Write, repository: Repository) -> None:
    artifact = boots(inv, arch(named("arch-dracut")), "arch-dracut")
    manifest = load(artifact / "manifest.json")
    assert (manifest.boot.kernel, manifest.boot.initrd) == ("boot/vmlinuz-linux", "boot/initramfs-linux.img")
    assert {"base", "linux", "dracut", "sudo"} <= {package.name for package in manifest.packages}

    root = "/var/lib/libvirt/filesystems/root.arch-dracut"
    target = connect(inv.settings).target
    mirrorlist = target.run(["cat", f"{root}/etc/pacman.d/mirrorlist"]).text
    assert mirrorlist == f"Server = {repository.url('good')}"
    assert "virtroot" not in target.run(["cat", f"{root}/etc/pacman.conf"]).text

    checks_packages_with_a_keyring_of_its_own(target, root, repository)
    follows_its_kernel(target, root, manifest, repository)
    inv("remove", "--name", "arch-dracut", "--yes")


def upgrades_itself(inv: Virtroot, target: Target, guest: str) -> None:
    """The guest, whose /usr is a device of its own, gets its packages anew; base has the libc and systemd here."""
    root = f"/var/lib/libvirt/filesystems/root.{guest}"
    # The stand-in pacman's own configuration names no repository.
    write = ["sh", "-ec", 'cat > "$1"', "configure", f"{root}/etc/pacman.conf"]
    target.run(write, stdin=PACMAN_CONF.replace("DownloadUser = alpm\n", "").encode())
    target.run(["rm", "-r", f"{root}/etc/pacman.d/gnupg"])
    inv("start", guest)
    # The boot makes a keyring.
    inv("exec", guest, "--", "systemctl", "is-system-running", "--wait")
    sees_edits_below_usr_when_refreshed(inv, target, guest)
    upgrade = ["pacman", "--sync", "--refresh", "--noconfirm", "--disable-sandbox", "base", "linux"]
    inv("exec", guest, "--", *upgrade)
    inv("stop", guest)
    inv("verify", "--name", guest, "--boot")


def sees_edits_below_usr_when_refreshed(inv: Virtroot, target: Target, guest: str) -> None:
    edited = f"/var/lib/libvirt/filesystems/root.{guest}/usr/share/edited"

    def edit(text: str) -> None:
        target.run(["sh", "-ec", 'cat > "$1"', "edit", edited], stdin=text.encode())

    def seen() -> str:
        return inv("exec", guest, "--", "cat", "/usr/share/edited").stdout

    edit("first\n")
    assert seen() == "first\n"
    # After the first read the kernel asks for the attributes once more, and would notice an edit.
    assert seen() == "first\n"
    edit("other\n")
    assert seen() == "first\n"
    inv("refresh", guest)
    assert seen() == "other\n"
    target.run(["rm", edited])


@pytest.mark.parametrize("generator", ["dracut", "mkinitcpio"])
def test_an_arch_system_is_imported_and_boots(inv: Virtroot, arch: Write, tmp_path: Path, generator: str) -> None:
    _skip_without(generator)
    recipe = arch(named(f"arch-{generator}"), generator=generator)
    built = Artifact(Path(inv("build", "--recipe", str(recipe)).stdout.strip()))
    root = tmp_path / "system"
    root.mkdir()
    with built.tarball.open("rb") as content:
        Local().run(archive.unpack_argv(str(root)), stdin=content)
    as_in_a_guest(Local(), str(root), "/usr/lib/virtroot/pacman-keyring")
    as_in_a_guest(Local(), str(root), "pacman", "--remove", "--noconfirm", "qemu-guest-agent")
    # As its installer left it, on a disk: nothing of virtroot's, and what a disk needs.
    for path in (
        f"etc/{generator}.conf.d/virtroot.conf",
        "usr/share/libalpm/hooks/90-virtroot-dracut.hook",
        "usr/share/libalpm/scripts/virtroot-dracut",
    ):
        (root / path).unlink(missing_ok="dracut" in path and generator != "dracut")
    (root / "boot/initramfs-linux.img").write_bytes(b"of the disk")
    (root / "boot/grub").mkdir()
    (root / "etc/pacman.conf").write_text(PACMAN_CONF)
    (root / "etc/fstab").write_text("UUID=1 / btrfs subvol=@ 0 0\nUUID=2 none swap defaults 0 0\n")
    done = inv("import", "archbox", str(root))
    assert f"virtiofs and virtio_pci are in {generator}'s initramfs" in done.stderr
    assert "swap on UUID=2 is not used any more" in done.stderr
    manifest = Artifact(Path(done.stdout.strip())).manifest
    assert (manifest.recipe.distro, manifest.boot) == ("arch", built.manifest.boot)
    assert manifest.packages == built.manifest.packages
    inv("install", "archbox", "--cache", "mixed")
    inv("verify", "archbox", "--boot")
    inv("remove", "archbox", "--yes")


def test_an_overlay_that_changes_what_mkinitcpio_reads_has_its_image_made_anew(inv: Virtroot, arch: Write) -> None:
    _skip_without("mkinitcpio")
    recipe = arch(named("arch-overlaid"), generator="mkinitcpio", overlay="overlaid")
    added = recipe.parent / "overlaid/etc/mkinitcpio.conf.d/own.conf"
    added.parent.mkdir(parents=True)
    added.write_text('COMPRESSION="cat"\nFILES+=(/etc/hosts)\n')
    artifact = Artifact(Path(inv("build", "--recipe", str(recipe)).stdout.strip()))
    path = f"./{artifact.manifest.boot.initrd}"
    image = Local().run(["tar", "--extract", "--zstd", "--to-stdout", f"--file={artifact.tarball}", path]).stdout
    assert b"etc/hosts" in image


def _skip_without(generator: str) -> None:
    if generator == "mkinitcpio" and not os.environ.get(mirror.MKINITCPIO):
        pytest.skip(f"mkinitcpio is not among Debian's packages; {mirror.MKINITCPIO} names no package of it")


@pytest.mark.long
@pytest.mark.parametrize(
    ("generator", "image"), [("booster", "boot/booster-linux.img"), ("mkinitcpio", "boot/initramfs-linux.img")]
)
def test_a_generator_from_elsewhere_boots_and_follows_its_kernel(
    inv: Virtroot, arch: Write, repository: Repository, generator: str, image: str
) -> None:
    _skip_without(generator)
    guest = f"arch-{generator}"
    artifact = boots(inv, arch(named(f"arch-{generator}"), generator=generator), guest)
    manifest = load(artifact / "manifest.json")
    assert (manifest.generator, manifest.boot.initrd) == (generator, image)

    target = connect(inv.settings).target
    root = f"/var/lib/libvirt/filesystems/root.{guest}"
    assert target.run(["find", f"{root}/etc", "-name", "*.pacnew"]).text == ""
    follows_its_kernel(target, root, manifest, repository)
    if generator == "booster":
        # Under emulation it makes an image in seconds.
        upgrades_itself(inv, target, guest)
    inv("remove", "--name", guest, "--yes")


def test_without_an_initramfs_the_kernel_mounts_the_root_and_its_upgrades_arrive(
    inv: Virtroot, arch: Write, repository: Repository
) -> None:
    guest, root = "arch-none", "/var/lib/libvirt/filesystems/root.arch-none"
    recipe = arch(named("arch-none"), generator="none", overlay="lean")
    artifact = Path(inv("build", "--recipe", str(recipe)).stdout.strip())
    inv("verify", "--recipe", str(recipe))
    inv("install", guest, "--artifact", str(artifact))
    manifest = load(artifact / "manifest.json")
    packages = {package.name for package in manifest.packages}
    assert {"linux", "virtroot-no-initramfs"} <= packages
    assert not {"mkinitcpio", "booster", "dracut"} & packages
    assert manifest.boot.model_dump(include={"kernel", "initrd"}) == {"kernel": "boot/vmlinuz-linux", "initrd": ""}

    target = connect(inv.settings).target
    more = {"overlay": "lean", "run": "['echo new > /etc/new.conf']"}
    newer = inv("build", "--recipe", str(arch(named("arch-newer"), generator="none", **more)))
    own = 'cd "$1"; echo mine > etc/mine.conf; echo "ann:x:1500:1500::/home/ann:/bin/sh" >> etc/passwd; mkdir home/ann'
    target.run(["sh", "-ec", f"{own}; chown 1500 home/ann; touch srv/mine", "own", root])
    inv("upgrade", guest, "--to", newer.stdout.strip())
    there = target.run(
        ["sh", "-ec", 'cd "$1"; cat etc/mine.conf etc/new.conf; ls srv; stat -c %u home/ann', "see", root]
    )
    assert there.text.split() == ["mine", "new", "mine", "1500"]
    inv("verify", guest, "--boot")
    assert "VFS: Mounted root (virtiofs filesystem)" in target.run(["cat", console_log(guest)]).text

    follows_its_kernel(target, root, manifest, repository)
    assert target.run(["ls", "-A", f"{root}/boot"]).text == "vmlinuz-linux"
    inv("remove", "--name", guest, "--yes")


def built(inv: Virtroot, recipe: Path) -> Artifact:
    """Return what a test above booted, or, where one runs alone, a new build."""
    latest = inv.output / recipe.stem / "latest"
    if not latest.exists():
        inv("build", "--recipe", str(recipe))
    return Artifact(latest.resolve())


def test_two_builds_of_one_plan_give_the_same_bytes(inv: Virtroot, arch: Write, tmp_path: Path) -> None:
    recipe = arch(named("arch-booster"), generator="booster")
    first, second = built(inv, recipe), made_elsewhere(inv, recipe, tmp_path)
    assert first.manifest.plan == second.manifest.plan
    same_bytes(inv, first, second)


def test_the_dated_archive_gives_a_root_again_that_the_mirror_has_no_packages_of(
    inv: Virtroot, arch: Write, repository: Repository, tmp_path: Path
) -> None:
    recipe = arch(named("arch-dracut"))
    first = built(inv, recipe)
    address = repository.url("archive/{year}/{month}/{day}")
    with repository.without("good"):
        inv("build", "--recipe", str(recipe), "--no-cache", status=2)
        dated = ("--snapshot", "20260102T030405Z")
        again = made_elsewhere(inv, recipe, tmp_path, *dated, INVOKE_VIRTROOT_ARCH_SNAPSHOTS=address)
    same_bytes(inv, first, again)
    kept = again.manifest.recipe.model_dump()["snapshot"]
    assert (kept["time"], kept["mirror"]) == (dated[1], repository.url("archive/2026/01/02"))
    assert not (tmp_path / named("arch-dracut") / "latest").exists()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_signed_by_a_trusted_key_is_refused(inv: Virtroot, arch: Write, name: str) -> None:
    kind, key, reason, hint = REFUSED[name]
    said = inv("build", "--recipe", str(arch(named(f"arch-{name}"), kind=kind, key=key)), status=2).stderr
    assert reason in said
    assert hint in said.splitlines()[-1]
    assert not (inv.output / named(f"arch-{name}") / "latest").exists()


def test_a_packager_is_trusted_who_joined_after_the_builder_was_made(inv: Virtroot, arch: Write) -> None:
    artifact = Path(inv("build", "--recipe", str(arch(named("arch-renewed"), kind="renewed"))).stdout.strip())
    assert "sudo" in {package.name for package in load(artifact / "manifest.json").packages}


def test_never_checking_signatures_is_warned_of_and_in_the_manifest(inv: Virtroot, arch: Write) -> None:
    recipe = arch(named("arch-never"), kind="unsigned", key="", siglevel="never")
    done = inv("build", "--recipe", str(recipe))
    assert "warning: siglevel: never" in done.stderr
    assert load(Path(done.stdout.strip()) / "manifest.json").recipe.siglevel == "never"

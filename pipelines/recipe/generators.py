"""The initramfs generators, one row each, and a row for none: the kernel itself then mounts the root."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Command


@dataclass(frozen=True)
class Generator:
    """What virtroot knows of a generator on one distribution; paths are relative to the root.

    ``kernel`` and ``initrd`` may hold ``{kernel}``, the kernel package's name. ``list_initramfs`` prints the entries of
    an initramfs, a line each that ends with the path, and ``show_resume`` prints ``RESUME=DEVICE`` lines found in it
    (empty for a generator whose initramfs cannot name one); both run inside the root and take the initramfs's path as
    last argument. ``regenerate`` makes the initramfs of every kernel anew; ``config`` are the places whose change asks
    for that. ``rdinit`` is the program of the initramfs that the kernel starts in place of ``/init``, where one is
    needed, and ``unpackaged`` are programs that the distribution has no package of: the recipe's overlay has to bring
    them. ``stand_in`` is the empty package that satisfies the kernels' dependency on a generator where no package does.
    ``switches`` are the names of programs of which one has to be in the initramfs, for it to go on in the root.
    ``contained`` says that ``regenerate`` wants more of a system than a chroot has.

    ``initrd`` is empty, as are all that deal with it, where there is no initramfs.
    """

    name: str
    packages: tuple[str, ...]
    skeletons: tuple[str, ...]
    kernel: str
    initrd: str
    list_initramfs: tuple[str, ...]
    show_resume: tuple[str, ...]
    regenerate: tuple[str, ...]
    config: tuple[str, ...]
    rdinit: str = ""
    contained: bool = False
    unpackaged: tuple[str, ...] = ()
    stand_in: str = ""
    switches: tuple[str, ...] = ()

    @property
    def regeneration(self) -> Command:
        """The command that makes the initramfs of every kernel anew."""
        return Command(self.regenerate, chroot=not self.contained, contained=self.contained)

    @property
    def cmdline(self) -> str:
        """The guest kernel's command line."""
        rdinit = f" rdinit=/{self.rdinit}" if self.rdinit else ""
        return f"root=root rootfstype=virtiofs rw console=ttyS0{rdinit}"


_INITRAMFS_TOOLS = Generator(
    name="initramfs-tools",
    packages=("initramfs-tools", "zstd"),
    skeletons=("initramfs-tools",),
    kernel="vmlinuz",
    initrd="initrd.img",
    list_initramfs=("lsinitramfs",),
    # unmkinitramfs puts the last archive of an initramfs under main/ when there is an early one before it. The copy is
    # made below /run, which the finished root does not keep.
    show_resume=(
        "sh",
        "-ec",
        (
            'work=$(mktemp -d /run/initramfs.XXXXXX); unmkinitramfs "$1" "$work"; '
            'cat "$work"/conf/conf.d/* "$work"/main/conf/conf.d/* 2>/dev/null || true; rm -rf "$work"'
        ),
        "show-resume",
    ),
    regenerate=("update-initramfs", "-u", "-k", "all"),
    config=("etc/initramfs-tools", "usr/share/initramfs-tools", "etc/modprobe.d"),
    switches=("run-init", "switch_root"),
)

_DRACUT = Generator(
    name="dracut",
    # dracut itself only recommends what its shell scripts call; without these it leaves modules out, silently.
    packages=("dracut", "dracut-core", "kmod", "zstd"),
    skeletons=("dracut",),
    # Debian's kernel packages keep both links current, whatever makes the initramfs: dracut's own names carry the
    # kernel's version, which no domain could name.
    kernel="vmlinuz",
    initrd="initrd.img",
    list_initramfs=("lsinitrd",),
    # dracut writes resume= of the machine it runs on into a file of the initramfs's command line.
    show_resume=(
        "sh",
        "-ec",
        'lsinitrd --file etc/cmdline.d/95resume.conf "$1" 2>/dev/null | sed -n "s/.*resume=/RESUME=/p"',
        "show-resume",
    ),
    regenerate=(
        "sh",
        "-ec",
        'for tree in /usr/lib/modules/*; do dracut --force "/boot/initrd.img-${tree##*/}" "${tree##*/}"; done',
    ),
    config=("etc/dracut.conf", "usr/lib/dracut", "etc/modprobe.d"),
    switches=("switch_root", "systemd"),
)

_DRACUT_ON_ARCH = replace(
    _DRACUT,
    packages=("dracut",),
    skeletons=("dracut", "dracut-pacman"),
    kernel="boot/vmlinuz-{kernel}",
    initrd="boot/initramfs-{kernel}.img",
    regenerate=("/usr/share/libalpm/scripts/virtroot-dracut",),
)

_MKINITCPIO = Generator(
    name="mkinitcpio",
    packages=("mkinitcpio",),
    skeletons=("mkinitcpio",),
    kernel="boot/vmlinuz-{kernel}",
    initrd="boot/initramfs-{kernel}.img",
    list_initramfs=("lsinitcpio",),
    show_resume=(),
    regenerate=("mkinitcpio", "--allpresets"),
    # It ends at once where /proc or /dev/fd is missing.
    contained=True,
    config=("etc/mkinitcpio", "etc/initcpio", "etc/modprobe.d"),
    switches=("switch_root", "systemd"),
)

_BOOSTER = Generator(
    name="booster",
    packages=("booster", "busybox"),
    skeletons=("booster",),
    kernel="boot/vmlinuz-{kernel}",
    initrd="boot/booster-{kernel}.img",
    list_initramfs=("booster", "ls"),
    show_resume=(),
    regenerate=("/usr/lib/booster/regenerate_images",),
    config=("etc/booster.yaml", "usr/lib/virtroot/init", "etc/modprobe.d"),
    rdinit="usr/lib/virtroot/init",
    switches=("busybox",),
)

_BOOSTER_ON_DEBIAN = replace(
    _BOOSTER,
    packages=("busybox-static",),
    skeletons=("booster", "booster-dpkg"),
    kernel="vmlinuz",
    initrd="initrd.img",
    regenerate=(
        "sh",
        "-ec",
        'for tree in /usr/lib/modules/*; do /etc/kernel/postinst.d/virtroot-booster "${tree##*/}"; done',
    ),
    config=(*_BOOSTER.config, "usr/bin/booster", "usr/lib/booster"),
    unpackaged=("usr/bin/booster", "usr/lib/booster/init"),
    stand_in="virtroot-booster",
)

_NONE = Generator(
    name="none",
    packages=(),
    skeletons=(),
    kernel="vmlinuz",
    initrd="",
    list_initramfs=(),
    show_resume=(),
    regenerate=(),
    config=(),
    stand_in="virtroot-no-initramfs",
)

_NONE_ON_ARCH = replace(_NONE, skeletons=("kernel-pacman",), kernel="boot/vmlinuz-{kernel}")

#: The generators by distribution and name; the order of a distribution's rows is the order of preference.
GENERATORS: dict[tuple[str, str], Generator] = {
    ("debian", "initramfs-tools"): _INITRAMFS_TOOLS,
    ("debian", "dracut"): _DRACUT,
    ("debian", "booster"): _BOOSTER_ON_DEBIAN,
    ("debian", "none"): _NONE,
    ("arch", "mkinitcpio"): _MKINITCPIO,
    ("arch", "booster"): _BOOSTER,
    ("arch", "dracut"): _DRACUT_ON_ARCH,
    ("arch", "none"): _NONE_ON_ARCH,
}


def names(distro: str) -> tuple[str, ...]:
    """Return the generators that ``distro`` can use, its default first."""
    return tuple(name for row_distro, name in GENERATORS if row_distro == distro)


def of(recipe: Recipe) -> Generator:
    """Return the recipe's generator, its boot paths those of the recipe's kernel package."""
    found = GENERATORS[recipe.distro, recipe.generator]
    return replace(
        found, kernel=found.kernel.format(kernel=recipe.kernel), initrd=found.initrd.format(kernel=recipe.kernel)
    )

"""The initramfs generators, one row each, and a row for ``none``, with which the kernel mounts the root itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import Command


@dataclass(frozen=True)
class Generator:
    """A generator on one distribution. Paths are relative to the root.

    ``kernel`` and ``initrd`` are the boot paths; they may contain ``{kernel}``, the name of the kernel package.
    ``list_initramfs`` prints the entries of an initramfs, one per line, with the path at the end of the line.
    ``show_resume`` prints the ``RESUME=DEVICE`` lines in it; it is empty if the generator's initramfs cannot have them.
    Both run inside the root and take the path of the initramfs as last argument.
    ``regenerate`` generates the initramfs of every kernel again; a change below the paths of ``config`` requires that.
    ``contained`` means that ``regenerate`` needs more than a chroot, such as /proc.
    ``rdinit`` is the program of the initramfs that the kernel starts instead of ``/init``, if that is necessary.
    ``unpackaged`` are programs without a package in the distribution, which the recipe's overlay has to provide.
    ``placeholder`` is an empty package that satisfies the kernels' dependency on a generator, if no other package does.
    ``switches`` are programs that switch to the root; one of them has to be in the initramfs.

    Without an initramfs, ``initrd`` and everything about it is empty.
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
    placeholder: str = ""
    switches: tuple[str, ...] = ()

    @property
    def regeneration(self) -> Command:
        """The command that generates the initramfs of every kernel again."""
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
    # unmkinitramfs puts the last archive of an initramfs under main/ if there is an early one before it. It unpacks to
    # /run, which the finish stage empties.
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
    # dracut only recommends the programs that its scripts call. Without them it omits modules without an error.
    packages=("dracut", "dracut-core", "kmod", "zstd"),
    skeletons=("dracut",),
    # Debian's kernel packages keep both links current with any generator. dracut's own file names contain the kernel's
    # version, and a domain's XML cannot follow a version.
    kernel="vmlinuz",
    initrd="initrd.img",
    list_initramfs=("lsinitrd",),
    # dracut writes resume= of the machine that it runs on into a file for the command line in the initramfs.
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
    # mkinitcpio exits at once if /proc or /dev/fd is missing.
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
    placeholder="virtroot-booster",
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
    placeholder="virtroot-no-initramfs",
)

_NONE_ON_ARCH = replace(_NONE, skeletons=("kernel-pacman",), kernel="boot/vmlinuz-{kernel}")

#: The generators by distribution and name. The first row of a distribution is its default.
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


def list_names(distro: str) -> tuple[str, ...]:
    """Return the names of the generators of ``distro``, its default first."""
    return tuple(name for row_distro, name in GENERATORS if row_distro == distro)


def get_generator(recipe: Recipe) -> Generator:
    """Return the recipe's generator, with the boot paths of the recipe's kernel package."""
    found = GENERATORS[recipe.distro, recipe.generator]
    return replace(
        found, kernel=found.kernel.format(kernel=recipe.kernel), initrd=found.initrd.format(kernel=recipe.kernel)
    )

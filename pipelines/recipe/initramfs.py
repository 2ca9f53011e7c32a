"""The initramfs generators, one row each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Generator:
    """What virtroot knows of a generator; paths are relative to the root.

    ``list_image`` prints the image's entries, one path a line, and ``show_resume`` prints the settings in the image
    that name a resume device; both run inside the root and take the image's path as last argument. ``regenerate``
    makes the image of every kernel anew; ``config`` are the places whose change asks for that.
    """

    name: str
    packages: tuple[str, ...]
    skeleton: str
    kernel: str
    initrd: str
    list_image: tuple[str, ...]
    show_resume: tuple[str, ...]
    regenerate: tuple[str, ...]
    config: tuple[str, ...]


GENERATORS = {
    generator.name: generator
    for generator in (
        Generator(
            name="initramfs-tools",
            packages=("initramfs-tools", "zstd"),
            skeleton="initramfs-tools",
            kernel="vmlinuz",
            initrd="initrd.img",
            list_image=("lsinitramfs",),
            # unmkinitramfs puts the image's last archive under main/ when there is an early one before it. The copy is
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
        ),
    )
}

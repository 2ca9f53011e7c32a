"""Build the same Arch packages with virtroot and with plain pacstrap + tar, from the test repository.

Run from the checkout: .venv/bin/python -m benchmarks.pacstrap
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.build import seconds
from pipelines.build import build
from pipelines.builder import container, inputs
from pipelines.builder.container import run_builder
from pipelines.builder.inputs import Inputs
from pipelines.context import CommandContext
from pipelines.engine import engine as engines
from pipelines.settings import Settings
from tests import mirror

_RECIPE = """
distro: arch
generator: dracut
packages: [openssh, qemu-guest-agent, sudo]
mirror:
  - url: {url}
    keyring: key.asc
"""

#: What a user types for the same packages: the builder's pacman is configured and trusts the key already. dracut has no
#: hook for pacman, so making the initramfs is one more command.
_PLAIN = """
mkdir -p /srv/root /var/cache/virtroot/pkg
pacstrap -C /etc/virtroot/pacman.conf -c -K -M /srv/root base "$@" >&2
mkdir -p /srv/root/boot; version=$(ls /srv/root/usr/lib/modules)
arch-chroot /srv/root dracut --no-hostonly --force /boot/initramfs-linux.img "$version" >&2
tar -C /srv/root --xattrs --acls --numeric-owner -I 'zstd -T0 -3' -cf /srv/root.tar.zst .
"""


def main() -> None:
    """Run both with an empty package cache and with a full one; print wall times and ratios."""
    with tempfile.TemporaryDirectory() as scratch, mirror.serve("auto") as repository:
        directory = Path(scratch)
        (directory / "key.asc").write_bytes(repository.file("key.asc"))
        recipe = directory / "benchmark-arch.yaml"
        recipe.write_text(_RECIPE.format(url=repository.url("good")))
        planned = inputs.find(recipe=str(recipe))
        settings = replace(Settings(), output=scratch, cache_size="0")
        contenders: dict[str, Callable[[], object]] = {
            "pacstrap + tar": lambda: _plain(planned, settings),
            "virtroot": lambda: build(planned, CommandContext(settings), fresh=True),
        }
        _plain(planned, settings)  # the builder image is made once, for both
        for cache in ("cold", "warm"):
            times = {}
            for name, contender in contenders.items():
                if cache == "cold":
                    engines.connect().remove_volume(container.get_cache_volume(planned, settings))
                times[name] = seconds(contender)
            for name, taken in times.items():
                print(f"{name:<16} {cache}   {taken:6.1f} s   {taken / times['pacstrap + tar']:.2f} x pacstrap + tar")
        build(planned, CommandContext(settings))
        unchanged = seconds(lambda: build(planned, CommandContext(settings)))
        print(f"{'virtroot':<16} warm, nothing changed {unchanged:6.1f} s")
        engines.connect().remove_volume(container.get_cache_volume(planned, settings))


def _plain(planned: Inputs, settings: Settings) -> None:
    engine = engines.connect()
    distro = planned.plan.distro
    image, _ = container.ensure_image(engine, distro, settings)
    on_disk = replace(settings, workspace="disk")
    with run_builder(
        engine,
        image,
        planned.name,
        on_disk,
        "benchmark",
        capabilities=distro.capabilities,
        cache=container.get_cache_volume(planned, settings),
    ) as worker:
        for item in planned.plan.builder_setup:
            worker.set_up(item, planned.trees)
        packages = (planned.recipe.kernel, *planned.plan.generator.packages, *planned.recipe.packages)
        worker.run(["sh", "-ec", _PLAIN, "plain", *packages])


if __name__ == "__main__":
    main()

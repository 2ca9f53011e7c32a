"""Boot roots many times; print how long the agent took to answer.

Run from the checkout: .venv/bin/python -m benchmarks.boots [BOOTS] [RECIPE-FILE…]
Without recipe files: recipes/debian.yaml with each generator that Debian has a package of, and with none. Guests run
with cache=always, so that the generators are compared and not virtiofsd. A boot that fails is counted, its console
shown.

.venv/bin/python -m benchmarks.boots BOOTS caches
Boots one root with each cache, and without an initramfs, in turn, beside the same tree on ext4 on a virtio disk.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass, replace

from benchmarks import caches
from pipelines import remove, start
from pipelines.build import build
from pipelines.builder import inputs
from pipelines.builder.inputs import Inputs
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest.install_options import InstallOptions
from pipelines.install import install
from pipelines.libvirt import connect as connecting
from pipelines.libvirt import embedded
from pipelines.recipe.generators import GENERATORS
from pipelines.settings import Settings

_NAME = "benchmark-boots"

#: The tag of every root; the kernel names it when a mount comes too early.
_TAG = "root"


@dataclass(frozen=True)
class Boots:
    """What one root's boots showed: seconds each; how many failed, and how many consoles missed the root's tag."""

    seconds: list[float]
    failed: int
    tag_not_found: int

    def __str__(self) -> str:
        if not self.seconds:
            return f"none of {self.failed} boots came up"
        spread = (
            f"min {min(self.seconds):.1f}  median {statistics.median(self.seconds):.1f}  max {max(self.seconds):.1f}"
        )
        return f"{len(self.seconds)} boots  {spread} s  failed: {self.failed}  tag not found: {self.tag_not_found}"


def main(boots: int, recipes: list[str]) -> None:
    """Build, install, boot ``boots`` times and remove each; print a line for each."""
    if recipes == ["caches"]:
        caches.main(boots)
        return
    packaged = [name for (distro, name), row in GENERATORS.items() if distro == "debian" and not row.unpackaged]
    planned = [inputs.find(recipe=path) for path in recipes] or [
        inputs.find("debian", overrides={"generator": name}) for name in packaged
    ]
    with tempfile.TemporaryDirectory() as output:
        settings = replace(Settings(), output=output, connect="embedded", embedded="virtroot-benchmark")
        lines = []
        try:
            for each in planned:
                recipe = each.recipe
                lines.append(f"{recipe.distro} {recipe.release} {recipe.generator}: {_boot(each, boots, settings)}")
        finally:
            embedded.stop(settings, with_volumes=True)
            print("\n".join(lines))


def _boot(planned: Inputs, boots: int, settings: Settings) -> Boots:
    recipe = planned.recipe
    cached = recipe.model_copy(update={"guest": recipe.guest.model_copy(update={"cache": "always"})})
    artifact = build(replace(planned, plan=replace(planned.plan, recipe=cached)), CommandContext(settings))
    install(_NAME, artifact, InstallOptions(), CommandContext(settings))
    # The first boot makes host keys; what is compared is every boot after it.
    start.start(_NAME, CommandContext(settings))
    start.stop(_NAME, CommandContext(settings))
    guest = guests.get(connecting.connect(settings), _NAME)
    seconds, not_found = [], 0
    for _ in range(boots):
        up = _start(settings)
        not_found += f"tag <{_TAG}> not found" in guest.read_console_tail(lines=1000)
        if guest.running:
            start.stop(_NAME, CommandContext(settings), force=up is None)
        seconds += [] if up is None else [up]
    remove.remove(_NAME, CommandContext(settings), ask=None)
    return Boots(seconds, boots - len(seconds), not_found)


def _start(settings: Settings) -> float | None:
    """Return the seconds until the agent answered, or None where it did not."""
    try:
        return start.start(_NAME, CommandContext(settings))
    except VirtrootError as error:
        print(error, file=sys.stderr)
        return None


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2:])

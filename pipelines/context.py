"""What one command works with: its settings, the store, the engine and the hypervisor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pipelines import lazy

with lazy.imports():
    from pipelines import settings as all_settings
    from pipelines.artifact import store as stores
    from pipelines.engine import engine as engines
    from pipelines.libvirt import connect
    from pipelines.libvirt import hypervisor as hypervisors


@dataclass(frozen=True)
class CommandContext:
    """The settings of one command, and what it uses; each is opened when it is first used, and only once.

    A task that runs for hours makes a new context for each of its parts: an engine or a hypervisor can be restarted
    meanwhile.
    """

    settings: all_settings.Settings

    @cached_property
    def store(self) -> stores.Store:
        """The store of builds and histories."""
        return stores.Store(self.settings.output_dir)

    @cached_property
    def engine(self) -> engines.Engine:
        """The engine in which containers run; raises `VirtrootError` if none answers."""
        return engines.connect()

    @cached_property
    def hypervisor(self) -> hypervisors.Hypervisor:
        """The hypervisor that the settings select; the embedded one is started if it is not running."""
        return connect.connect(self.settings)

    def find_hypervisor(self) -> hypervisors.Hypervisor | None:
        """Return the hypervisor that the settings select, or None if that is an embedded one that is not running."""
        return connect.find(self.settings)

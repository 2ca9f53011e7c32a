"""Holds a guest for a task: no other task works on it, no change of it is unfinished, and it stays off if necessary.

Every task that changes a guest uses `hold`. `new` holds the name of a new guest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import publication
from pipelines.guest.guest import Guest
from pipelines.libvirt import host_files
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.log import say
from pipelines.pool import place
from pipelines.pool.place import Place
from pipelines.target import lock


def new(hypervisor: Hypervisor, paths: Place) -> AbstractContextManager[None]:
    """Hold the lock of a guest that is about to be made, or whose domain is gone.

    Raises `lock.Busy` if another task holds it.
    """
    return lock.on(hypervisor.target, paths.lock, f"the guest {paths.name}")


@contextmanager
def hold(hypervisor: Hypervisor, name: str, *, off: str = "", tidy: bool = True) -> Iterator[Guest]:
    """Hold the lock of the guest ``name``, finish or undo what a killed task left of it, and yield the guest.

    With ``off`` the guest has to be off, and stays off, see `keep_off`; the text is the hint for a guest that runs.
    Without ``tidy`` nothing is finished or undone, for a task that ends a guest. The lock is named by the guest's root,
    so that it is the same after the domain was renamed.

    Raises `VirtrootError` if there is no such guest, `lock.Busy` if another task works on it.
    """
    before = guests.get(hypervisor, name)
    with new(hypervisor, place.of_root(before.root)):
        now = guests.get(hypervisor, name)
        if (now.uuid, now.root) != (before.uuid, before.root):
            raise VirtrootError(f"{name} is a different guest now", f"check it: ./inv info {name}")
        if tidy:
            publication.finish_interrupted(now)
        guest = guests.get(hypervisor, name)
        if not off:
            yield guest
            return
        with keep_off(guest, off):
            yield guest


@contextmanager
def shut_down(guest: Guest, timeout: float) -> Iterator[None]:
    """Shut a guest down if it runs, and keep it off; the caller holds its lock. ``timeout`` is in seconds.

    If what is done meanwhile fails, a guest that ran is booted again. Otherwise the caller boots it.
    """
    was_running = guest.running
    if was_running:
        say(f"{guest.name} is off after {guest.stop(timeout):.1f} s")
    with publication.boot_after_failure(guest, timeout, wanted=was_running), keep_off(guest):
        yield


def check_user(hypervisor: Hypervisor) -> None:
    """Raise `VirtrootError` if this user may not copy a root. In the embedded hypervisor, everything runs as root."""
    if not hypervisor.embedded and os.geteuid() != 0:
        raise VirtrootError("copying a root needs root: its files have many owners", "run this with sudo")


def check_may_stop(guest: Guest, *, restart: bool) -> None:
    """Raise `VirtrootError` if a guest runs and may not be shut down, or if libvirt keeps a saved state of it."""
    if guest.running and not restart:
        raise VirtrootError(
            f"the guest {guest.name} is running", f"stop it first: ./inv stop {guest.name}; or give --restart"
        )
    publication.refuse_kept(guest)


@contextmanager
def keep_off(guest: Guest, what_to_do: str = "") -> Iterator[None]:
    """Keep a guest off that is off; the caller holds its lock.

    libvirt's hook refuses a start meanwhile, also one by virsh or at boot. Raises `VirtrootError` if the guest runs
    (with the hint ``what_to_do``), if libvirt keeps a saved state or a snapshot of it, which it would restore on
    another root, and if another domain uses its root.
    """
    with lock.on(guest.target, place.of_root(guest.root).off_lock, f"the root of {guest.name}"):
        if guest.running:
            hint = what_to_do or f"stop it first: ./inv stop {guest.name}"
            raise VirtrootError(f"the guest {guest.name} is running", hint)
        publication.refuse_kept(guest)
        guest.refuse_shared_root()
        # The hook of an earlier version does not check the lock.
        host_files.update_hook(guest.target)
        yield

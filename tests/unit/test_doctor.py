"""The doctor looks and touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pipelines.host import process
from pipelines.host.process import Completed
from pipelines.machine import doctor
from pipelines.settings import Settings

#: All that it may ask of an engine, and run.
READS = {"memory", "registry_has", "images"}
ASKS = ["virsh", "--quiet", "--connect", "qemu:///system", "uri"]


class ReadOnly:
    """An engine that fails the test when it is asked for anything but its state."""

    def __getattr__(self, name: str) -> Any:
        assert name in READS, name
        return {"memory": lambda: 8 << 30, "registry_has": lambda _: True, "images": lambda _: {}}[name]


@pytest.mark.parametrize("connect", ["auto", "embedded", "qemu:///system"])
def test_nothing_is_started_or_defined(monkeypatch: pytest.MonkeyPatch, connect: str) -> None:
    ran: list[list[str]] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        ran.append(list(argv))
        return Completed(tuple(argv), 0, b"", b"")

    monkeypatch.setattr("pipelines.host.engine.answers", lambda: True)
    monkeypatch.setattr("pipelines.host.engine.connect", ReadOnly)
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "found", lambda _: True)
    for forbidden in ("attach", "start_daemon", "stop_daemon"):
        monkeypatch.delattr(process, forbidden)
    findings = doctor.examine(Settings(connect=connect))
    assert len(findings) >= 8
    assert ran
    probes = [argv for argv in ran if argv != ASKS]
    assert all("q35,accel=kvm" in argv and "isa-debug-exit,iobase=0xf4,iosize=4" in argv for argv in probes), ran

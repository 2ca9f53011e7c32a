"""The probe's firmware does what the probe waits for, on a processor that is known to work: QEMU's own."""

from __future__ import annotations

from pipelines.libvirt import kvm
from pipelines.libvirt.connect import connect
from tests.conftest import Virtroot


def test_the_firmware_comes_to_its_end_under_emulation(inv: Virtroot) -> None:
    target = connect(inv.settings).target
    assert kvm.is_working(target, accelerator="tcg")
    assert not kvm.is_working(target, accelerator="nothing")

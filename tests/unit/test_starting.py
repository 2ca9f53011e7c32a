"""A guest whose timers stopped under software emulation is started once more, and no other one is."""

from __future__ import annotations

from unittest.mock import PropertyMock, create_autospec, patch

import pytest

from pipelines.errors import Phase, VirtrootError
from pipelines.guest import publication
from pipelines.guest.guest import Guest
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor
from pipelines.target.target import Target
from tests.support.guests import make_guest

STALL = "rcu: rcu_preempt kthread starved for 5247 jiffies! g-1043 f0x0 RCU_GP_WAIT_FQS(5)"


@pytest.mark.parametrize(
    ("console", "kvm", "running", "starts"),
    [
        (STALL, False, True, 2),
        (f"{STALL}\n" + "  ? __pfx_kthread+0x10/0x10\n" * 100, False, True, 2),
        (STALL, True, True, 1),
        (STALL, False, False, 1),
        ("Give root password for maintenance", False, True, 1),
    ],
)
def test_a_start_is_tried_again(console: str, kvm: bool, running: bool, starts: int) -> None:
    target = create_autospec(Target, instance=True)
    target.run.side_effect = lambda argv, **_: Completed(
        tuple(argv), 0 if argv[0] == "tail" else 1, console.encode() if argv[0] == "tail" else b"", b""
    )
    hypervisor = create_autospec(Hypervisor, instance=True, target=target, kvm=kvm)
    guest = make_guest(hypervisor)
    failed = VirtrootError("the guest web did not come up: no agent answered within 300 s", "", where=Phase.BOOT)
    with (
        patch.object(Guest, "start", side_effect=[failed, 1.0]) as start,
        patch.object(Guest, "stop") as stop,
        patch.object(Guest, "running", new_callable=PropertyMock, return_value=running),
        patch("pipelines.guest.hostdir.refuse_gone"),
    ):
        if starts == 2:
            assert publication.start(guest, 300) == 1.0
            stop.assert_called_once_with(300, force=True)
        else:
            with pytest.raises(VirtrootError, match="no agent answered"):
                publication.start(guest, 300)
            stop.assert_not_called()
    assert start.call_count == starts

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from pipelines.host.engine import Engine


@pytest.mark.parametrize(
    ("capabilities", "seccomp", "expected"),
    [
        ((), True, []),
        (("NET_ADMIN",), True, []),
        (("SYS_ADMIN",), True, ["apparmor=unconfined"]),
        (("SYS_ADMIN", "NET_ADMIN"), False, ["seccomp=unconfined", "apparmor=unconfined"]),
    ],
)
def test_only_a_container_that_mounts_is_freed_of_apparmor(
    capabilities: tuple[str, ...], seccomp: bool, expected: list[str]
) -> None:
    client = MagicMock()
    Engine(client).start("image", labels={}, capabilities=capabilities, seccomp=seccomp)
    asked = client.containers.run.call_args.kwargs
    assert asked["security_opt"] == expected
    assert asked["cap_add"] == list(capabilities)
    assert "privileged" not in asked

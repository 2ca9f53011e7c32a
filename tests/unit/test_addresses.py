"""Addresses that a guest's agent or libvirt tell, before they become arguments of programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.guest.agent import Agent
from pipelines.host import addresses
from pipelines.host.process import Completed
from pipelines.libvirt.hypervisor import Hypervisor

HOSTILE = [
    "",
    "-oProxyCommand=id",
    "-e/bin/sh",
    "10.0.0.1\nweb  running  10.0.0.9",
    "10.0.0.1 ",
    " 10.0.0.1",
    "10.0.0.1/24",
    "fd00::1%$(id)",
    "fd00::1%-x\n",
    "example.org",
    "localhost",
    "0x7f.1",
    "127.0.0.1",
    "127.1.2.3",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "fe80::1",
    "FE80::1",
    "169.254.1.1",
    "0.0.0.0",  # noqa: S104 - nothing listens here
    "::",
    "224.0.0.1",
    "ff02::1",
    "\u0661\u0660.0.0.1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_not_a_machines_address_is_none(text: str) -> None:
    assert addresses.parse(text) == ""


@pytest.mark.parametrize(
    ("text", "address"),
    [("192.168.122.7", "192.168.122.7"), ("FD00:0::1", "fd00::1"), ("2001:db8::2", "2001:db8::2")],
)
def test_addresses_are_spelled_as_usual(text: str, address: str) -> None:
    assert addresses.parse(text) == address


class Libvirt(Hypervisor):
    """A libvirt whose virsh prints what it is told."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def virsh(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Completed:
        return Completed(arguments, 0, self.answer.encode(), b"")


@pytest.mark.parametrize("text", HOSTILE)
def test_an_agent_tells_addresses_and_nothing_else(text: str) -> None:
    def interface(address: str) -> dict[str, Any]:
        return {"name": "x", "ip-addresses": [{"ip-address": address, "ip-address-type": "ipv4", "prefix": 24}]}

    answer = json.dumps({"return": [interface(text), interface("10.0.0.2")]})
    assert Agent(Libvirt(answer), "uuid", "web").list_addresses() == ["10.0.0.2"]


def test_libvirt_tells_an_address_of_a_lease() -> None:
    assert Libvirt(" vnet0 52:54:00:00:00:01 ipv4 192.168.122.7/24\n").find_address("uuid", "lease") == "192.168.122.7"
    assert Libvirt(" vnet0 52:54:00:00:00:01 ipv4 -oX/24\n").find_address("uuid", "arp") == ""

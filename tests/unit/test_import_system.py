"""Which systems can be imported, and with which generator."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.errors import VirtrootError
from pipelines.origin.system import choose_generator, refuse, refuse_incomplete
from tests.support.systems import ARCH, DEBIAN


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"top": frozenset({"Windows", "Users"})}, "Windows"),
        ({"machine": "00b7"}, "for aarch64"),
        ({"machine": ""}, "an unknown processor"),
        ({"found": DEBIAN.found - {"var/lib/dpkg/status"}}, "neither dpkg's nor pacman's"),
        ({"found": frozenset(), "fstab": "UUID=9 /usr ext4 defaults 0 2"}, "it is on another partition, UUID=9"),
        ({"found": frozenset()}, "no /usr/bin, only etc, usr, var"),
        ({"found": DEBIAN.found - {"usr/lib/systemd/systemd"}}, "no systemd"),
    ],
)
def test_an_unsupported_system_is_refused_with_the_reason(changed: dict[str, object], why: str) -> None:
    refuse(DEBIAN)
    with pytest.raises(VirtrootError, match=why):
        refuse(replace(DEBIAN, **changed))  # type: ignore[arg-type]


def test_the_generator_is_the_one_that_is_installed() -> None:
    both = frozenset({"dracut", "initramfs-tools"})
    assert choose_generator(DEBIAN, both, "") == "initramfs-tools"
    assert choose_generator(DEBIAN, both, "dracut") == "dracut"
    assert choose_generator(DEBIAN, frozenset({"virtroot-no-initramfs"}), "") == "none"
    assert choose_generator(ARCH, frozenset({"dracut"}), "") == "dracut"
    assert choose_generator(ARCH, frozenset({"dracut"}), "none") == "none"
    for packages, asked, why in (
        (both, "booster", "booster is not installed"),
        (both, "mkinitcpio", "unknown generator mkinitcpio"),
        (frozenset({"tiny-initramfs"}), "", "no supported initramfs generator"),
    ):
        with pytest.raises(VirtrootError, match=why):
            choose_generator(DEBIAN, frozenset(packages), asked)


def test_a_system_without_a_kernel_is_refused_with_the_missing_packages() -> None:
    container = replace(DEBIAN, kernels=(), signs={"container-marks": ((".dockerenv", ()),)})
    with pytest.raises(VirtrootError, match="has no kernel in /boot, like any container") as failed:
        refuse_incomplete(container, frozenset({"bash"}))
    assert failed.value.hint == "install in the system first: linux-image-amd64, initramfs-tools"
    with pytest.raises(VirtrootError) as failed:
        refuse_incomplete(replace(ARCH, kernels=()), frozenset({"dracut"}))
    assert failed.value.hint == "install in the system first: linux"
    refuse_incomplete(replace(DEBIAN, kernels=(), found=DEBIAN.found | {"vmlinuz"}), frozenset())

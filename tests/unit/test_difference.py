from __future__ import annotations

from itertools import pairwise

from pipelines.artifact.difference import Change, Difference, compare, join
from pipelines.artifact.manifest import Package


def packages(**versions: str) -> tuple[Package, ...]:
    return tuple(Package(name=name.replace("_", "-"), version=version) for name, version in versions.items())


def test_packages_come_go_and_change() -> None:
    before = packages(bash="5.2-1", zlib="1:1.3-1", gone="1", same="1")
    after = packages(bash="5.3-1", zlib="1:1.2-9", come="2", same="1")
    assert compare(before, after, "debian") == Difference(
        added=(Change(name="come", after="2"),),
        removed=(Change(name="gone", before="1"),),
        upgraded=(Change(name="bash", before="5.2-1", after="5.3-1"),),
        downgraded=(Change(name="zlib", before="1:1.3-1", after="1:1.2-9"),),
    )
    assert not compare(before, reversed(before), "debian")


def test_which_is_newer_is_the_distributions_to_say() -> None:
    # To dpkg letters behind a number are newer, to pacman older.
    before, after = packages(tool="1.0"), packages(tool="1.0rc1")
    assert compare(before, after, "debian").upgraded
    assert compare(before, after, "arch").downgraded


def test_kernel_and_systemd_come_first() -> None:
    debian = packages(apt="1", linux_image_cloud_amd64="1", systemd="1", systemd_sysv="1", linux_libc_dev="1", zstd="1")
    assert [change.name for change in compare((), debian, "debian").added] == [
        "linux-image-cloud-amd64", "systemd", "systemd-sysv", "apt", "linux-libc-dev", "zstd",
    ]  # fmt: skip
    arch = packages(acl="1", linux_firmware="1", linux_lts="1", linux="1", systemd="1")
    assert [change.name for change in compare(arch, (), "arch").removed] == [
        "linux", "linux-lts", "systemd", "acl", "linux-firmware",
    ]  # fmt: skip


def test_a_package_may_be_there_for_two_architectures() -> None:
    both = [Package(name="libc6", version="1"), Package(name="libc6", version="1")]
    assert compare(both[:1], both, "debian").added == (Change(name="libc6", after="1"),)
    newer = [Package(name="libc6", version="10"), Package(name="libc6", version="9")]
    assert compare(both, newer, "debian").upgraded == (
        Change(name="libc6", before="1", after="10"),
        Change(name="libc6", before="1", after="9"),
    )
    assert not compare(both, newer, "debian").added


def test_differences_that_follow_each_other_are_one() -> None:
    states = [
        packages(a="1", b="1", c="1", systemd="1"),
        packages(a="2", c="1", d="1", systemd="1"),
        packages(a="1", b="2", d="1", systemd="2"),
        packages(a="1", b="2", c="0", systemd="2"),
    ]
    steps = [compare(one, other, "debian") for one, other in pairwise(states)]
    assert join(steps, "debian") == compare(states[0], states[-1], "debian")
    assert not join((), "debian")


def test_another_way_to_write_a_version_is_no_step_back() -> None:
    assert compare(packages(a="1.0"), packages(a="1.00"), "debian").upgraded
    assert compare(packages(a="1.00"), packages(a="1.0"), "debian").upgraded

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.builder.inspection import RULES, RootFacts, find_doubts, find_violations, refuse_broken
from pipelines.errors import VirtrootError

VERSION = "6.1.0-1-cloud-amd64"
MODULES = f"usr/lib/modules/{VERSION}/kernel"
GOOD = RootFacts(
    kernel="vmlinuz",
    initrd="initrd.img",
    kernel_link=f"boot/vmlinuz-{VERSION}",
    initrd_link=f"boot/initrd.img-{VERSION}",
    regular=frozenset({f"boot/vmlinuz-{VERSION}", f"boot/initrd.img-{VERSION}"}),
    fstab="# comment\nroot / virtiofs defaults 0 0\n",
    grub=(),
    packages=("bash",),
    initramfs=(f"{MODULES}/fs/fuse/virtiofs.ko", f"{MODULES}/drivers/virtio/virtio_pci.ko.xz"),
    resume=("# a comment", "RESUME=none"),
    builtin={VERSION: frozenset()},
    init="/usr/lib/systemd/systemd",
)
GOOD = replace(GOOD, initramfs=(*GOOD.initramfs, "init", "usr/bin/run-init"), switches=("run-init", "switch_root"))
BUILT_IN = {VERSION: frozenset({"kernel/fs/fuse/virtiofs.ko", "kernel/drivers/virtio/virtio_pci.ko"})}
OTHER = {"6.2.0": BUILT_IN[VERSION], VERSION: frozenset[str]()}


def test_a_good_root_breaks_no_rule() -> None:
    assert find_violations(GOOD) == []


def test_an_empty_database_is_told_and_is_no_reason_to_refuse_a_root() -> None:
    odd = replace(GOOD, databases=("usr/lib/udev/hwdb.bin",))
    assert find_violations(odd) == find_doubts(GOOD) == []
    assert find_doubts(odd) == [
        "/usr/lib/udev/hwdb.bin is missing or empty: the program that generates it failed in the builder"
    ]


def test_modules_may_be_built_into_the_kernel() -> None:
    assert find_violations(replace(GOOD, initramfs=(), builtin=BUILT_IN)) == []


WITHOUT_INITRAMFS = replace(
    GOOD,
    initrd="",
    initrd_link="",
    regular=frozenset({f"boot/vmlinuz-{VERSION}"}),
    initramfs=(),
    resume=(),
    builtin={
        VERSION: frozenset(
            f"kernel/drivers/{name}.ko" for name in ("fuse", "virtiofs", "virtio", "virtio_pci", "virtio_ring")
        )
    },
)


def test_a_kernel_that_has_all_it_needs_built_in_needs_no_initramfs() -> None:
    assert find_violations(WITHOUT_INITRAMFS) == []


@pytest.mark.parametrize("module", ["fuse", "virtiofs", "virtio", "virtio_pci", "virtio_ring"])
def test_without_an_initramfs_nothing_else_brings_a_module(module: str) -> None:
    have = frozenset(entry for entry in WITHOUT_INITRAMFS.builtin[VERSION] if not entry.endswith(f"/{module}.ko"))
    # Another kernel's modules, and an initramfs that nobody loads, are of no use.
    for kernels in ({VERSION: have}, {VERSION: have, "6.2.0": WITHOUT_INITRAMFS.builtin[VERSION]}):
        broken = replace(WITHOUT_INITRAMFS, builtin=kernels, initramfs=GOOD.initramfs)
        said = f"without an initramfs, {module} must be built into kernel {VERSION}, but is not"
        assert find_violations(broken) == [f"virtiofs-modules: {said}"]
        with pytest.raises(VirtrootError) as refused:
            refuse_broken(broken)
        assert "use another generator" in refused.value.hint


def test_a_kernel_whose_modules_are_unknown_is_not_taken_for_one_that_needs_no_initramfs() -> None:
    (said,) = find_violations(replace(WITHOUT_INITRAMFS, builtin={}))
    assert "virtiofs and virtio_pci and fuse" in said


def test_a_kernel_without_a_version_in_its_name_goes_by_its_modules() -> None:
    plain = replace(
        GOOD, kernel="boot/vmlinuz-linux", kernel_link="", initrd="boot/initramfs-linux.img", initrd_link=""
    )
    plain = replace(plain, regular=frozenset({plain.kernel, plain.initrd}))
    assert plain.kernel_version == VERSION
    assert find_violations(plain) == []


LTS = "6.6.1-lts"
TWO_KERNELS = replace(
    GOOD,
    kernel="boot/vmlinuz-linux-lts",
    kernel_link="",
    initrd="boot/initramfs-linux-lts.img",
    initrd_link="",
    regular=frozenset({"boot/vmlinuz-linux-lts", "boot/initramfs-linux-lts.img"}),
    initramfs=tuple(entry.replace(VERSION, LTS) for entry in GOOD.initramfs),
    builtin={VERSION: frozenset(), LTS: frozenset()},
    pkgbase={VERSION: "linux", LTS: "linux-lts"},
)


def test_of_two_kernels_without_versions_in_their_names_the_package_tells() -> None:
    assert TWO_KERNELS.kernel_version == LTS
    assert find_violations(TWO_KERNELS) == []


@pytest.mark.parametrize("pkgbase", [{}, {VERSION: "linux"}, {VERSION: "linux-lts", LTS: "linux-lts"}])
def test_of_two_kernels_none_is_guessed(pkgbase: dict[str, str]) -> None:
    untold = replace(TWO_KERNELS, pkgbase=pkgbase)
    assert untold.kernel_version == ""
    assert [each.partition(":")[0] for each in find_violations(untold)] == ["virtiofs-modules"]


def test_the_version_in_the_name_wins_over_the_package() -> None:
    assert replace(GOOD, pkgbase={"6.2.0": VERSION}).kernel_version == VERSION


def test_an_initramfs_for_one_kernel_may_leave_the_version_out_of_its_paths() -> None:
    program = "usr/lib/virtroot/init"
    flat = ("/usr/lib/modules/virtiofs.ko", "/usr/lib/modules/virtio_pci.ko", f"/{program}", "/usr/bin/busybox")
    assert find_violations(replace(GOOD, initramfs=flat, rdinit=program, switches=("busybox",))) == []


@pytest.mark.parametrize(
    ("rule", "broken", "says"),
    [
        ("virtiofs-modules", {"initramfs": ()}, "virtiofs and virtio_pci neither in"),
        ("virtiofs-modules", {"initramfs": GOOD.initramfs[:1]}, "virtio_pci neither in"),
        ("virtiofs-modules", {"initramfs": (f"{MODULES}/virtio_pci_modern_dev.ko", GOOD.initramfs[0])}, "virtio_pci "),
        ("virtiofs-modules", {"initramfs": ("/usr/lib/modules/virtiofs.ko",)}, "virtio_pci neither"),
        ("virtiofs-modules", {"initramfs": (), "builtin": OTHER}, f"nor built into kernel {VERSION}"),
        ("virtiofs-modules", {"initramfs": tuple(e.replace(VERSION, "6.2.0") for e in GOOD.initramfs)}, "neither in"),
        ("initramfs-program", {"rdinit": "usr/lib/virtroot/init"}, "has no usr/lib/virtroot/init"),
        ("no-resume", {"resume": ("RESUME=UUID=4d2f",)}, "has the device UUID=4d2f"),
        ("no-resume", {"resume": ("RESUME=auto",)}, "has the device auto"),
        ("no-resume", {"resume": ("RESUME=none", 'RESUME="/dev/vda2"')}, "/dev/vda2"),
        ("fstab", {"fstab": ""}, "but has: no line"),
        ("fstab", {"fstab": GOOD.fstab + "UUID=1 /boot ext4 defaults 0 2\n"}, "UUID=1 /boot"),
        ("fstab", {"fstab": "/dev/vda1 / ext4 defaults 0 1\n"}, "/dev/vda1"),
        ("no-grub", {"grub": ("boot/grub",)}, "boot/grub"),
        ("no-grub", {"packages": ("bash", "grub-common")}, "package grub-common"),
        ("kernel-path", {"kernel_link": f"/boot/vmlinuz-{VERSION}"}, "is absolute"),
        ("kernel-path", {"kernel_link": "../etc/victim"}, "leaves the root"),
        ("kernel-path", {"regular": frozenset({f"boot/initrd.img-{VERSION}"})}, "not a regular file"),
        ("initramfs-path", {"initrd_link": "/boot/initrd.img"}, "is absolute"),
        ("initramfs-path", {"regular": frozenset({f"boot/vmlinuz-{VERSION}"})}, "not a regular file"),
        ("same-version", {"initrd_link": "boot/initrd.img-5.10.0"}, "is version 5.10.0"),
        ("init", {"init": ""}, "no init"),
    ],
)
def test_a_broken_root_is_refused_by_name(rule: str, broken: dict[str, object], says: str) -> None:
    found = find_violations(replace(GOOD, **broken))  # type: ignore[arg-type]
    complaint = next(each for each in found if each.startswith(f"{rule}: "))
    assert says in complaint
    with pytest.raises(VirtrootError, match="the root breaks"):
        refuse_broken(replace(GOOD, **broken))  # type: ignore[arg-type]


def test_every_rule_is_broken_by_some_test_above() -> None:
    marks = test_a_broken_root_is_refused_by_name.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(RULES)


_MODULES = GOOD.initramfs[:2]


@pytest.mark.parametrize(
    ("entries", "switches"),
    [
        (("init", "usr/bin/switch_root"), ("switch_root", "systemd")),
        (("./init", "bin/switch_root"), ("switch_root",)),
        # As lsinitrd has it.
        (("lrwxrwxrwx 1 root root 23 Jan 1 1970 init -> usr/lib/systemd/systemd",
          "-rwxr-xr-x 1 root root 9 Jan 1 1970 usr/lib/systemd/systemd"), ("switch_root", "systemd")),
        (("-rwxr-xr-x 1 root root 9 Jan 1 1970 init",
          "lrwxrwxrwx 1 root root 7 Jan 1 1970 usr/sbin/switch_root -> busybox"), ("switch_root", "systemd")),
    ],
)  # fmt: skip
def test_an_initramfs_that_goes_on_in_the_root_breaks_no_rule(
    entries: tuple[str, ...], switches: tuple[str, ...]
) -> None:
    assert find_violations(replace(GOOD, initramfs=(*_MODULES, *entries), switches=switches)) == []


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (("init", "usr/bin/busybox"), "has no switch_root or systemd, and cannot switch to the root"),
        (("usr/bin/switch_root",), "has no init, which the kernel starts"),
        # The name of a directory or of what a link leads to is no program.
        (("init", "lrwxrwxrwx 1 root root 7 Jan 1 1970 usr/sbin/x -> switch_root"), "has no switch_root or systemd"),
        (("init", "usr/lib/systemd/systemd-udevd"), "has no switch_root or systemd"),
    ],
)
def test_an_image_that_was_made_halfway_is_refused(entries: tuple[str, ...], said: str) -> None:
    (broken,) = find_violations(replace(GOOD, initramfs=(*_MODULES, *entries), switches=("switch_root", "systemd")))
    assert broken.startswith("initramfs-program: boot/initrd.img-")
    assert said in broken

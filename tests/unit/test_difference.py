from __future__ import annotations

import random
import subprocess

import pytest

from pipelines.artifact import difference, versions
from pipelines.artifact.manifest import Package


def packages(**names: str) -> list[Package]:
    return [Package(name=name.replace("_", "-"), version=version) for name, version in names.items()]


def test_what_came_went_and_changed_is_told_apart() -> None:
    before = packages(bash="5.2-1", gone="1", systemd="257", linux_image_cloud_amd64="6.12", apt="3.0", same="1")
    after = packages(bash="5.2-2", new="1", systemd="258", linux_image_cloud_amd64="6.13", apt="3.0~rc1", same="1")
    found = difference.compare(before, after, "debian")
    assert [change.name for change in found.added] == ["new"]
    assert [change.name for change in found.removed] == ["gone"]
    assert [(change.name, change.before, change.after) for change in found.upgraded] == [
        ("linux-image-cloud-amd64", "6.12", "6.13"),
        ("systemd", "257", "258"),
        ("bash", "5.2-1", "5.2-2"),
    ]
    assert [change.name for change in found.downgraded] == ["apt"]
    assert found
    assert not difference.compare(before, before, "debian")


def order(first: str, second: str, distro: str) -> int:
    number = versions.compare(first, second, distro)
    return (number > 0) - (number < 0)


def test_debian_versions_are_ordered_as_dpkg_orders_them() -> None:
    chosen = random.Random(5)  # noqa: S311 - the same versions each time
    pieces = ["0", "1", "2", "10", "01", "a", "b", "rc", ".", "-", "+", "~", "p1", "deb13u1", "1:", "~~", "_"]

    def version() -> str:
        return "1" + "".join(chosen.choice(pieces) for _ in range(chosen.randint(0, 5)))

    told = 0
    for first, second in [("1.0", "1.0~rc1"), ("1:0.1", "2"), *((version(), version()) for _ in range(120))]:
        answers = {
            sign: subprocess.run(["dpkg", "--compare-versions", first, word, second], capture_output=True, check=False)
            for sign, word in ((-1, "lt"), (0, "eq"), (1, "gt"))
        }
        if any(answer.stderr for answer in answers.values()):
            continue  # no version at all, says dpkg
        (real,) = (sign for sign, answer in answers.items() if answer.returncode == 0)
        assert order(first, second, "debian") == real, (first, second)
        told += 1
    assert told > 50


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # What pacman's own vercmp says.
        ("1.0", "1.0rc1", 1),
        ("1.0", "1.0.1", -1),
        ("1.0.a", "1.0", 1),
        ("1.0a", "1.0", -1),
        ("1.5-1", "1.5", 0),
        ("1:1.0", "2.0", 1),
        ("1.0.", "1.0", 1),
        ("1..0", "1.0", 1),
        ("2.0a", "2.0.a", -1),
        ("1_0", "1.0", 0),
        ("1.001", "1.1", 0),
        ("1.b", "1.1", -1),
        ("1.0-1", "1.0-1.1", -1),
        ("1-", "1-~", -1),
        ("1alpha:.p1_", "1alpha_", -1),
        ("1" + "0" * 5000, "1" + "0" * 4999, 1),
    ],
)
def test_arch_versions_are_ordered_as_vercmp_orders_them(first: str, second: str, expected: int) -> None:
    assert order(first, second, "arch") == expected
    assert order(second, first, "arch") == -expected

"""What an upgrade would do, as people and programs read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.merge import preparation, preview
from pipelines.merge.choices import Choices
from pipelines.merge.upgrade_plan import UpgradePlan
from tests.support.moves import moved
from tests.support.surveys import GROUP, PASSWD, system, tree

MANY = [f"etc/own{number:02}.conf" for number in range(30)]


@pytest.fixture
def move() -> UpgradePlan:
    base = system({"etc/c": "a", "etc/theirs": "a"}, ("base", "jq"))
    ours = replace(
        system({"etc/c": "mine", "etc/theirs": "a", **dict.fromkeys(MANY, "x")}, ("base", "jq", "only\x1b[31mmine")),
        unowned={"opt/app": tree(), "var/lib/docker": tree(size=5 << 20), "opt/old": tree(2)},
    )
    after = {"etc/passwd": PASSWD.replace("x:101:101", "x:105:105"), "etc/group": GROUP.replace("x:101", "x:105")}
    theirs = system({"etc/c": "new", "etc/theirs": "b", **after}, ("base", "jq", "new"))
    found = moved(base, ours, theirs, Choices(keep=("var/lib/docker", "opt/gone"), discard=("opt/old",)))
    sizes = {"home": 3 << 20, "var/lib/docker": 5 << 20}
    return replace(found, sizes=sizes, before="web/1", after="web/2", failed=True)


def test_what_is_to_be_decided_comes_first_and_all_of_it(move: UpgradePlan) -> None:
    lines = list(preview.format_preview(move))
    assert lines[:5] == [
        "web/1 -> web/2, which failed before",
        "to decide (3)",
        "  /etc/c  changed on both sides: --take old or --take new",
        "  /opt/app  4.0 KiB, 3 entries: --keep or --discard",
        "  package onlymine, which the new root does not have: --discard",
    ]


def test_everything_has_its_size_and_its_number(move: UpgradePlan) -> None:
    text = "\n".join(preview.format_preview(move))
    assert "kept (2)\n  /home  3.0 MiB\n  /var/lib/docker  5.0 MiB" in text
    assert "accounts whose number changes (2)\n  user www 101 -> 105\n  group www 101 -> 105" in text
    assert "left behind (1)\n  /opt/old  4.0 KiB, 2 entries" in text
    data = preview.convert_preview(move)
    assert data["kept"] == [{"name": "home", "size": 3 << 20}, {"name": "var/lib/docker", "size": 5 << 20}]
    assert data["accounts"] == ["user www 101 -> 105", "group www 101 -> 105"]
    assert (data["before"], data["after"], data["failed"]) == ("web/1", "web/2", True)


def test_it_is_a_screen_long_unless_all_is_asked_for(move: UpgradePlan) -> None:
    lines = list(preview.format_preview(move))
    assert len(lines) <= 40
    assert "/etc: the guest's stays (30)" in lines
    [more] = [line for line in lines if "more: --all" in line]
    shown = [line for line in lines if line.startswith("  /etc/own")]
    assert more == f"  … and {30 - len(shown)} more: --all"
    assert len(shown) >= 3
    files = {f"opt/{number:03}": tree() for number in range(200)}
    lines = list(
        preview.format_preview(
            replace(move, undecided=moved(system(), replace(system(), unowned=files), system()).undecided)
        )
    )
    assert len(lines) <= 40
    assert "to decide (202)" in lines
    everything = list(preview.format_preview(move, everything=True))
    assert [line.split()[0] for line in everything if line.startswith("  /etc/own")] == [f"/{each}" for each in MANY]


def test_what_is_not_as_it_was_is_said(move: UpgradePlan, capsys: pytest.CaptureFixture[str]) -> None:
    found = replace(
        move,
        held=("jq 1 -> 2",),
        selections={"jq": "hold"},
        systems={"srv/docker": "Docker, by /etc/docker/daemon.json"},
        flagged=("srv/fixed\x1b[31m",),
        commands=(("apt-mark manual 'x\ny'", "marked so in the guest"),),
    )
    text = "\n".join(preview.format_preview(found))
    for heading, line in (
        ("selections of dpkg, as in the guest (1)", "jq hold"),
        ("on hold in the guest, with another version now (1)", "jq 1 -> 2"),
        ("trees of other systems, whose numbers stay (1)", "/srv/docker  Docker, by /etc/docker/daemon.json"),
        ("immutable or append-only, unlike the copy (1)", "/srv/fixed"),
        ("to run in the guest afterwards (1)", "apt-mark manual 'x y'  marked so in the guest"),
    ):
        assert f"{heading}\n  {line}" in text
    data = preview.convert_preview(found)
    assert (data["held"], data["systems"], data["selections"]) == (["jq 1 -> 2"], ["srv/docker"], {"jq": "hold"})
    preparation.report("web", found)
    said = capsys.readouterr().err
    assert "to run in web: apt-mark manual 'x y', since marked so in the guest" in said
    assert "on hold in web, with another version now: jq 1 -> 2" in said
    assert "not immutable or append-only any more: /srv/fixed" in said

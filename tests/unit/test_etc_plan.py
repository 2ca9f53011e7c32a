"""What an upgrade does with /etc and the accounts of a guest."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from pipelines.errors import VirtrootError
from pipelines.merge import collisions, copy_plan
from pipelines.merge.baselines import Configured
from pipelines.merge.choices import Choices
from pipelines.target.payload.owners import Owners
from tests.support.moves import moved
from tests.support.surveys import GROUP, PASSWD, file, survey, system


def test_etc_is_copied_as_decided() -> None:
    base = system({"etc/a": "a", "etc/gone": "x", "etc/both": "1\n2\n3\n4\n5\n"})
    ours = system({"etc/a": "mine", "etc/both": "1!\n2\n3\n4\n5\n", "etc/passwd": PASSWD + "ann:x:1000:1000::/h:/b\n"})
    theirs = system(
        {"etc/a": "a", "etc/gone": "x", "etc/both": "1\n2\n3\n4\n5!\n", "etc/passwd": PASSWD.replace("x:101", "x:105")}
    )
    move = moved(base, ours, theirs)
    plan = copy_plan.build_copy_plan(move, base, ours, theirs)
    assert (plan["copies"], plan["removals"], plan["users"], plan["groups"]) == (
        ["etc/a"],
        ["etc/gone"],
        {"101": 105},
        {},
    )
    written = {file["path"]: base64.b64decode(file["content"]).decode() for file in plan["writes"]}
    assert written["etc/both"] == "1!\n2\n3\n4\n5!\n"
    assert written["etc/passwd"].splitlines()[1:] == ["www:x:105:101::/:/bin/false", "ann:x:1000:1000::/h:/b"]


def test_a_conflict_is_open_until_it_is_decided_by_name() -> None:
    base, ours, theirs = system({"etc/c": "a\n"}), system({"etc/c": "b\n"}), system({"etc/c": "c\n"})
    assert [each.path for each in moved(base, ours, theirs).conflicts] == ["etc/c"]
    move = moved(base, ours, theirs, Choices(take={"etc/c": "old"}))
    assert not move.has_open_decisions
    assert copy_plan.build_copy_plan(move, base, ours, theirs)["copies"] == ["etc/c"]


def test_special_files_in_etc_are_copied_and_compared() -> None:
    was, fifo = Configured("other", 0o666, 0, 0, "FIFO"), Configured("other", 0o666, 0, 0, "socket")
    base, ours = system({"etc/changed": was}), system({"etc/changed": fifo, "etc/device": was})
    move = moved(base, ours, base)
    assert copy_plan.build_copy_plan(move, base, ours, base)["copies"] == ["etc/changed", "etc/device"]
    assert {each.path: each.why for each in move.etc}["etc/changed"] == "changed in the guest: FIFO, now socket"


def test_ids_that_only_the_new_root_assigns_are_listed() -> None:
    ours = system()
    theirs = system({"etc/passwd": PASSWD + "new:x:105:105::/:/bin/false\n"})
    move = moved(system(), ours, theirs)

    def strangers(users: list[int], groups: list[int]) -> list[str]:
        owners = Owners(users=users, groups=groups, sizes={}, systems=[], flagged=[])
        return copy_plan.list_new_owners(move, ours, owners)

    assert strangers([0, 101, 4711], [0]) == []
    assert strangers([105], [105]) == ["user 105 new"]


def test_a_guest_without_account_files_is_refused() -> None:
    """That is the case if its /etc is a link, which is not followed."""
    for etc in ({}, {"etc/passwd": PASSWD}, {"etc/group": GROUP}):
        with pytest.raises(VirtrootError, match="no /etc/passwd or /etc/group, or its /etc is not a directory"):
            moved(system(), survey(etc), system())


def test_a_merged_file_has_mode_and_owner_of_the_side_that_changed_them() -> None:
    text, mine, new = "1\n2\n3\n4\n5\n", "1!\n2\n3\n4\n5\n", "1\n2\n3\n4\n5!\n"

    def written(ours: dict[str, int], theirs: dict[str, int]) -> tuple[int, int, int]:
        base, mine_now, new_now = (
            replace(system({"etc/f": file(content, **what)}), contents={**system().contents, "etc/f": content.encode()})
            for content, what in ((text, {}), (mine, ours), (new, theirs))
        )
        renumbered = PASSWD.replace("x:101:101", "x:105:105"), GROUP.replace("x:101", "x:105")
        new_now.contents.update({"etc/passwd": renumbered[0].encode(), "etc/group": renumbered[1].encode()})
        plan = copy_plan.build_copy_plan(moved(base, mine_now, new_now), base, mine_now, new_now)
        [found] = [each for each in plan["writes"] if each["path"] == "etc/f"]
        return found["mode"], found["uid"], found["gid"]

    assert written({}, {"mode": 0o600, "uid": 7}) == (0o600, 7, 0)
    assert written({"mode": 0o640, "gid": 101}, {}) == (0o640, 0, 105)
    assert written({"mode": 0o640}, {"mode": 0o600}) == (0o640, 0, 0)


def test_copied_paths_include_the_guests_own_configuration() -> None:
    ours = system({"etc/mine": "x"})
    move = moved(system(), ours, system(), Choices(keep=("var/lib/docker", "opt")))
    assert copy_plan.list_copied_paths(move) == [*collisions.ALWAYS_KEPT, "opt", "etc/mine"]


@pytest.mark.parametrize("kind", ["link", "file", "other"])
def test_unreadable_account_files_are_refused(kind: str) -> None:
    ours = system()
    hostile = replace(
        ours,
        etc={**ours.etc, "etc/passwd": Configured(kind, 0o644, 0, 0)},
        contents={path: text for path, text in ours.contents.items() if path != "etc/passwd"},
    )
    with pytest.raises(VirtrootError, match="/etc/passwd is not a valid account file"):
        moved(system(), hostile, system())

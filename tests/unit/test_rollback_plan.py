"""The plan of a rollback to the previous root, and where it differs from that of an upgrade."""

from __future__ import annotations

from dataclasses import replace

from pipelines.merge import copy_plan
from pipelines.merge.baselines import Unowned
from pipelines.merge.choices import Choices
from tests.support.moves import moved, moved_back
from tests.support.surveys import system, tree


def test_removed_files_are_removed_from_the_previous_root_and_its_own_data_needs_a_decision() -> None:
    file = Unowned("file", 0, 1)
    data = {"var/lib/db": Unowned("directory", 0), "var/lib/db/a": file}
    base = replace(system(), unowned={"srv/site": file, **data})
    ours = replace(system(), unowned=data)
    theirs = replace(system(), unowned={**base.unowned, "var/lib/db/left": file, "home/bob": tree()})
    move = moved_back(base, ours, theirs, Choices(keep=("var/lib/db",)))
    assert move.went == ("srv/site",)
    assert copy_plan.build_copy_plan(move, base, ours, theirs)["removals"] == ["srv/site"]
    assert [(each.name, each.what) for each in move.undecided] == [("var/lib/db/left", "only the previous root has it")]
    assert not moved_back(
        base, ours, theirs, Choices(keep=("var/lib/db",), discard=("var/lib/db/left",))
    ).has_open_decisions


def test_a_removed_key_does_not_come_back() -> None:
    key = {"root/.ssh": Unowned("directory", 0), "root/.ssh/authorized_keys": Unowned("file", 0, 80)}
    base = replace(system(), unowned=key)
    for make_plan in (moved, moved_back):
        assert make_plan(base, system(), base).went == ("root/.ssh",)
    # Of a tree in one entry, the files that it had are not known.
    ours = replace(system(), unowned={"root/.ssh": tree()})
    assert moved(base, ours, base).went == ()


def test_a_link_that_the_guest_changed_before_an_upgrade_is_its_own() -> None:
    """At the second upgrade its target is not recorded, since its time is older than the guest's root."""
    made = Unowned("link", 0, 2, 700, mode=0o777, gid=0, content="v1")
    mine = replace(made, content="", modified=300)
    base, ours = (replace(system(), unowned={"srv/now": each, "opt/now": each}) for each in (made, mine))
    move = moved(base, ours, base)
    assert (move.left, [each.name for each in move.undecided]) == ((), ["opt/now"])
    # Nor are targets recorded in a previous root.
    former = replace(system(), unowned={"srv/now": replace(made, content=""), "opt/now": replace(made, content="")})
    newer = replace(system(), unowned={"opt/now": replace(made, content="v2", modified=900)})
    assert [each.name for each in moved_back(former, newer, former).undecided] == ["opt/now"]
    same = replace(system(), unowned={"opt/now": replace(made, modified=900)})
    assert not moved(base, replace(same, unowned={**same.unowned, "srv/now": made}), base).has_open_decisions
    older = replace(system(), unowned={"opt/now": replace(made, mode=None, content="")})
    assert [each.name for each in moved(system(), newer, older).undecided] == ["opt/now"]


def test_data_in_the_directory_of_a_package_is_not_replaced_without_asking() -> None:
    keep = Choices(keep=("var/lib/pg",))
    theirs = replace(system(), unowned={"var/lib/pg/15": tree()})
    for ours in (replace(system(), unowned={"var/lib/pg/16": tree()}), system()):
        move = moved_back(system(), ours, theirs, keep)
        assert [(each.name, each.what) for each in move.undecided] == [
            ("var/lib/pg/15", "only the previous root has it")]  # fmt: skip
        assert moved(system(), ours, theirs, keep).replaced == ("var/lib/pg/15",)
    # A directory that the guest does not have replaces nothing.
    absent = replace(system(), unowned={"var/lib/docker": Unowned("directory", 0), "var/lib/docker/x": tree()})
    move = moved(system(), system(), absent, Choices(keep=("var/lib/docker",)))
    assert move.replaced == ()

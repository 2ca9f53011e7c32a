"""The plan of an upgrade: what is kept, taken from the new root, and needs a decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.artifact.manifest import Package
from pipelines.errors import VirtrootError
from pipelines.merge import collisions, copy_plan
from pipelines.merge.baselines import Configured, Unowned
from pipelines.merge.choices import Choices
from tests.support.moves import moved
from tests.support.surveys import system, tree

ALTERNATIVE = Configured("link", 0o777, 0, 0, "/opt/vi")


def test_data_directories_are_kept_without_asking() -> None:
    ours = replace(system(), unowned={"home/ann": tree(), "srv/www": tree(), "root/notes": Unowned("file", 0)})
    move = moved(system(), ours, system())
    assert not move.has_open_decisions
    assert move.kept == collisions.ALWAYS_KEPT
    assert (move.dropped, move.undecided) == ((), ())


def test_unowned_files_elsewhere_need_a_decision() -> None:
    ours = replace(
        system(),
        unowned={"var/lib/docker": tree(), "opt/app": tree(), "usr/local/bin/run": Unowned("file", 0, 10)},
        edited=("usr/bin/base",),
    )
    move = moved(system(), ours, system())
    assert [each.name for each in move.undecided] == [
        "opt/app", "usr/local/bin/run", "var/lib/docker", "usr/bin/base"]  # fmt: skip
    said = Choices(keep=("var/lib/docker", "usr/local"), discard=("opt", "usr/bin/base"))
    move = moved(system(), ours, system(), said)
    assert not move.has_open_decisions
    assert [each.name for each in move.dropped] == ["opt/app", "usr/bin/base"]
    assert move.kept == (*collisions.ALWAYS_KEPT, "var/lib/docker", "usr/local")
    plan = copy_plan.build_copy_plan(move, system(), ours, system())
    assert plan["foreign"] == plan["whole"] == ["var/lib/docker"]
    assert plan["trees"] == [*collisions.ALWAYS_KEPT, "usr/local"]


def test_empty_directories_of_services_are_copied_without_asking() -> None:
    empty = Unowned("tree", 33, 0, entries=2, files=0)
    ours = replace(system(), unowned={"var/lib/nginx/body": empty, "opt/app": tree()})
    move = moved(system(), ours, system())
    assert [each.name for each in move.undecided] == ["opt/app"]
    assert move.kept == collisions.ALWAYS_KEPT
    assert copy_plan.build_copy_plan(move, system(), ours, system())["empty"] == ["var/lib/nginx/body"]
    left = moved(system(), ours, system(), Choices(discard=("var/lib/nginx", "opt/app")))
    assert left.empty == ()
    assert [each.name for each in left.dropped] == ["opt/app", "var/lib/nginx/body"]
    # A directory in the place of a file needs a decision.
    was = replace(system(), unowned={"var/lib/nginx/body": Unowned("file", 0, 10)})
    assert "var/lib/nginx/body" in [each.name for each in moved(was, ours, system()).undecided]


def test_packages_that_only_the_guest_has_need_a_decision() -> None:
    ours, theirs = system(packages=("base", "jq", "tree")), system(packages=("base", "tree"))
    assert moved(system(), ours, theirs).lost == ("jq",)
    move = moved(system(), ours, theirs, Choices(discard=("jq",)))
    assert not move.has_open_decisions
    assert [change.name for change in move.packages.removed] == ["jq"]


def test_packages_are_those_that_the_guest_has_now() -> None:
    ours = replace(system(), packages=(Package(name="base", version="2"),))
    assert [(each.before, each.after) for each in moved(system(), ours, system()).packages.downgraded] == [("2", "1")]


def test_unchanged_files_are_taken_from_the_new_root() -> None:
    def page(size: int, modified: int = 1) -> Unowned:
        return Unowned("file", 0, size, modified, mode=0o644, gid=0)

    base = replace(
        system(), unowned={"srv/same": page(1), "srv/mine": page(1), "srv/both": page(1), "srv/old": page(1)}
    )
    ours = replace(base, unowned={**base.unowned, "srv/mine": page(2), "srv/both": page(2), "var/lib/db/a": page(5)})
    new = {
        "srv/same": page(3),
        "srv/both": page(3),
        "srv/mine": page(1, 7),
        "srv/new": page(3),
        "var/lib/db/b": page(6),
    }
    theirs = replace(system(), unowned=new)
    move = moved(base, ours, theirs, Choices(keep=("var/lib/db",)))
    assert move.left == ("srv/same",)
    # /srv/mine was built at another time, but is what the guest began with.
    assert move.replaced == ("srv/both", "var/lib/db/b")
    assert not move.has_open_decisions


def test_only_entries_known_to_be_unchanged_are_taken_from_the_new_root() -> None:
    """A directory does not tell its content. An older baseline has no modes and no targets of links."""
    link, directory = Unowned("link", 0, mode=0o777, gid=0, content="a"), Unowned("directory", 0, mode=0o755, gid=0)
    base = replace(system(), unowned={"srv/www": directory, "srv/app": link, "srv/old": replace(link, mode=None)})
    ours = replace(system(), unowned={**base.unowned, "srv/old": link, "srv/www/precious": Unowned("file", 0, 1)})
    new = {"srv/www": replace(link, content="/var/www"), "srv/app": directory, "srv/app/new": Unowned("file", 0, 1)}
    move = moved(base, ours, replace(system(), unowned={**new, "srv/old": replace(link, content="b")}))
    assert (move.left, move.replaced) == (("srv/app",), ("srv/old", "srv/www"))


def test_an_unchanged_tree_is_taken_from_the_new_root() -> None:
    untouched = Unowned("tree", 0, 9, entries=3000, files=3000, mode=0o755, gid=0, digest="a")
    base = replace(system(), unowned={"srv/www": untouched, "srv/old": replace(untouched, digest="")})
    move = moved(base, base, base)
    plan = copy_plan.build_copy_plan(move, base, base, base)
    assert (plan["left"], plan["untouched"]) == ([], ["srv/www"])
    ours = replace(base, unowned={"srv/www": replace(untouched, digest="b")})
    assert moved(base, ours, base).left == ()


def test_new_files_in_a_removed_directory_are_kept() -> None:
    directory, file = Unowned("directory", 0), Unowned("file", 0, 1)
    base = replace(system(), unowned={"srv/app": directory, "srv/app/a": file, "srv/app/b": file})
    theirs = replace(base, unowned={**base.unowned, "srv/app/new": file})
    assert moved(base, system(), theirs).went == ("srv/app/a", "srv/app/b")
    assert moved(base, system(), base).went == ("srv/app",)


def test_a_kept_path_below_a_link_of_the_new_root_is_refused() -> None:
    link = Unowned("link", 0, content="/srv/app")
    theirs = replace(system(), unowned={"opt/app": link})
    keep = Choices(keep=("opt/app/data",))
    with pytest.raises(VirtrootError, match="/opt/app is a link in the new root"):
        moved(system(), replace(system(), unowned={"opt/app/data": tree()}), theirs, keep)
    assert not moved(system(), system(), theirs, keep).has_open_decisions


def test_entries_that_are_equal_in_the_new_root_need_no_decision() -> None:
    link = Unowned("link", 0, mode=0o777, gid=0, content="tool.real")
    ours = replace(
        system({"etc/alternatives/vi": replace(ALTERNATIVE, to="vim")}),
        unowned={"usr/bin/tool": link, "usr/bin/vi": replace(link, content="/etc/alternatives/vi")},
    )
    assert [each.name for each in moved(system(), ours, system()).undecided] == ["usr/bin/tool"]
    assert not moved(system(), ours, replace(system(), unowned={"usr/bin/tool": link})).has_open_decisions
    # An alternative of the guest's own, and a program in the place of one.
    own = replace(ours, etc={**ours.etc, "etc/alternatives/vi": ALTERNATIVE})
    assert [each.name for each in moved(system(), own, system()).undecided] == ["usr/bin/tool", "usr/bin/vi"]
    file = replace(ours, unowned={"usr/bin/vi": Unowned("file", 0, 9, mode=0o755, gid=0)})
    assert [each.name for each in moved(ours, file, ours).undecided] == ["usr/bin/vi"]


def test_a_link_in_the_place_of_a_package_needs_a_decision_and_reverted_modes_are_listed() -> None:
    was = replace(system(), owned={"usr/bin/su": Configured("file", 0o4755, 0, 0, package="base")}, missing={})
    entry = Configured("link", 0o777, 0, 0, "/srv/db", package="base")
    ours = replace(
        was,
        owned={"var/lib/db": entry, "usr/bin/su": Configured("file", 0o750, 0, 0, package="base")},
        missing={"usr/bin/tool": "base", "var/lib/db/file": "base"},
    )
    move = moved(was, ours, was)
    assert [(each.name, each.what) for each in move.undecided] == [("var/lib/db", "leads to /srv/db")]
    assert [(each.kind, each.name, each.what) for each in move.reverted] == [
        ("changed", "usr/bin/su", "mode 4755, now 0750"),
        ("removed", "usr/bin/tool", ""),
    ]
    move = moved(was, ours, was, Choices(keep=("var/lib/db",)))
    assert copy_plan.build_copy_plan(move, was, ours, was)["whole"] == ["var/lib/db"]
    # Another version of the package may have it so.
    newer = replace(ours, packages=(Package(name="base", version="2"),))
    move = moved(was, newer, newer)
    assert ([each.name for each in move.undecided], move.reverted) == (["var/lib/db"], ())


def test_commands_to_run_after_the_upgrade_are_listed() -> None:
    ours = system({"etc/locale.gen": "de_DE", "etc/ld.so.conf.d/own.conf": "/opt/lib"})
    assert [command for command, _ in moved(system(), ours, system()).to_run] == ["locale-gen", "ldconfig"]
    kept = moved(system(), system(), system(), Choices(keep=("usr/local/lib/app",)))
    assert [command for command, _ in kept.to_run] == ["ldconfig"]
    assert moved(system(), system(), system(), Choices(keep=("usr/local/bin",))).to_run == []


def test_open_decisions_are_named() -> None:
    base, ours, theirs = system({"etc/c": "a\n"}), system({"etc/c": "b\n"}, ("base", "jq")), system({"etc/c": "c\n"})
    ours = replace(ours, unowned={f"opt/{number}": Unowned("file", 0, 1) for number in range(9)})
    with pytest.raises(VirtrootError) as refused:
        moved(base, ours, theirs).refuse_open("upgrade web")
    assert refused.value.what.startswith("11 things are for you to decide: /etc/c (changed on both sides), /opt/0, ")
    assert refused.value.what.endswith(", …")
    assert refused.value.hint.startswith("run ./inv upgrade web --preview to see all")
    moved(base, base, theirs).refuse_open("upgrade web")

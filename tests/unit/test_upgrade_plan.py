"""What a guest takes along to another root, what it leaves behind, and what it has to be asked."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from pipelines.artifact.manifest import Package
from pipelines.errors import VirtrootError
from pipelines.host import lines
from pipelines.merge import collisions, copy_plan, upgrade_plan
from pipelines.merge.baselines import Configured, Inventory, Unowned
from pipelines.merge.choices import Choices
from pipelines.merge.upgrade_plan import UpgradePlan
from pipelines.target.payload.owners import Owners
from tests.support.moves import moved
from tests.support.surveys import GROUP, PASSWD, file, survey, system, tree

ALTERNATIVE = Configured("link", 0o777, 0, 0, "/opt/vi")


def test_what_is_everybodys_own_is_kept_and_nothing_asked() -> None:
    ours = replace(system(), unowned={"home/ann": tree(), "srv/www": tree(), "root/notes": Unowned("file", 0)})
    move = moved(system(), ours, system())
    assert not move.has_open_decisions
    assert move.kept == collisions.ALWAYS_KEPT
    assert (move.dropped, move.undecided) == ((), ())


def test_what_no_package_has_elsewhere_is_asked_about() -> None:
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


def test_directories_that_services_make_for_themselves_come_along_unasked() -> None:
    empty = Unowned("tree", 33, 0, entries=2, files=0)
    ours = replace(system(), unowned={"var/lib/nginx/body": empty, "opt/app": tree()})
    move = moved(system(), ours, system())
    assert [each.name for each in move.undecided] == ["opt/app"]
    assert move.kept == collisions.ALWAYS_KEPT
    assert copy_plan.build_copy_plan(move, system(), ours, system())["empty"] == ["var/lib/nginx/body"]
    left = moved(system(), ours, system(), Choices(discard=("var/lib/nginx", "opt/app")))
    assert left.empty == ()
    assert [each.name for each in left.dropped] == ["opt/app", "var/lib/nginx/body"]
    # What took the place of something is another matter.
    was = replace(system(), unowned={"var/lib/nginx/body": Unowned("file", 0, 10)})
    assert "var/lib/nginx/body" in [each.name for each in moved(was, ours, system()).undecided]


def test_packages_that_only_the_guest_has_are_asked_about() -> None:
    ours, theirs = system(packages=("base", "jq", "tree")), system(packages=("base", "tree"))
    assert moved(system(), ours, theirs).lost == ("jq",)
    move = moved(system(), ours, theirs, Choices(discard=("jq",)))
    assert not move.has_open_decisions
    assert [change.name for change in move.packages.removed] == ["jq"]


def test_etc_is_carried_as_it_was_decided() -> None:
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


def test_conflicts_stop_and_are_decided_by_name() -> None:
    base, ours, theirs = system({"etc/c": "a\n"}), system({"etc/c": "b\n"}), system({"etc/c": "c\n"})
    assert [each.path for each in moved(base, ours, theirs).conflicts] == ["etc/c"]
    move = moved(base, ours, theirs, Choices(take={"etc/c": "old"}))
    assert not move.has_open_decisions
    assert copy_plan.build_copy_plan(move, base, ours, theirs)["copies"] == ["etc/c"]


def test_special_files_in_etc_are_carried_and_are_compared() -> None:
    was, fifo = Configured("other", 0o666, 0, 0, "FIFO"), Configured("other", 0o666, 0, 0, "socket")
    base, ours = system({"etc/changed": was}), system({"etc/changed": fifo, "etc/device": was})
    move = moved(base, ours, base)
    assert copy_plan.build_copy_plan(move, base, ours, base)["copies"] == ["etc/changed", "etc/device"]
    assert {each.path: each.why for each in move.etc}["etc/changed"] == "changed in the guest: FIFO, now socket"


def test_nobodys_files_do_not_become_somebodys() -> None:
    ours = system()
    theirs = system({"etc/passwd": PASSWD + "new:x:105:105::/:/bin/false\n"})
    move = moved(system(), ours, theirs)

    def strangers(users: list[int], groups: list[int]) -> list[str]:
        owners = Owners(users=users, groups=groups, sizes={}, systems=[], flagged=[])
        return copy_plan.list_new_owners(move, ours, owners)

    assert strangers([0, 101, 4711], [0]) == []
    assert strangers([105], [105]) == ["user 105 new"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("etc/ssh", "is below one of"),
        ("proc/1", "is below one of"),
        ("lib/systemd", "is below one of"),
        ("a/../etc", "is not a path"),
        ("", "is not a path"),
        ("var", "holds files of packages"),
        ("var/lib", "holds files of packages"),
        ("usr", "holds files of packages"),
        ("usr/lib", "holds files of packages"),
        ("var/lib/dpkg", "holds files of packages"),
        ("var/lib/pacman/local", "belongs to the package manager"),
    ],
)
def test_what_cannot_be_kept(path: str, why: str) -> None:
    with pytest.raises(VirtrootError, match=f"cannot be kept: it {why}"):
        moved(system(), system(), system(), Choices(keep=(path,)))


@pytest.mark.parametrize("path", ["usr/local", "usr/lib/app", "var/lib/docker", "var/cache/app", "opt", "library"])
def test_what_can_be_kept(path: str) -> None:
    assert path in moved(system(), system(), system(), Choices(keep=(path,))).kept


@pytest.mark.parametrize("path", ["etc/x", "", "../x"])
def test_what_cannot_be_discarded(path: str) -> None:
    with pytest.raises(VirtrootError, match="cannot be discarded"):
        moved(system(), system(), system(), Choices(discard=(path,)))


def test_what_is_discarded_now_is_remembered_no_more() -> None:
    said = Choices(keep=("opt/new",), discard=("var/lib/docker",))
    assert said.add_kept(["opt/old", "var/lib/docker", "var/lib/docker/x", "opt/new"]).keep == ("opt/old", "opt/new")


def test_a_guest_without_accounts_moves_nowhere() -> None:
    """As where its /etc is a link: that is looked into by nobody."""
    for etc in ({}, {"etc/passwd": PASSWD}, {"etc/group": GROUP}):
        with pytest.raises(VirtrootError, match="no /etc/passwd or /etc/group, or its /etc is not a directory"):
            moved(system(), survey(etc), system())


def test_rights_of_a_file_with_lines_of_both_are_of_whoever_changed_them() -> None:
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


def test_the_owners_of_the_guests_own_configuration_are_looked_at_too() -> None:
    ours = system({"etc/mine": "x"})
    move = moved(system(), ours, system(), Choices(keep=("var/lib/docker", "opt")))
    assert copy_plan.list_copied_paths(move) == [*collisions.ALWAYS_KEPT, "opt", "etc/mine"]


def test_packages_are_those_of_the_guest_now() -> None:
    ours = replace(system(), packages=(Package(name="base", version="2"),))
    assert [(each.before, each.after) for each in moved(system(), ours, system()).packages.downgraded] == [("2", "1")]


def test_what_went_since_goes_from_the_former_root_and_what_is_only_in_its_data_is_asked_about() -> None:
    file = Unowned("file", 0, 1)
    data = {"var/lib/db": Unowned("directory", 0), "var/lib/db/a": file}
    base = replace(system(), unowned={"srv/site": file, **data})
    ours = replace(system(), unowned=data)
    theirs = replace(system(), unowned={**base.unowned, "var/lib/db/left": file, "home/bob": tree()})
    move = back(base, ours, theirs, Choices(keep=("var/lib/db",)))
    assert move.went == ("srv/site",)
    assert copy_plan.build_copy_plan(move, base, ours, theirs)["removals"] == ["srv/site"]
    assert [(each.name, each.what) for each in move.undecided] == [("var/lib/db/left", "only the previous root has it")]
    assert not back(base, ours, theirs, Choices(keep=("var/lib/db",), discard=("var/lib/db/left",))).has_open_decisions


def test_a_key_that_was_taken_away_does_not_come_back() -> None:
    key = {"root/.ssh": Unowned("directory", 0), "root/.ssh/authorized_keys": Unowned("file", 0, 80)}
    base = replace(system(), unowned=key)
    for ways in (moved, back):
        assert ways(base, system(), base).went == ("root/.ssh",)
    # In what is told as one nobody knows what there was.
    ours = replace(system(), unowned={"root/.ssh": tree()})
    assert moved(base, ours, base).went == ()


def test_what_the_guest_never_changed_is_the_new_roots() -> None:
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
    # Built at another time, but what the guest began with.
    assert move.replaced == ("srv/both", "var/lib/db/b")
    assert not move.has_open_decisions


def test_only_what_certainly_is_as_it_was_is_left_to_the_new_root() -> None:
    """A directory says nothing of what is in it, and an older record nothing of modes and of where links lead."""
    link, directory = Unowned("link", 0, mode=0o777, gid=0, content="a"), Unowned("directory", 0, mode=0o755, gid=0)
    base = replace(system(), unowned={"srv/www": directory, "srv/app": link, "srv/old": replace(link, mode=None)})
    ours = replace(system(), unowned={**base.unowned, "srv/old": link, "srv/www/precious": Unowned("file", 0, 1)})
    new = {"srv/www": replace(link, content="/var/www"), "srv/app": directory, "srv/app/new": Unowned("file", 0, 1)}
    move = moved(base, ours, replace(system(), unowned={**new, "srv/old": replace(link, content="b")}))
    assert (move.left, move.replaced) == (("srv/app",), ("srv/old", "srv/www"))


def test_a_link_that_the_guest_changed_long_ago_is_its_own() -> None:
    """At its second upgrade nobody looks where it leads: its time is older than what the guest is on."""
    made = Unowned("link", 0, 2, 700, mode=0o777, gid=0, content="v1")
    mine = replace(made, content="", modified=300)
    base, ours = (replace(system(), unowned={"srv/now": each, "opt/now": each}) for each in (made, mine))
    move = moved(base, ours, base)
    assert (move.left, [each.name for each in move.undecided]) == ((), ["opt/now"])
    # Nor does anybody look into a former root.
    former = replace(system(), unowned={"srv/now": replace(made, content=""), "opt/now": replace(made, content="")})
    newer = replace(system(), unowned={"opt/now": replace(made, content="v2", modified=900)})
    assert [each.name for each in back(former, newer, former).undecided] == ["opt/now"]
    same = replace(system(), unowned={"opt/now": replace(made, modified=900)})
    assert not moved(base, replace(same, unowned={**same.unowned, "srv/now": made}), base).has_open_decisions
    older = replace(system(), unowned={"opt/now": replace(made, mode=None, content="")})
    assert [each.name for each in moved(system(), newer, older).undecided] == ["opt/now"]


def test_data_in_a_packages_directory_is_not_replaced_unasked() -> None:
    keep = Choices(keep=("var/lib/pg",))
    theirs = replace(system(), unowned={"var/lib/pg/15": tree()})
    for ours in (replace(system(), unowned={"var/lib/pg/16": tree()}), system()):
        move = back(system(), ours, theirs, keep)
        assert [(each.name, each.what) for each in move.undecided] == [
            ("var/lib/pg/15", "only the previous root has it")]  # fmt: skip
        assert moved(system(), ours, theirs, keep).replaced == ("var/lib/pg/15",)
    # What the guest does not have takes no place.
    absent = replace(system(), unowned={"var/lib/docker": Unowned("directory", 0), "var/lib/docker/x": tree()})
    move = moved(system(), system(), absent, Choices(keep=("var/lib/docker",)))
    assert move.replaced == ()


def test_a_tree_that_nobody_touched_is_the_new_roots() -> None:
    untouched = Unowned("tree", 0, 9, entries=3000, files=3000, mode=0o755, gid=0, digest="a")
    base = replace(system(), unowned={"srv/www": untouched, "srv/old": replace(untouched, digest="")})
    move = moved(base, base, base)
    plan = copy_plan.build_copy_plan(move, base, base, base)
    assert (plan["left"], plan["untouched"]) == ([], ["srv/www"])
    ours = replace(base, unowned={"srv/www": replace(untouched, digest="b")})
    assert moved(base, ours, base).left == ()


def test_what_is_new_in_a_directory_that_went_stays() -> None:
    directory, file = Unowned("directory", 0), Unowned("file", 0, 1)
    base = replace(system(), unowned={"srv/app": directory, "srv/app/a": file, "srv/app/b": file})
    theirs = replace(base, unowned={**base.unowned, "srv/app/new": file})
    assert moved(base, system(), theirs).went == ("srv/app/a", "srv/app/b")
    assert moved(base, system(), base).went == ("srv/app",)


def test_what_has_no_place_in_the_new_root_is_refused_before_anything_is_done() -> None:
    link = Unowned("link", 0, content="/srv/app")
    theirs = replace(system(), unowned={"opt/app": link})
    keep = Choices(keep=("opt/app/data",))
    with pytest.raises(VirtrootError, match="/opt/app is a link in the new root"):
        moved(system(), replace(system(), unowned={"opt/app/data": tree()}), theirs, keep)
    assert not moved(system(), system(), theirs, keep).has_open_decisions


def test_what_the_new_root_has_the_same_of_is_not_asked_about() -> None:
    link = Unowned("link", 0, mode=0o777, gid=0, content="tool.real")
    ours = replace(
        system({"etc/alternatives/vi": replace(ALTERNATIVE, to="vim")}),
        unowned={"usr/bin/tool": link, "usr/bin/vi": replace(link, content="/etc/alternatives/vi")},
    )
    assert [each.name for each in moved(system(), ours, system()).undecided] == ["usr/bin/tool"]
    assert not moved(system(), ours, replace(system(), unowned={"usr/bin/tool": link})).has_open_decisions
    # One of the guest's own, and a program in the place of one.
    own = replace(ours, etc={**ours.etc, "etc/alternatives/vi": ALTERNATIVE})
    assert [each.name for each in moved(system(), own, system()).undecided] == ["usr/bin/tool", "usr/bin/vi"]
    file = replace(ours, unowned={"usr/bin/vi": Unowned("file", 0, 9, mode=0o755, gid=0)})
    assert [each.name for each in moved(ours, file, ours).undecided] == ["usr/bin/vi"]


def test_a_link_in_a_packages_place_is_asked_about_and_rights_are_told() -> None:
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


def test_what_has_to_be_made_anew_is_said() -> None:
    ours = system({"etc/locale.gen": "de_DE", "etc/ld.so.conf.d/own.conf": "/opt/lib"})
    assert [command for command, _ in moved(system(), ours, system()).to_run] == ["locale-gen", "ldconfig"]
    kept = moved(system(), system(), system(), Choices(keep=("usr/local/lib/app",)))
    assert [command for command, _ in kept.to_run] == ["ldconfig"]
    assert moved(system(), system(), system(), Choices(keep=("usr/local/bin",))).to_run == []


def back(base: Inventory, ours: Inventory, theirs: Inventory, choices: Choices | None = None) -> UpgradePlan:
    read = (ours.contents.get, theirs.contents.get)
    return upgrade_plan.plan(base, ours, theirs, "debian", choices or Choices(), read, lines.merge, is_previous=True)


@pytest.mark.parametrize("kind", ["link", "file", "other"])
def test_accounts_that_cannot_be_read_are_not_taken_for_none(kind: str) -> None:
    ours = system()
    hostile = replace(
        ours,
        etc={**ours.etc, "etc/passwd": Configured(kind, 0o644, 0, 0)},
        contents={path: text for path, text in ours.contents.items() if path != "etc/passwd"},
    )
    with pytest.raises(VirtrootError, match="/etc/passwd is not a valid account file"):
        moved(system(), hostile, system())


def test_what_is_open_is_said_by_name() -> None:
    base, ours, theirs = system({"etc/c": "a\n"}), system({"etc/c": "b\n"}, ("base", "jq")), system({"etc/c": "c\n"})
    ours = replace(ours, unowned={f"opt/{number}": Unowned("file", 0, 1) for number in range(9)})
    with pytest.raises(VirtrootError) as refused:
        moved(base, ours, theirs).refuse_open("upgrade web")
    assert refused.value.what.startswith("11 things are for you to decide: /etc/c (changed on both sides), /opt/0, ")
    assert refused.value.what.endswith(", …")
    assert refused.value.hint.startswith("run ./inv upgrade web --preview to see all")
    moved(base, base, theirs).refuse_open("upgrade web")

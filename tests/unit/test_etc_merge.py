"""What becomes of /etc when a guest moves to another root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest

from pipelines.errors import VirtrootError
from pipelines.merge import etc_merge
from pipelines.merge.baselines import Configured, Inventory
from pipelines.merge.etc_merge import Decision
from tests.support.surveys import file, link, survey


def merged(
    base: Inventory, ours: Inventory, theirs: Inventory, **take: Literal["old", "new"]
) -> dict[str, tuple[str, str]]:
    return {each.path: (each.verdict, each.why) for each in decisions(base, ours, theirs, take)}


def decisions(
    base: Inventory, ours: Inventory, theirs: Inventory, take: Mapping[str, Literal["old", "new"]] | None = None
) -> list[Decision]:
    def together(before: bytes, mine: bytes, new: bytes) -> bytes | None:
        return None if b"conflict" in mine else mine + new

    return etc_merge.merge(base, ours, theirs, (ours.contents.get, theirs.contents.get), together, take or {})


def test_each_side_keeps_what_it_alone_changed() -> None:
    base = survey({"etc/ours": "a", "etc/theirs": "a", "etc/same": "a", "etc/none": "a"})
    ours = survey({"etc/ours": "b", "etc/theirs": "a", "etc/same": "b", "etc/none": "a", "etc/added": "x"})
    theirs = survey({"etc/ours": "a", "etc/theirs": "b", "etc/same": "b", "etc/none": "a", "etc/new": "y"})
    assert merged(base, ours, theirs) == {
        "etc/ours": ("ours", "changed in the guest: content"),
        "etc/theirs": ("theirs", "changed in the new root"),
        "etc/added": ("ours", "added in the guest"),
        "etc/new": ("theirs", "added in the new root"),
    }


def test_both_sides_lines_are_merged_and_what_cannot_be_is_a_conflict() -> None:
    base = survey({"etc/lines": "a", "etc/touch": "a", "etc/link": "a"})
    ours = survey({"etc/lines": "mine ", "etc/touch": "conflict", "etc/link": link("/x")})
    theirs = survey({"etc/lines": "new", "etc/touch": "new", "etc/link": "new"})
    found = decisions(base, ours, theirs)
    assert [(each.path, each.verdict, each.content) for each in found] == [
        ("etc/lines", "merged", b"mine new"),
        ("etc/link", "conflict", b""),
        ("etc/touch", "conflict", b""),
    ]
    assert [each.path for each in etc_merge.select_conflicts(found)] == ["etc/link", "etc/touch"]


def test_what_identifies_the_guest_stays_its_own() -> None:
    key, name = "etc/ssl/private/ssl-cert-snakeoil.key", "etc/iscsi/initiatorname.iscsi"
    none, packages, own = survey({}), survey({key: "1", name: "1"}), survey({key: "2", name: "2"})
    kept = dict.fromkeys((key, name), ("ours", "identifies the guest"))
    # RootSource at the first boot; or of a golden root that had the package's, whichever of the two roots did.
    first_boot, upgraded, downgraded = (none, own, none), (packages, own, none), (none, own, packages)
    for base, ours, theirs in (first_boot, upgraded, downgraded, (packages, packages, none)):
        assert merged(base, ours, theirs) == dict(sorted(kept.items()))
    # Both golden roots have one: it is the recipe's author's, and so is another one.
    assert merged(packages, packages, own)[key] == ("theirs", "changed in the new root")
    assert merged(packages, none, none) == {}


def test_what_is_no_text_that_is_known_is_a_conflict_and_not_guessed() -> None:
    base, ours, theirs = (replace(survey({"etc/big": text}), contents={}) for text in "abc")
    assert merged(base, ours, theirs) == {"etc/big": ("conflict", "changed on both sides")}


def test_what_a_package_in_the_guest_changed_is_not_the_users() -> None:
    base = survey({"etc/conf": "1"})
    ours = survey({"etc/conf": file("2", as_packaged=True, package="p")})
    theirs = survey({"etc/conf": file("3", as_packaged=True, package="p")})
    assert merged(base, ours, theirs) == {"etc/conf": ("theirs", "changed in the new root")}


def test_what_a_package_that_is_gone_brought_goes_and_what_the_user_made_of_it_stays() -> None:
    base = survey({})
    ours = survey(
        {
            "etc/nginx/nginx.conf": file("1", as_packaged=True, package="nginx"),
            "etc/nginx/edited.conf": file("2", package="nginx"),
            "etc/nginx/mine.conf": "mine",
            "etc/systemd/system/multi-user.target.wants/nginx.service": link("/usr/lib/x", "nginx"),
        },
        packages=("nginx",),
    )
    assert {path: verdict for path, (verdict, _) in merged(base, ours, survey({})).items()} == {
        "etc/nginx/nginx.conf": "theirs",
        "etc/nginx/edited.conf": "ours",
        "etc/nginx/mine.conf": "ours",
        "etc/systemd/system/multi-user.target.wants/nginx.service": "theirs",
    }


def test_directories_that_programs_made_on_both_sides_are_nobodys_conflict() -> None:
    made, other = Configured("directory", 0o700, 0, 0), Configured("directory", 0o755, 0, 0)
    found = merged(
        survey({}), survey({"etc/credstore": made, "etc/d": made}), survey({"etc/credstore": other, "etc/d": other})
    )
    assert {path: verdict for path, (verdict, _) in found.items()} == {"etc/credstore": "theirs", "etc/d": "conflict"}


def test_what_was_taken_away_stays_away() -> None:
    base = survey({"etc/motd": "a", "etc/old": "a", "etc/edited": "a"})
    ours = survey({"etc/old": "a", "etc/edited": "b"})
    theirs = survey({"etc/motd": "b"})
    assert merged(base, ours, theirs) == {
        "etc/motd": ("ours", "taken away in the guest"),
        "etc/old": ("theirs", "taken away in the new root"),
        "etc/edited": ("ours", "changed in the guest: content"),
    }


def test_accounts_and_what_programs_make_is_nothing_of_files() -> None:
    base = survey({})
    ours = survey(
        {"etc/passwd": "a", "etc/shadow-": "b", "etc/ld.so.cache": "c", "etc/alternatives/vi": link("/v", "vim")}
    )
    assert merged(base, ours, survey({"etc/passwd": "b"})) == {}


def test_the_user_decides_for_a_path_or_all_below_it() -> None:
    base = survey({"etc/a/b": "a", "etc/a/c": "a", "etc/ab": "a"})
    ours = survey({"etc/a/b": "conflict", "etc/a/c": "conflict", "etc/ab": "conflict"})
    theirs = survey({"etc/a/b": "t", "etc/a/c": "t", "etc/ab": "t"})
    found = {each.path: each.verdict for each in decisions(base, ours, theirs, {"etc/a": "old", "etc/a/c": "new"})}
    assert found == {"etc/a/b": "ours", "etc/a/c": "theirs", "etc/ab": "conflict"}


def test_a_decision_about_nothing_is_a_mistake() -> None:
    base = survey({"etc/a": "a"})
    with pytest.raises(VirtrootError, match="--take etc/b"):
        decisions(base, base, base, {"etc/b": "old"})


def test_what_the_guest_purged_comes_back_whole_where_the_new_root_brings_it() -> None:
    """A package without its configuration would not run."""
    packaged = file("conf", package="nginx")
    base = survey({"etc/nginx": file("", kind="directory", package="nginx"), "etc/nginx/a": packaged}, ("nginx",))
    theirs = survey({"etc/nginx": base.etc["etc/nginx"], "etc/nginx/a": file("new", package="nginx")}, ("nginx",))
    assert {verdict for verdict, _ in merged(base, survey({}), theirs).values()} == {"theirs"}
    # One that it has still, without that file, has no such file by its user's will.
    still = survey({"etc/nginx": base.etc["etc/nginx"]}, ("nginx",))
    assert merged(base, still, theirs)["etc/nginx/a"] == ("ours", "taken away in the guest")


def test_a_directory_that_the_guest_took_away_stays_where_the_new_root_has_more_in_it() -> None:
    directory = Configured("directory", 0o755, 0, 0)
    base = survey({"etc/d": directory, "etc/d/old": "x"})
    theirs = survey({"etc/d": directory, "etc/d/old": "x", "etc/d/new": "y"})
    found = merged(base, survey({}), theirs)
    assert found["etc/d"] == ("theirs", "taken away in the guest, and the new root has something else in it")
    assert found["etc/d/old"][0] == "ours"
    assert found["etc/d/new"][0] == "theirs"
    assert merged(base, survey({}), base)["etc/d"][0] == "ours"


def test_what_has_no_place_in_the_new_root_is_a_conflict() -> None:
    directory = Configured("directory", 0o755, 0, 0)
    base = survey({"etc/d": directory})
    ours, theirs = survey({"etc/d": directory, "etc/d/mine": "x"}), survey({"etc/d": "a file"})
    found = merged(base, ours, theirs)
    assert found["etc/d/mine"] == ("conflict", "/etc/d, which it is in, is a file in the new root")
    old, new = (decisions(base, ours, theirs, take) for take in ({"etc/d": "old"}, {"etc/d": "new"}))  # type: ignore[arg-type]
    assert {each.verdict for each in old} == {"ours"}
    assert {each.verdict for each in new} == {"theirs"}


def test_an_alternative_that_the_guest_chose_is_not_lost_without_a_word() -> None:
    base = survey({"etc/alternatives/editor": link("/bin/nano"), "etc/alternatives/pager": link("/bin/more")})
    ours = survey({
        "etc/alternatives/editor": link("/usr/bin/vim", "vim"),
        "etc/alternatives/java": link("/opt/jdk/bin/java"),
        "etc/alternatives/pager": link("/bin/more"),
        "etc/alternatives/vi": link("/usr/bin/vim", "vim"),
    })  # fmt: skip
    theirs = survey({"etc/alternatives/editor": link("/bin/nano"), "etc/alternatives/pager": link("/bin/less")})
    assert merged(base, ours, theirs) == {
        "etc/alternatives/editor": ("theirs", "chosen in the guest: update-alternatives chooses it again"),
        "etc/alternatives/java": ("ours", "leads to something that no package has"),
    }


def test_a_link_in_place_of_a_directory_hides_nothing_that_is_new() -> None:
    directory = Configured("directory", 0o755, 0, 0)
    base, ours = survey({"etc/d": directory, "etc/d/old": "x"}), survey({"etc/d": link("/srv/d")})
    assert merged(base, ours, base)["etc/d"][0] == "ours"
    theirs = survey({"etc/d": directory, "etc/d/old": "x", "etc/d/new": "y"})
    assert merged(base, ours, theirs)["etc/d"] == (
        "conflict", "a link in the guest, and the new root has something else in it")  # fmt: skip
    assert {each.verdict for each in decisions(base, ours, theirs, {"etc/d": "old"})} == {"ours"}


def test_what_speaks_against_a_decision_is_gathered_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each of 20,000 files takes half a minute, with the guest off."""
    gathered = []
    fit = etc_merge._fit

    def noted(*arguments: Any) -> Decision:
        gathered.append(arguments[1:3])
        return fit(*arguments)

    monkeypatch.setattr(etc_merge, "_fit", noted)
    ours = survey({f"etc/d/{number}": "x" for number in range(50)})
    assert len(merged(survey({}), ours, survey({}))) == len(gathered) == 50
    assert all(coming is gathered[0][0] and more is gathered[0][1] for coming, more in gathered)


def test_what_a_package_dropped_in_the_guest_was_not_taken_away() -> None:
    base = survey({"etc/p.d/a": file("1", package="p"), "etc/p.d/b": file("1", package="p")}, ("p",))
    ours = replace(survey({}, ("p",)), missing={"etc/p.d/b": "p"})
    assert merged(base, ours, base) == {
        "etc/p.d/a": ("theirs", "its package did not have it any more in the guest"),
        "etc/p.d/b": ("ours", "taken away in the guest"),
    }


def test_an_alternative_is_taken_as_any_other_path_is() -> None:
    base, ours = survey({"etc/alternatives/e": link("/a")}), survey({"etc/alternatives/e": link("/b")})
    [found] = decisions(base, ours, base, {"etc/alternatives/e": "old"})
    assert (found.verdict, found.why) == ("ours", "as --take says")


GUESTS_HOSTS = "127.0.0.1 localhost\n127.0.1.1 web\n::1 localhost ip6-localhost ip6-loopback\n"
NETBASES_HOSTS = "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\nff02::1\t\tip6-allnodes\n"


@pytest.mark.parametrize("base", [{}, {"etc/hosts": NETBASES_HOSTS}])
@pytest.mark.parametrize("new", [{}, {"etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"}])
def test_the_names_that_virtroot_wrote_are_kept_whatever_hosts_a_root_of_another_version_has(
    base: dict[str, str], new: dict[str, str]
) -> None:
    found = merged(survey(base), survey({"etc/hosts": GUESTS_HOSTS}), survey(new))
    assert found["etc/hosts"][0] == "ours"


def test_lines_in_hosts_that_a_recipe_brings_are_not_lost() -> None:
    new = "127.0.0.1 localhost\n10.0.0.1 db\n"
    found = merged(survey({}), survey({"etc/hosts": GUESTS_HOSTS}), survey({"etc/hosts": new}))
    assert found["etc/hosts"][0] == "conflict"

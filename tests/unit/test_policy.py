"""The table of rules for paths: what other modules rely on, and the page of the book that is written from it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

import tasks
from pipelines.errors import VirtrootError
from pipelines.guest import identity
from pipelines.guest.identity import Identity
from pipelines.merge import accounts, collisions, paths, policy
from pipelines.merge.policy import RULES, Clone, Diff, EngineData, Rule, Upgrade
from pipelines.recipe import machine_specific
from pipelines.recipe.recipe import explain_not_kept
from pipelines.target.target import Local
from tests import book

ASKED = (Upgrade.ASK, Upgrade.ASK_WHOLE, Upgrade.ASK_SYSTEM)


def test_a_path_has_one_rule() -> None:
    found = [rule.path for rule in RULES]
    assert len(found) == len({*found}) > 100


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.path)
def test_a_rule_says_why(rule: Rule) -> None:
    assert rule.reason
    assert not rule.path.startswith("/")
    assert (rule.diff is Diff.IGNORE_LINK) == bool(rule.link)
    assert (rule.diff is Diff.IGNORE_OWN_LINES) == bool(rule.own_lines)


def test_these_are_copied_at_each_upgrade() -> None:
    assert {*collisions.ALWAYS_KEPT} == {
        "home",
        "root",
        "srv",
        "var/lib/NetworkManager/secret_key",
        "var/lib/systemd/credential.secret",
        "var/lib/systemd/home",
        "var/lib/systemd/linger",
        "var/log",
        "var/mail",
        "var/spool/cron",
    }


def test_accounts_are_merged_in_an_order_in_which_names_come_first() -> None:
    assert accounts.FILES == ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")


@pytest.mark.parametrize("upgrade", Upgrade, ids=lambda upgrade: upgrade.name)
def test_keep_takes_what_an_upgrade_copies_or_asks_about_and_refuses_the_rest(upgrade: Upgrade) -> None:
    found = policy.select_by_upgrade(upgrade)
    assert found
    for path in found:
        if upgrade in (*ASKED, Upgrade.COPY):
            assert not explain_not_kept(f"{path}/below")
        elif upgrade in (Upgrade.PACKAGES, Upgrade.NEVER) or path.startswith("etc/"):
            assert explain_not_kept(path)
        assert upgrade is not Upgrade.NEVER or explain_not_kept(f"{path}/below")


def test_all_keys_and_ids_have_rules() -> None:
    rules = {rule.path: rule for rule in RULES}
    assert {path for path in rules if rules[path].clone is Clone.DELETE} == {*machine_specific.list_patterns()}
    assert {*machine_specific.WATCHED, *machine_specific.GENERATED} <= {*rules}
    assert all(paths.is_ignored(path.replace("*", "x")) for path in machine_specific.list_patterns())


def test_a_clones_identity_is_written_to_the_files_of_which_a_rule_says_so(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    identity.update(Local(), str(tmp_path), Identity("web2", UUID(int=2)))
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {rule.path for rule in RULES if rule.clone is Clone.WRITE}


def test_no_engine_has_the_whole_of_a_directory_that_holds_more_than_its_data() -> None:
    assert {*policy.select_by_engine_data(EngineData.NOWHERE)} == {"dev", "etc", "proc", "run", "sys", "tmp"}
    assert {*policy.select_by_engine_data(EngineData.BELOW)} == {"home", "root", "usr", "var/lib", "var/log", "var/run"}


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reference", "--page", "survives"]
    tasks.program.run(["inv", *command])
    assert capsys.readouterr().out == (book.DOCS / "survives.md").read_text(), f"./inv {' '.join(command)}"


def test_the_page_shows_patterns_as_a_shell_has_them() -> None:
    page = (book.DOCS / "survives.md").read_text()
    for shown in ("`/initrd.img{,.old}`", "`/usr/share/mime/*` except `packages`", "`**.pyc`", "`/etc/ssh/ssh_host_*`"):
        assert f"\n| {shown} | " in page
    assert "(" not in "".join(line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `"))


def test_a_page_that_is_not_written_from_the_code_is_refused() -> None:
    with pytest.raises(VirtrootError, match="'cheat-sheet' is not written from the code"):
        tasks.program.run(["inv", "reference", "--page", "cheat-sheet"])

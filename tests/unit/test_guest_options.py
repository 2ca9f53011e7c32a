"""Names, keys and sizes that users give."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import VirtrootError
from pipelines.guest.identity import check_hostname, read_ssh_key
from pipelines.guest.install_options import parse_options
from pipelines.pool.place import check_name
from pipelines.verify import read_junit

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUq"


@pytest.mark.parametrize("name", ["web", "web-1", "a.b_c+d", "x" * 63])
def test_good_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-web",
        ".web",
        "a/b",
        "a b",
        "a..b",
        "a[1]",
        "a,b",
        "a*",
        'a"b',
        "ä",
        "x" * 64,
        "a\n",
        "3",
        "007",
        "5d4b1d6e-6e0c-4c58-9d7e-0e6f3b1f7a11",
        "5d4b1d6e6e0c4c589d7e0e6f3b1f7a11",
        "web@1",
    ],
)
def test_bad_name(name: str) -> None:
    with pytest.raises(VirtrootError, match="invalid guest name"):
        check_name(name)


@pytest.mark.parametrize("name", ["web", "web-1", "W3"])
def test_good_hostname(name: str) -> None:
    assert check_hostname(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a.b", "a_b", "x" * 64])
def test_bad_hostname(name: str) -> None:
    with pytest.raises(VirtrootError, match="invalid host name"):
        check_hostname(name)


def test_keys_are_kept_and_comments_are_not(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# mine\n{KEY} me@here\n\n{KEY}\n")
    assert read_ssh_key(str(tmp_path / "keys")) == f"{KEY} me@here\n{KEY}\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a public ssh key"),
        ("hello", "not a public ssh key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "private key"),
    ],
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(VirtrootError, match=says):
        read_ssh_key(str(tmp_path / "keys"))


def test_sizes_on_the_command_line_follow_the_recipes_rules() -> None:
    assert parse_options("2GiB", 4, "", "").memory == 2 << 30
    assert parse_options("", 0, "", "").memory is None
    with pytest.raises(VirtrootError, match="--memory: invalid size '2 apples'"):
        parse_options("2 apples", 0, "", "")
    with pytest.raises(VirtrootError, match="--vcpus: "):
        parse_options("", -1, "", "")


def test_junit_counts_failures_errors_and_skips() -> None:
    text = """<testsuites><testsuite><testcase name="good"/><testcase name="bad"><failure/></testcase>
        <testcase name="broken"><error/></testcase><testcase name="left out"><skipped/></testcase>
        </testsuite></testsuites>"""
    assert read_junit(text) == (4, ("bad", "broken", "left out"), ())


def test_drift_is_no_failure_and_no_novel() -> None:
    told = "".join(f'<property name="drift" value="upgraded {number} &#10;{"x" * 999}"/>' for number in range(999))
    text = f'<testsuite><properties>{told}</properties><testcase name="good"/></testsuite>'
    tests, failures, drift = read_junit(text)
    assert (tests, failures, len(drift)) == (1, (), 500)
    assert drift[0].startswith("upgraded 0 ")
    assert all(len(each) <= 200 and "\n" not in each for each in drift)

"""Accounts of two roots, merged by name."""

from __future__ import annotations

import pytest

from pipelines.errors import VirtrootError
from pipelines.merge import accounts

BASE = {
    "passwd": b"root:x:0:0:root:/root:/bin/sh\nsync:x:100:100::/:/bin/false\nadmin:x:1000:1000::/home/admin:/bin/sh\n",
    "group": b"root:x:0:\nsync:x:100:\nsudo:x:27:admin\nadmin:x:1000:\n",
    "shadow": b"root:*:20000::::::\nsync:!:20000::::::\nadmin:!:20000:0:99999:7:::\n",
    "gshadow": b"root:*::\nsudo:*::admin\nadmin:!::\nsync:!::\n",
    "subuid": b"admin:100000:65536\n",
    "subgid": b"admin:100000:65536\n",
}


def changed(**files: bytes) -> dict[str, bytes]:
    return {**BASE, **files}


def lines(merged: accounts.Merged, name: str) -> list[str]:
    return merged.files[name].decode().splitlines()


def test_nothing_changed_is_nothing_merged() -> None:
    merged = accounts.merge(BASE, BASE, BASE)
    assert merged.files == BASE
    assert (merged.users, merged.groups) == ({}, {})


def test_a_local_user_keeps_number_password_and_groups() -> None:
    ours = {
        "passwd": BASE["passwd"] + b"ann:x:1001:1001:Ann:/home/ann:/bin/zsh\n",
        "group": BASE["group"].replace(b"sudo:x:27:admin", b"sudo:x:27:admin,ann") + b"ann:x:1001:\n",
        "shadow": BASE["shadow"] + b"ann:$y$hash:20100:0:99999:7:::\n",
        "gshadow": BASE["gshadow"].replace(b"sudo:*::admin", b"sudo:*::admin,ann") + b"ann:!::\n",
        "subuid": BASE["subuid"] + b"ann:165536:65536\n",
        "subgid": BASE["subgid"] + b"ann:165536:65536\n",
    }
    merged = accounts.merge(BASE, ours, BASE)
    assert merged.files == ours
    assert (merged.users, merged.groups) == ({}, {})


def test_the_new_roots_users_are_not_hidden_and_bring_their_numbers() -> None:
    theirs = changed(
        passwd=BASE["passwd"].replace(b"sync:x:100:100", b"sync:x:101:102") + b"new:x:100:100::/:/bin/false\n",
        group=BASE["group"].replace(b"sync:x:100", b"sync:x:102") + b"new:x:100:\n",
        shadow=BASE["shadow"] + b"new:!:20200::::::\n",
    )
    merged = accounts.merge(BASE, BASE, theirs)
    assert merged.files["passwd"] == theirs["passwd"]
    assert merged.files["shadow"] == theirs["shadow"]
    assert (merged.users, merged.groups) == ({100: 101}, {100: 102})


def test_a_number_that_is_taken_is_given_anew() -> None:
    ours = changed(
        passwd=BASE["passwd"] + b"redis:x:101:101::/var/lib/redis:/bin/false\nann:x:1001:1001::/home/ann:/bin/sh\n",
        group=BASE["group"] + b"redis:x:101:\nann:x:1001:\n",
    )
    theirs = changed(
        passwd=BASE["passwd"] + b"dhcp:x:101:101::/:/bin/false\nbob:x:1001:1001::/home/bob:/bin/sh\n",
        group=BASE["group"] + b"dhcp:x:101:\nbob:x:1001:\n",
    )
    merged = accounts.merge(BASE, ours, theirs)
    assert lines(merged, "passwd")[3:] == [
        "dhcp:x:101:101::/:/bin/false",
        "bob:x:1001:1001::/home/bob:/bin/sh",
        "redis:x:999:999::/var/lib/redis:/bin/false",
        "ann:x:1002:1002::/home/ann:/bin/sh",
    ]
    assert merged.users == merged.groups == {101: 999, 1001: 1002}


def test_numbers_that_changed_places() -> None:
    ours = {"passwd": b"a:x:101:101::/:/a\nb:x:102:102::/:/b\n", "group": b"a:x:101:\nb:x:102:\n"}
    theirs = {"passwd": b"a:x:102:102::/:/a\nb:x:101:101::/:/b\n", "group": b"a:x:102:\nb:x:101:\n"}
    merged = accounts.merge(ours, ours, theirs)
    assert merged.users == merged.groups == {101: 102, 102: 101}


def test_fields_are_merged_each_by_itself() -> None:
    ours = changed(
        passwd=BASE["passwd"].replace(b"admin:/bin/sh", b"admin:/bin/zsh"),
        shadow=BASE["shadow"].replace(b"root:*:20000", b"root:$y$mine:20100"),
    )
    theirs = changed(
        passwd=BASE["passwd"].replace(b"1000::/home", b"1000:The admin:/home"),
        shadow=BASE["shadow"].replace(b"root:*:20000", b"root:!:20200"),
    )
    merged = accounts.merge(BASE, ours, theirs)
    assert "admin:x:1000:1000:The admin:/home/admin:/bin/zsh" in lines(merged, "passwd")
    assert lines(merged, "shadow")[0] == "root:$y$mine:20100::::::"


def test_who_was_taken_out_stays_out_and_who_the_new_root_lost_stays_in() -> None:
    ours = changed(
        passwd=BASE["passwd"].replace(b"admin:x:1000:1000::/home/admin:/bin/sh\n", b""),
        group=BASE["group"].replace(b"27:admin", b"27:").replace(b"admin:x:1000:\n", b""),
        shadow=BASE["shadow"].replace(b"admin:!:20000:0:99999:7:::\n", b""),
    )
    theirs = changed(
        passwd=BASE["passwd"].replace(b"sync:x:100:100::/:/bin/false\n", b""),
        group=BASE["group"].replace(b"sync:x:100:\n", b""),
    )
    merged = accounts.merge(BASE, ours, theirs)
    assert [line.split(":")[0] for line in lines(merged, "passwd")] == ["root", "sync"]
    assert "sudo:x:27:" in lines(merged, "group")
    assert not [line for line in lines(merged, "shadow") if line.startswith("admin")]


def test_two_names_of_one_number_stay_one() -> None:
    ours = {"passwd": b"a:x:101:101::/:/a\nb:x:101:101::/:/b\n", "group": b"a:x:101:\n"}
    theirs = {"passwd": b"c:x:101:101::/:/c\n", "group": b"c:x:101:\n"}
    merged = accounts.merge({}, ours, theirs)
    numbers = {line.split(":")[0]: line.split(":")[2] for line in lines(merged, "passwd")}
    assert numbers == {"c": "101", "a": "999", "b": "999"}
    assert merged.users == {101: 999}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("passwd", b"root:x:0\n"),
        ("passwd", b"root:x:zero:0:::\n"),
        ("passwd", b"\xff:x:1:1:::\n"),
        ("group", b"a:x:-1:\n"),
        ("group", b"a:x:1:\0\n"),
        ("passwd", b"u:x:1:1:::\n" * 1_000_000),
    ],
)
def test_what_is_no_account_file_is_refused_by_name(name: str, text: bytes) -> None:
    with pytest.raises(VirtrootError, match=f"/etc/{name} of the guest"):
        accounts.merge(BASE, changed(**{name: text}), BASE)


@pytest.mark.parametrize("number", ["9" * 5000, "4294967295", "-1", "1e3", "\u0661", ""])
def test_numbers_that_are_none_are_no_account(number: str) -> None:
    wrong = changed(passwd=BASE["passwd"] + f"x:x:{number}:1::/:/bin/sh\n".encode())
    with pytest.raises(VirtrootError, match="/etc/passwd of the guest is not a valid account file"):
        accounts.merge(BASE, wrong, BASE)


def test_another_name_of_roots_stays_root() -> None:
    ours = changed(passwd=BASE["passwd"] + b"toor:x:0:0::/root:/bin/zsh\n")
    merged = accounts.merge(BASE, ours, BASE)
    assert lines(merged, "passwd")[-1] == "toor:x:0:0::/root:/bin/zsh"
    assert (merged.users, merged.groups) == ({}, {})


def test_a_user_stays_in_the_group_that_somebody_put_it_in() -> None:
    ours = changed(passwd=BASE["passwd"].replace(b"sync:x:100:100", b"sync:x:100:27"))
    theirs = changed(group=BASE["group"].replace(b"sudo:x:27", b"sudo:x:28"))
    assert "sync:x:100:28::/:/bin/false" in lines(accounts.merge(BASE, ours, theirs), "passwd")
    assert "sync:x:100:100::/:/bin/false" in lines(accounts.merge(BASE, BASE, theirs), "passwd")


def test_nobody_gets_subordinate_numbers_of_another_users() -> None:
    ours = changed(
        passwd=BASE["passwd"] + b"ann:x:1001:1001::/home/ann:/bin/sh\n", group=BASE["group"] + b"ann:x:1001:\n",
        subuid=b"admin:100000:65536\nann:165536:65536\n",
    )  # fmt: skip
    theirs = changed(
        passwd=BASE["passwd"] + b"new:x:1001:1001::/home/new:/bin/sh\n", group=BASE["group"] + b"new:x:1001:\n",
        subuid=b"admin:100000:65536\nnew:165536:65536\nnew:1:x\n",
    )  # fmt: skip
    # What the new root has for a name that the guest has too does not matter: its files are owned by these.
    moved = {**theirs, "subuid": b"new:100000:65536\nadmin:165536:65536\n"}
    assert lines(accounts.merge(BASE, BASE, moved), "subuid") == ["admin:100000:65536", "new:165536:65536"]
    assert lines(accounts.merge(BASE, ours, theirs), "subuid") == [
        "admin:100000:65536",
        "ann:165536:65536",
        "new:231072:65536",
        "new:1:x",
    ]


def test_the_users_of_packages_are_there_again_with_them() -> None:
    """A package that the guest purged, and that the new root has, would not run without its user."""
    gone = {
        name: b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"sync:"))
        for name, text in BASE.items()
    }
    merged = accounts.merge(BASE, gone, BASE)
    assert all(any(line.startswith("sync:") for line in lines(merged, name)) for name in ("passwd", "group", "shadow"))
    # People are another matter.
    without = {name: text.replace(b"admin:", b"# ") for name, text in BASE.items()}
    assert not [line for line in lines(accounts.merge(BASE, without, BASE), "passwd") if "admin" in line]


def test_numbers_of_containers_stay_and_a_persons_own_follows_its_name() -> None:
    base = {"passwd": b"root:x:0:0::/:/b\nweb:x:101:0::/:/b\nodd:x:100005:0::/:/b\n", "group": b"root:x:0:\n"}
    ours = {**base, "subuid": b"ann:100000:65536\nroot:101:1\n"}
    theirs = {**base, "passwd": b"root:x:0:0::/:/b\nweb:x:103:0::/:/b\nodd:x:104:0::/:/b\n"}
    assert accounts.merge(base, ours, theirs).users == {101: 103}
    assert accounts.merge(base, base, theirs).users == {101: 103, 100005: 104}

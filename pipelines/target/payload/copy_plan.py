"""What is copied from one root to another; see `tree_copy.copy_state`."""

from __future__ import annotations

from typing import Literal, TypedDict


class File(TypedDict):
    """A file that is written: ``content`` is in base64.

    It gets the ACLs and other attributes of the file of that path in the ``old`` or in the ``new`` root.
    """

    path: str
    mode: int
    uid: int
    gid: int
    content: str
    attributes: Literal["old", "new"]


class CopyPlan(TypedDict):
    """What is copied; see `tree_copy.copy_state`. Numbers are the keys of JSON objects, so they are texts."""

    removals: list[str]
    copies: list[str]
    trees: list[str]
    left: list[str]
    untouched: list[str]
    whole: list[str]
    foreign: list[str]
    empty: list[str]
    writes: list[File]
    selections: dict[str, str]
    users: dict[str, int]
    groups: dict[str, int]

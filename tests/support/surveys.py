"""Surveys of roots that do not exist."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pipelines.artifact.manifest import Package
from pipelines.merge.baselines import Configured, Inventory, Unowned

PASSWD = "root:x:0:0::/root:/bin/sh\nwww:x:101:101::/:/bin/false\n"
GROUP = "root:x:0:\nwww:x:101:\n"


def file(text: str, **what: object) -> Configured:
    told = {"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "content": hashlib.sha256(text.encode()).hexdigest()}
    return Configured(**{**told, "size": len(text), **what})  # type: ignore[arg-type]


def link(to: str, package: str = "") -> Configured:
    return Configured("link", 0o777, 0, 0, content=to, to=package)


def survey(etc: Mapping[str, Configured | str], packages: tuple[str, ...] = ()) -> Inventory:
    entries = {path: file(each) if isinstance(each, str) else each for path, each in etc.items()}
    contents = {path: each.encode() for path, each in etc.items() if isinstance(each, str)}
    return Inventory(tuple(Package(name=name, version="1") for name in packages), entries, {}, (), contents)


def system(etc: Mapping[str, Configured | str] | None = None, packages: tuple[str, ...] = ("base",)) -> Inventory:
    return survey({"etc/passwd": PASSWD, "etc/group": GROUP, **(etc or {})}, packages)


def tree(entries: int = 3, size: int = 4096) -> Unowned:
    return Unowned("tree", 0, size, entries=entries, files=entries)

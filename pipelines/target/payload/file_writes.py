"""Writes files of a copy plan into a root: new content, and what is selected in dpkg's database."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from typing import cast

from . import beneath
from .attributes import expected_attributes
from .copy_plan import File
from .errors import Refused

#: The database of dpkg, the fields that are read, and its size limit in bytes.
_STATUS = "var/lib/dpkg/status"
_FIELD = re.compile(rb"^(Package|Architecture|Multi-Arch): (.*)$", re.MULTILINE)
_WANTED = re.compile(rb"^Status: \S+ ", re.MULTILINE)
_LARGEST_STATUS = 64 << 20


def write(old: int, new: int, file: File, users: Mapping[int, int], groups: Mapping[int, int]) -> None:
    """Write ``file`` into the root ``new``, in one step, with the attributes of a file in ``old`` or in ``new``."""
    path = file["path"]
    parent, name = beneath.split(path)
    attributes: dict[str, bytes] = {}
    with (
        contextlib.suppress(FileNotFoundError, Refused),
        beneath.directory(old if file["attributes"] == "old" else new, parent) as handle,
    ):
        if (there := beneath.status(handle, name)) is not None and stat.S_ISREG(there.st_mode):
            numbers = (users, groups) if file["attributes"] == "old" else ({}, {})
            attributes = expected_attributes(handle, name, there, *numbers)
    with beneath.directory(new, parent, create=True) as handle:
        there = beneath.status(handle, name)
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise Refused(f"{path}: is a directory in the new root")
        partial = f".virtroot-{secrets.token_hex(8)}"
        made = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=handle)
        with os.fdopen(made, "wb") as opened:
            opened.write(base64.b64decode(file["content"]))
            os.fchown(opened.fileno(), file["uid"], file["gid"])
            for attribute, value in attributes.items():
                os.setxattr(opened.fileno(), attribute, value)
            os.fchmod(opened.fileno(), file["mode"])
        os.rename(partial, name, src_dir_fd=handle, dst_dir_fd=handle)


def select(root: int, selections: Mapping[str, str]) -> None:
    """Set the selections of packages in dpkg's database. Packages of a foreign architecture are named with it."""
    parent, name = beneath.split(_STATUS)
    with (
        beneath.directory(root, parent) as handle,
        os.fdopen(beneath.open_regular(handle, name, _LARGEST_STATUS, links=False), "rb") as opened,
    ):
        status = os.fstat(opened.fileno())
        paragraphs = opened.read(_LARGEST_STATUS).split(b"\n\n")
    fields = [dict(_FIELD.findall(paragraph)) for paragraph in paragraphs]
    native = next((each.get(b"Architecture") for each in fields if each.get(b"Package") == b"dpkg"), None)
    for index, each in enumerate(fields):
        package, architecture = each.get(b"Package", b""), each.get(b"Architecture", b"")
        is_foreign = native and architecture not in (native, b"all", b"")
        is_several = is_foreign and each.get(b"Multi-Arch", b"same") == b"same"
        wanted = selections.get(os.fsdecode(package + b":" + architecture if is_several else package))
        if wanted:
            paragraphs[index] = _WANTED.sub(b"Status: %s " % wanted.encode(), paragraphs[index], count=1)
    content = base64.b64encode(b"\n\n".join(paragraphs)).decode()
    rights = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid}
    write(root, root, cast("File", {"path": _STATUS, "content": content, "attributes": "new", **rights}), {}, {})

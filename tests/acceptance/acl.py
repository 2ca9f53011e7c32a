"""Whether an ACL decides in a guest: a script for the guest, and what it finds."""

from __future__ import annotations

from pathlib import Path

SCRIPT = Path(__file__).with_name("acl.sh").read_text(encoding="utf-8")

#: What the script says where the ACL decides.
DECIDES = "user in, group out"

#: What it begins with where nothing in the guest can set an ACL.
CANNOT_TELL = "cannot tell: "

"""systemd units that mount overlay roots when their host boots; see systemd.mount(5).

Tasks and libvirt's hook mount a root that is not mounted. That is not enough for guests that libvirt starts at boot:
no task runs then, and libvirt's AppArmor profile does not allow the hook to mount. On a host without systemd, like the
embedded hypervisor, there are no units, and tasks and hook mount the roots.
"""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.log import warn
from pipelines.target import durable
from pipelines.target.payload import layers
from pipelines.target.target import Target
from pipelines.text import trim

#: Where administrators' own units are.
_UNITS = "/etc/systemd/system"

# The conditions prevent systemd from creating a missing mount point.
_UNIT = """# Written by virtroot for a guest's root, and removed with the guest.
[Unit]
Description=Root of a virtroot guest, a layer on a base tree
ConditionPathIsDirectory={root}/upper
ConditionPathIsDirectory={lower}
Before=libvirtd.service virtqemud.service libvirt-guests.service

[Mount]
What=virtroot
Where={root}
Type=overlay
Options=nosuid,nodev,{options}

[Install]
WantedBy=multi-user.target
"""

# Prints nothing if systemd is not running.
_NAME_UNIT = '[ ! -d /run/systemd/system ] || systemd-escape --path --suffix=mount "$1"'

_ENABLE = 'systemctl daemon-reload && systemctl --quiet enable "$1"'

_MISSING = """
[ -d /run/systemd/system ] || exit 1
unit=$(systemd-escape --path --suffix=mount "$1")
[ ! -e "$2/$unit" ]
"""

_DISABLE = """
command -v systemd-escape > /dev/null || exit 0
unit=$(systemd-escape --path --suffix=mount "$1")
rm -f -- "$2/$unit" "$2"/*.wants/"$unit"
[ ! -d /run/systemd/system ] || systemctl daemon-reload
"""


def render_unit(root: str, golden: str) -> str:
    """Return the unit that mounts the layers of ``root`` over the base tree in the directory ``golden``."""
    lower = f"{golden}/{layers.TREE}"
    filled = {"root": root, "lower": lower, "options": layers.options(root, lower)}
    return _UNIT.format(**{name: text.replace("%", "%%") for name, text in filled.items()})


def enable(target: Target, root: str, golden: str) -> None:
    """Make systemd mount the layers of ``root`` at boot, if systemd is running."""
    try:
        unit = trim(target.run(["sh", "-ec", _NAME_UNIT, "name", root]).text)
        if unit:
            durable.put(target, f"{_UNITS}/{unit}", render_unit(root, golden).encode(), 0o644)
            target.run(["sh", "-ec", _ENABLE, "enable", unit])
    except VirtrootError as error:
        warn(f"systemd will not mount {root} at boot, only ./inv start will: {error.detail or error.what}")


def ensure_enabled(target: Target, root: str, golden: str) -> None:
    """Enable the mount unit of ``root`` if it is missing because a task was killed before it enabled it."""
    argv = ["sh", "-ec", _MISSING, "missing", root, _UNITS]
    if target.run(argv, check=False).returncode == 0:
        enable(target, root, golden)


def disable(target: Target, root: str) -> None:
    """Delete the mount unit of ``root``; nothing is unmounted."""
    target.run(["sh", "-ec", _DISABLE, "disable", root, _UNITS])

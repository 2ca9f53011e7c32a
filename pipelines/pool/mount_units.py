"""Units of systemd that mount roots of two layers when their host boots; see systemd.mount(5).

libvirt's hook and every task mount what is missing. But AppArmor's profile of libvirt lets no hook mount anything, and
a guest that libvirt starts at boot asks no task. Without systemd, as in the embedded hypervisor, it is left to them.
"""

from __future__ import annotations

from pipelines.log import warn
from pipelines.target.payload import layers
from pipelines.target.target import Target

#: Where the host's own units are.
_UNITS = "/etc/systemd/system"

# A condition, since systemd would make a mount point that is missing.
_UNIT = """# Written by virtroot for a guest's root, and removed with the guest.
[Unit]
Description=Root of a virtroot guest, a layer on a golden tree
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

_ENABLE = """
[ -d /run/systemd/system ] || exit 0
unit=$(systemd-escape --path --suffix=mount "$1")
cat > "$2/.$unit.virtroot"
chmod 0644 "$2/.$unit.virtroot"
sync "$2/.$unit.virtroot"
mv -T "$2/.$unit.virtroot" "$2/$unit"
sync "$2"
systemctl daemon-reload
systemctl --quiet enable "$unit"
"""

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


def unit(root: str, golden: str) -> str:
    """Return the unit that mounts the layers of ``root`` over the golden tree in the directory ``golden``."""
    lower = f"{golden}/{layers.TREE}"
    filled = {"root": root, "lower": lower, "options": layers.options(root, lower)}
    return _UNIT.format(**{name: text.replace("%", "%%") for name, text in filled.items()})


def enable(target: Target, root: str, golden: str) -> None:
    """Let systemd mount the layers of ``root`` at boot, where systemd runs."""
    argv = ["sh", "-ec", _ENABLE, "enable", root, _UNITS]
    done = target.run(argv, stdin=unit(root, golden).encode(), check=False)
    if done.returncode:
        warn(f"systemd will not mount {root} at boot, ./inv start does: {done.complaint}")


def ensure(target: Target, root: str, golden: str) -> None:
    """The same where it is not so, because who changed it was killed."""
    argv = ["sh", "-ec", _MISSING, "missing", root, _UNITS]
    if target.run(argv, check=False).returncode == 0:
        enable(target, root, golden)


def disable(target: Target, root: str) -> None:
    """Take that back; nothing is unmounted."""
    target.run(["sh", "-ec", _DISABLE, "disable", root, _UNITS])

"""What maintainer scripts find in the root while it is made, and what is taken away again at the end.

Many ask for the machine's name and write it into their configuration. The name is always the same one, so that builds
on different machines give the same bytes and `install` can replace it by the guest's. There is no resolver on purpose:
scripts would copy the domain of the machine that builds.
"""

from __future__ import annotations

from pipelines.recipe.stage import Command

#: The host name of every builder; unusual, so that wherever it is found, it is a name to be replaced.
BUILD_NAME = "virtroot-build"

#: What /etc/hosts is lent where nothing brought one; for the %b of printf.
_HOSTS = r"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"

# Scripts see by the directories in /proc/sys/net which protocols there are; a builder may not mount /proc in the root.
_LEND = """
mkdir -p /proc/sys/net/ipv4 /proc/sys/net/ipv6
[ -e /etc/hosts ] || printf '%b' "$2" > /etc/hosts
printf '%s\\n' "$1" > /etc/hostname
printf '127.0.1.1 %s.localdomain %s\\n' "$1" "$1" >> /etc/hosts
"""

# What others wrote in their place meanwhile is theirs.
_TAKE_BACK = """
rm -rf /proc/sys
if [ -f /etc/hostname ] && [ "$(cat /etc/hostname)" = "$1" ]; then rm /etc/hostname; fi
if [ -f /etc/hosts ] && [ ! -L /etc/hosts ]; then
    sed -i "/^127\\.0\\.1\\.1 $1\\.localdomain $1\\$/d" /etc/hosts
    if [ "$(cat /etc/hosts)" = "$(printf '%b' "$2")" ]; then rm /etc/hosts; fi
fi
"""


def lend() -> Command:
    """Return the command that gives the root a host name and what scripts need of a /proc."""
    return Command(("sh", "-ec", _LEND, "lend-name", BUILD_NAME, _HOSTS), chroot=True)


def take_back() -> Command:
    """Return the command that takes it away again."""
    return Command(("sh", "-ec", _TAKE_BACK, "take-back-name", BUILD_NAME, _HOSTS), chroot=True)

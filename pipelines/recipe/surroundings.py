"""Files that maintainer scripts need in the root during a build, and their removal at the end.

Many scripts write the machine's name into their configuration. The name is the same in all builds, so that builds on
different machines give the same bytes and `install` can replace it by the guest's. There is no resolver: scripts would
copy the domain of the machine that builds.
"""

from __future__ import annotations

from pipelines.recipe.stage import Command

#: The host name in every build. It is unusual, so that every occurrence of it is a name to replace.
BUILD_NAME = "virtroot-build"

#: The content of /etc/hosts during the build if no package brought the file; for the %b of printf.
_HOSTS = r"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"

# Scripts look at the directories in /proc/sys/net for the protocols of the kernel. A builder may not mount /proc in the
# root.
_SET_UP = """
mkdir -p /proc/sys/net/ipv4 /proc/sys/net/ipv6
[ -e /etc/hosts ] || printf '%b' "$2" > /etc/hosts
printf '%s\\n' "$1" > /etc/hostname
printf '127.0.1.1 %s.localdomain %s\\n' "$1" "$1" >> /etc/hosts
"""

# Files that something else has changed meanwhile stay.
_TEAR_DOWN = """
rm -rf /proc/sys
if [ -f /etc/hostname ] && [ "$(cat /etc/hostname)" = "$1" ]; then rm /etc/hostname; fi
if [ -f /etc/hosts ] && [ ! -L /etc/hosts ]; then
    sed -i "/^127\\.0\\.1\\.1 $1\\.localdomain $1\\$/d" /etc/hosts
    if [ "$(cat /etc/hosts)" = "$(printf '%b' "$2")" ]; then rm /etc/hosts; fi
fi
"""


def set_up() -> Command:
    """Return the command that gives the root a host name, /etc/hosts, and directories in /proc."""
    return Command(("sh", "-ec", _SET_UP, "lend-name", BUILD_NAME, _HOSTS), chroot=True)


def tear_down() -> Command:
    """Return the command that removes what `set_up` created."""
    return Command(("sh", "-ec", _TEAR_DOWN, "take-back-name", BUILD_NAME, _HOSTS), chroot=True)

"""Signs of a system's former environment (a cloud, a container, a build, …), and what the import does about each.

`pipelines.target.payload.signs` finds the signs in a root. Patterns are Python's; the verbs of `import-root` take
extended regular expressions of POSIX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.text import trim

#: For each sign found, the paths, each with the texts that match the sign's pattern.
Shown = Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]


@dataclass(frozen=True)
class Sign:
    """A sign, how to find it (see `pipelines.target.payload.signs.find`), and what the import does about it.

    ``said`` is the message for the user, in which ``{paths}``, ``{names}`` and ``{found}`` are replaced by the paths,
    their last components and the matching texts. ``verb`` is a verb of `import-root`, called with ``arguments`` and the
    paths. Without a verb ``said`` is a warning; if that is empty, the sign is only a fact for other rules. ``remedy``
    is the doctor's advice for an installed guest with the sign; without it, the doctor ignores the sign.
    """

    name: str
    origin: str
    paths: tuple[str, ...] = ()
    said: str = ""
    verb: str = ""
    arguments: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    pattern: str = ""
    masked: bool = False
    inert: bool = False
    unless: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def query(self) -> dict[str, Any]:
        """The data to find the sign."""
        return {
            "paths": self.paths, "units": self.units, "pattern": self.pattern, "masked": self.masked,
            "inert": self.inert, "unless": self.unless,
        }  # fmt: skip


_APT = ("etc/apt/apt.conf", "etc/apt/apt.conf.d/*")
_DPKG = ("etc/dpkg/dpkg.cfg", "etc/dpkg/dpkg.cfg.d/*")
_SHELLS = ("etc/environment", "etc/environment.d/*.conf", "etc/profile.d/*.sh")
_INITRAMFS_TOOLS = ("etc/initramfs-tools/initramfs.conf", "etc/initramfs-tools/conf.d/*")
_NETWORKD, _NETPLAN = "etc/systemd/network/*.network", "etc/netplan/*.y*ml"
_INTERFACES = ("etc/network/interfaces", "etc/network/interfaces.d/*")
_KEYFILES = "etc/NetworkManager/system-connections/*"

#: Addresses of the machine that a build ran on, as a pattern for Python and for sed.
_BUILD_HOST = (
    r"(?:https?://)?(?:localhost|127\.|\[::1\]|172\.17\.0\.1\b|10\.0\.2\.2\b|host\.(?:docker|containers)\.internal)"
)
_BUILD_HOST_SED = _BUILD_HOST.replace("(?:", "(").replace(r"\b", "")

#: A container's id, which a container engine writes to /etc/hosts as a name.
CONTAINER_ID = r"[0-9a-f]{12}"

_CLOUD = (
    Sign(
        "cloud-init",
        "cloud",
        paths=("usr/bin/cloud-init", "usr/local/bin/cloud-init"),
        unless=("etc/cloud/cloud-init.disabled",),
        said="cloud-init is disabled by etc/cloud/cloud-init.disabled: a boot would wait for the data of a cloud",
        verb="touch",
        arguments=("etc/cloud/cloud-init.disabled",),
        remedy="if no seed is given to it: touch /etc/cloud/cloud-init.disabled in the guest",
    ),
    Sign(
        "cloud-agents",
        "cloud",
        units=(
            "walinuxagent.service", "waagent.service", "walinuxagent-network-setup.service",
            "google-guest-agent.service", "google-guest-agent-manager.service", "google-guest-compat-manager.service",
            "google-osconfig-agent.service", "google-startup-scripts.service", "google-shutdown-scripts.service",
            "google-oslogin-cache.timer", "gce-workload-cert-refresh.timer", "amazon-ssm-agent.service",
            "snap.amazon-ssm-agent.amazon-ssm-agent.service", "hibinit-agent.service", "ec2-net-utils.service",
            "droplet-agent.service", "do-agent.service", "oracle-cloud-agent.service", "aliyun.service",
            "aliyun-service.service", "cloudmonitor.service", "afterburn.service", "afterburn-checkin.service",
            "afterburn-firstboot-checkin.service", "afterburn-sshkeys@core.service", "coreos-metadata.service",
            "ignition-firstboot-complete.service", "ignition-delete-config.service", "cloud-config-url.service",
            "cloudbase-init.service",
        ),
        said="agents of a cloud are masked: {names}",
        verb="mask",
        remedy="if the guest is not in that cloud: systemctl mask it in the guest",
    ),
)  # fmt: skip

_CONTAINER = (
    Sign(
        "container-marks",
        "container",
        paths=(".dockerenv", ".dockerinit", ".containerenv", "run/.containerenv"),
        said="{paths} of a container engine is removed: systemd would take the guest for a container",
        verb="remove",
        remedy="remove it in the guest: programs take the guest for a container",
    ),
    Sign(
        "container-variable",
        "container",
        paths=(*_SHELLS, "etc/profile", "etc/systemd/system.conf", "etc/systemd/system.conf.d/*.conf"),
        pattern=r"^[ \t]*(?:export[ \t]+|DefaultEnvironment=.*)?[\"']?container=\S*",
        said="the variable container in {paths} is a comment now: programs would take the guest for a container",
        verb="comment",
        arguments=("#", "[[:space:]]*(export[[:space:]]+|DefaultEnvironment=.*)?[\"']?container="),
        remedy="remove the line with container= in the guest",
    ),
    Sign(
        "container-hosts",
        "container",
        paths=("etc/hosts",),
        pattern=(
            rf"\A[ \t]*\Z|^[0-9a-fA-F.:]+[ \t]+(?:\S+[ \t]+)?{CONTAINER_ID}[ \t]*$"
            r"|\s(?:host|gateway)\.(?:docker|containers)\.internal\b"
        ),
        said="etc/hosts, as a container engine left it, loses the engine's lines and names localhost",
        verb="hosts",
    ),
    Sign(
        "container-resolver",
        "container",
        paths=("etc/resolv.conf",),
        pattern=(
            r"\A[ \t]*\Z|[Gg]enerated by (?:Docker|Podman|podman|LXC|lxc)|^nameserver[ \t]+127\.0\.0\.11\b"
            r"|^search[ \t]+dns\.podman\b"
        ),
    ),
    Sign(
        "container-masks",
        "container",
        paths=tuple(
            f"etc/systemd/system/{unit}"
            for unit in (
                "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
                "systemd-udev-trigger.service", "systemd-remount-fs.service", "systemd-logind.service",
                "systemd-modules-load.service", "systemd-tmpfiles-setup-dev.service", "systemd-journald.service",
                "dbus.service", "getty@.service", "serial-getty@.service", "getty.target", "local-fs.target",
                "basic.target", "sockets.target",
            )
        ),
        masked=True,
        said="{names} was masked, as in a container, and is not any more",
        verb="remove",
    ),
)  # fmt: skip

_BUILD = (
    Sign(
        "policy",
        "build environment",
        paths=("usr/sbin/policy-rc.d",),
        pattern=r"^[ \t]*exit[ \t]+101\b",
        said="{paths}, which keeps packages from starting their services, is put aside",
        verb="aside",
        remedy="remove it in the guest: no package that is installed starts its service",
    ),
    Sign(
        "diversions",
        "build environment",
        paths=("var/lib/dpkg/diversions",),
        pattern=(
            r"^(/\S*/(?:start-stop-daemon|initctl|invoke-rc\.d|deb-systemd-(?:invoke|helper)|systemctl|service"
            r"|update-initramfs|mkinitramfs|update-grub|ldconfig))\n\S+\n:$"
        ),
        said="{found}: the program that a build environment put in its place is removed",
        remedy="remove its placeholder, then: dpkg-divert --local --rename --remove PATH in the guest",
    ),
    Sign(
        "docker-apt",
        "build environment",
        paths=("etc/apt/apt.conf.d/docker-*", "etc/dpkg/dpkg.cfg.d/docker*"),
        said="{paths}, which makes packages smaller for container images, is put aside",
        verb="aside",
    ),
    Sign(
        "unsafe-io",
        "build environment",
        paths=_DPKG,
        pattern=r"^[ \t]*force-unsafe-io\b",
        said="force-unsafe-io in {paths} is a comment now: a crash would leave half-written packages",
        verb="comment",
        arguments=("#", "[[:space:]]*force-unsafe-io"),
    ),
    Sign(
        "excludes",
        "build environment",
        paths=(*_DPKG, "etc/pacman.conf"),
        pattern=r"^[ \t]*(?:path-exclude|NoExtract)[ \t]*=?[ \t]*(\S.*)$",
        said="{paths} keeps files out of packages that are installed: {found}",
    ),
    Sign(
        "apt-proxy",
        "build environment",
        paths=_APT,
        pattern=rf'^[^{{}}\n/#]*\bProxy(?:-Auto-Detect)?(?:::\S{{1,100}})?[ \t]+"({_BUILD_HOST}[^"\n]*)',
        said="the proxy {found} in {paths} was on the machine of the build, and is a comment now",
        verb="comment",
        arguments=("//", rf'[^{{}}/#]*Proxy(-Auto-Detect)?(::[^[:space:]]+)?[[:space:]]+"{_BUILD_HOST_SED}'),
        remedy="remove the line in the guest: apt reaches no mirror",
    ),
    Sign(
        "apt-proxy-elsewhere",
        "build environment",
        paths=_APT,
        pattern=(
            rf'^[^\n/#]*\bProxy(?:-Auto-Detect)?(?:::\S{{1,100}})?[ \t]+"((?!DIRECT|{_BUILD_HOST})[^"\n]+)'
            rf'|^[^\n/#]*\{{[^\n]*\bProxy\S{{0,100}}[ \t]+"({_BUILD_HOST}[^"\n]*)'
        ),
        said="apt in the guest asks the proxy {found}, by {paths}: see whether the guest reaches it",
    ),
    Sign(
        "proxy-variable",
        "build environment",
        paths=(*_SHELLS, "etc/wgetrc", "etc/pip.conf"),
        pattern=rf"^[ \t]*(?:export[ \t]+)?(?i:[a-z]*_?proxy)[ \t]*=[ \t]*[\"']?({_BUILD_HOST}[^\"'\n]*)",
        said="the proxy {found} in {paths} was on the machine of the build, and is a comment now",
        verb="comment",
        arguments=(
            "#",
            (
                r"[[:space:]]*(export[[:space:]]+)?[A-Za-z]*_?[Pp][Rr][Oo][Xx][Yy][[:space:]]*=[[:space:]]*[\"']?"
                rf"{_BUILD_HOST_SED}"
            ),
        ),
    ),
    Sign(
        "local-sources",
        "build environment",
        paths=("etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/pacman.conf", "etc/pacman.d/*"),
        pattern=(
            r"^[ \t]*(?:deb(?:-src)?[ \t]+(?:\[[^\]\n]*\][ \t]*)?|URIs:[ \t]*|Server[ \t]*=[ \t]*)"
            rf"((?:file|copy|cdrom):\S+|{_BUILD_HOST}\S*)"
        ),
        said="packages come from {found}, by {paths}: the guest may not have that",
    ),
    Sign(
        "unchecked",
        "build environment",
        paths=_APT,
        pattern=r"^[^\n/#]*((?:AllowUnauthenticated|AllowInsecureRepositories|Check-Valid-Until)[ \t]+\"?\w+)",
        said="{paths} makes apt check less than it could: {found}",
    ),
)

_DISK = (
    Sign(
        "swap-services",
        "disk",
        units=("dphys-swapfile.service", "swapspace.service", "systemd-swap.service"),
        said="{names} makes swap on the system's disk, and is masked: there is none on virtiofs",
        verb="mask",
    ),
    Sign(
        "arrays",
        "disk",
        paths=("etc/mdadm/mdadm.conf", "etc/mdadm.conf"),
        pattern=r"^[ \t]*ARRAY[ \t]+(\S+)",
        said="the arrays {found} in {paths} are comments now: their disks are not there",
        verb="comment",
        arguments=("#", "[[:space:]]*ARRAY[[:space:]]"),
    ),
)

_KERNEL = (
    Sign(
        "kernel-img",
        "kernel",
        paths=("etc/kernel-img.conf",),
        pattern=(
            r"^[ \t]*((?i:do_symlinks[ \t]*=[ \t]*(?:no|false|0)|no_symlinks[ \t]*=[ \t]*(?:yes|true|1)"
            r"|link_in_boot[ \t]*=[ \t]*\w+|image_dest[ \t]*=[ \t]*\S+))"
        ),
        said="{found} in {paths} would keep the links to the kernel as they are: they follow it now",
        verb="kernel-img",
    ),
    Sign(
        "no-update",
        "kernel",
        paths=("etc/initramfs-tools/update-initramfs.conf",),
        pattern=r"^[ \t]*update_initramfs[ \t]*=[ \t]*[\"']?(?:no|false)\b",
        said="update_initramfs in {paths} is yes now: no kernel would get an initramfs",
        verb="replace",
        arguments=("[[:space:]]*update_initramfs[[:space:]]*=.*", "update_initramfs=yes"),
        remedy="set update_initramfs=yes in the guest: no kernel gets an initramfs",
    ),
    Sign(
        "modules-of-a-machine",
        "kernel",
        paths=_INITRAMFS_TOOLS,
        pattern=r"^[ \t]*MODULES[ \t]*=[ \t]*[\"']?(?:dep|list|netboot)\b",
        said="MODULES in {paths} is most now: what it was looks for the disk of /, and fails without one",
        verb="replace",
        arguments=("[[:space:]]*MODULES[[:space:]]*=.*", "MODULES=most"),
        remedy="set MODULES=most in the guest: the next initramfs fails, since / is on no disk",
    ),
    Sign(
        "boot-from-net",
        "kernel",
        paths=_INITRAMFS_TOOLS,
        pattern=r"^[ \t]*BOOT[ \t]*=[ \t]*[\"']?nfs\b",
        said="BOOT in {paths} is local now: the initramfs would look for / on NFS",
        verb="replace",
        arguments=("[[:space:]]*BOOT[[:space:]]*=.*", "BOOT=local"),
    ),
    Sign(
        "inert-hooks",
        "kernel",
        paths=("etc/kernel/postinst.d/initramfs-tools", "etc/kernel/postrm.d/initramfs-tools",
               "etc/kernel/postinst.d/dracut", "etc/kernel/postrm.d/dracut"),
        inert=True,
        said="{paths} may be executed again: a new kernel would get no initramfs",
        verb="executable",
        remedy="chmod 755 it in the guest: a new kernel gets no initramfs",
    ),
    Sign(
        "masked-hooks",
        "kernel",
        paths=tuple(f"etc/pacman.d/hooks/*{name}*.hook" for name in ("mkinitcpio", "dracut", "booster")),
        masked=True,
        said="{paths}, which kept pacman from making an initramfs, is removed",
        verb="remove",
        remedy="remove it in the guest: a new kernel gets no initramfs",
    ),
    Sign(
        "unified-images",
        "kernel",
        paths=("etc/mkinitcpio.d/*.preset",),
        pattern=r"^[ \t]*\w+_uki[ \t]*=[ \t]*(\S+)",
        said="{paths} made the unified image {found}, and makes an initramfs now: the hypervisor loads the kernel",
        verb="preset-image",
    ),
    Sign(
        "unified-by-dracut",
        "kernel",
        paths=("etc/dracut.conf", "etc/dracut.conf.d/*.conf"),
        pattern=r"^[ \t]*uefi[ \t]*=[ \t]*[\"']?(?:yes|true)\b",
        said="uefi in {paths} is a comment now: the hypervisor loads the kernel and its initramfs",
        verb="comment",
        arguments=("#", "[[:space:]]*uefi[[:space:]]*="),
    ),
)  # fmt: skip

_ENABLED = "etc/systemd/system/*.wants"

_NETWORK = (
    Sign(
        "networkd",
        "network",
        paths=(f"{_ENABLED}/systemd-networkd.service", "usr/lib/systemd/system/*.wants/systemd-networkd.service"),
    ),
    Sign("networkd-files", "network", paths=(_NETWORKD,)),
    Sign("netplan", "network", paths=(_NETPLAN,), pattern=r"^[ \t]*(?:ethernets|wifis|bonds|bridges):"),
    Sign("interfaces", "network", paths=_INTERFACES, pattern=r"^[ \t]*iface[ \t]+(?!lo\b)(\S+)"),
    Sign(
        "managers",
        "network",
        paths=tuple(
            f"{_ENABLED}/{unit}"
            for unit in ("NetworkManager.service", "connman.service", "dhcpcd.service", "dhcpcd@*.service",
                         "wicked.service", "netctl*.service", "dhclient*.service", "iwd.service")
        ),
    ),
    Sign("resolved", "network", paths=("usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved")),
    Sign(
        "writes-resolver",
        "network",
        paths=("usr/sbin/dhclient", "usr/sbin/dhcpcd", "usr/bin/dhcpcd", "usr/sbin/resolvconf", "usr/bin/resolvconf",
               "usr/sbin/NetworkManager", "usr/bin/NetworkManager", "usr/bin/connmand", "usr/sbin/connmand"),
    ),
    Sign(
        "hardware",
        "network",
        paths=(_NETWORKD, _NETPLAN, _KEYFILES),
        pattern=(
            r"^[ \t]*((?:MACAddress|PermanentMACAddress|Driver|Path)[ \t]*=[ \t]*\S.*"
            r"|(?:macaddress|driver)[ \t]*:[ \t]*\S.*|mac-address[ \t]*=[ \t]*\S.*)$"
        ),
    ),
    Sign(
        "card-names",
        "network",
        paths=("etc/systemd/network/*.link", "etc/udev/rules.d/*net*.rules"),
        pattern=(
            r"^[ \t]*Name[ \t]*=[ \t]*([A-Za-z][\w.-]{0,14})[ \t]*$"
            r"|\bNAME[ \t]*:?=[ \t]*\"([A-Za-z][\w.-]{0,14})\""
        ),
    ),
    Sign(
        "fixed-addresses",
        "network",
        paths=(_NETWORKD, _NETPLAN, _KEYFILES, *_INTERFACES),
        pattern=(
            r"^[ \t]*Address[ \t]*=[ \t]*(\S+)|^[ \t]*addresses[ \t]*:[ \t]*\[[ \t]*[\"']?(\d+(?:\.\d+){3}/\d+)"
            r"|^[ \t]*-[ \t]+[\"']?(\d+(?:\.\d+){3}/\d+)"
            r"|^[ \t]*address\d*[ \t]*=[ \t]*(\S+)|^[ \t]*address[ \t]+(\S+)"
        ),
        said="{paths} gives the guest the fixed address {found}: see whether that is one of its network",
    ),
)  # fmt: skip

SIGNS = (*_CLOUD, *_CONTAINER, *_BUILD, *_DISK, *_KERNEL, *_NETWORK)

BY_NAME = {sign.name: sign for sign in SIGNS}


def make_queries() -> dict[str, dict[str, Any]]:
    """Return the data to find each sign, by name."""
    return {sign.name: sign.query for sign in SIGNS}


def parse_answer(answer: Mapping[str, Any]) -> Shown:
    """Convert the answer of `pipelines.target.payload.signs` to the signs found."""
    return {name: tuple((path, tuple(texts)) for path, texts in shown) for name, shown in answer.items()}


def describe_origin(sign: Sign) -> str:
    """Return in words what a sign in an installed root means."""
    if sign.origin == "kernel":
        return "the next kernel will not boot"
    return f"left of {'an' if sign.origin[0] in 'aeiou' else 'a'} {sign.origin}"


def format_paths(shown: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """Format the paths of a sign."""
    return _format_list([path for path, _ in shown])


def describe(sign: Sign, shown: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """Return the message about a sign that was found."""
    names = [path.rpartition("/")[2] for path, _ in shown]
    texts = dict.fromkeys(trim(text) for _, found in shown for text in found if trim(text))
    return sign.said.format(paths=format_paths(shown), names=_format_list(names), found=_format_list(list(texts)))


def _format_list(each: list[str]) -> str:
    """Join the first five, and the number of the others."""
    more = f" and {len(each) - 5} more" if len(each) > 5 else ""
    return f"{', '.join(each[:5])}{more}"

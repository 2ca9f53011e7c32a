"""The signs of another machine's disk, kernel and network."""

from __future__ import annotations

from pipelines.origin.sign import Sign

_INITRAMFS_TOOLS = ("etc/initramfs-tools/initramfs.conf", "etc/initramfs-tools/conf.d/*")
_NETWORKD, _NETPLAN = "etc/systemd/network/*.network", "etc/netplan/*.y*ml"
_INTERFACES = ("etc/network/interfaces", "etc/network/interfaces.d/*")
_KEYFILES = "etc/NetworkManager/system-connections/*"


DISK = (
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

KERNEL = (
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

NETWORK = (
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

"""The signs of a cloud, a container and a build."""

from __future__ import annotations

from pipelines.origin.sign import Sign

_APT = ("etc/apt/apt.conf", "etc/apt/apt.conf.d/*")
_DPKG = ("etc/dpkg/dpkg.cfg", "etc/dpkg/dpkg.cfg.d/*")
_SHELLS = ("etc/environment", "etc/environment.d/*.conf", "etc/profile.d/*.sh")
#: Addresses of the machine that a build ran on, as a pattern for Python and for sed.
_BUILD_HOST = (
    r"(?:https?://)?(?:localhost|127\.|\[::1\]|172\.17\.0\.1\b|10\.0\.2\.2\b|host\.(?:docker|containers)\.internal)"
)
_BUILD_HOST_SED = _BUILD_HOST.replace("(?:", "(").replace(r"\b", "")

#: A container's id, which a container engine writes to /etc/hosts as a name.
CONTAINER_ID = r"[0-9a-f]{12}"

CLOUD = (
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

CONTAINER = (
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

BUILD = (
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

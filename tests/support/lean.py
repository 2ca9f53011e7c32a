"""An overlay that leaves out of a root what its boot does for hardware and people, for tests about something else.

Under emulation a boot of trixie takes half of the time with it. Roots as users build them are booted by the tests of
the main job, of Arch and of bookworm.
"""

from __future__ import annotations

from pathlib import Path

_UNITS = "etc/systemd/system"

#: Units that a guest has no need of while nobody logs in at its screen, and no disk comes.
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "run-lock.mount"),
    *("sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("kmod-static-nodes.service", "systemd-modules-load.service"),
    *(f"modprobe@{module}.service" for module in ("configfs", "drm", "efi_pstore", "fuse")),
    *("getty@tty1.service", "systemd-hostnamed.service", "systemd-hostnamed.socket", "systemd-logind.service"),
    *("systemd-creds.socket", "systemd-initctl.socket", "systemd-sysext.socket"),
    *("systemd-journal-flush.service", "systemd-pstore.service", "systemd-random-seed.service"),
    *("systemd-network-generator.service", "systemd-networkd-persistent-storage.service"),
    *("systemd-remount-fs.service", "systemd-sysctl.service", "systemd-tmpfiles-clean.timer"),
    "systemd-udev-load-credentials.service",
)

#: Commands in place of a unit's own.
_COMMANDS = {
    # The network card and the agent's port: no modules for the chipset's disks, nor for KVM.
    "systemd-udev-trigger.service": "udevadm trigger --type=devices --action=add "
    + " ".join(f"--subsystem-match={name}" for name in ("virtio", "net", "virtio-ports", "tty")),
    # Keys for RSA take seconds to find.
    "virtroot-sshd-keygen.service": "sh -c 'cd /etc/ssh; "
    '[ -e ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N "" -f ssh_host_ed25519_key\'',
}


def write(overlay: Path) -> None:
    """Make the directory ``overlay``."""
    units = overlay / _UNITS
    units.mkdir(parents=True)
    for name in _MASKED:
        (units / name).symlink_to("/dev/null")
    for name, command in _COMMANDS.items():
        (units / f"{name}.d").mkdir()
        (units / f"{name}.d/lean.conf").write_text(f"[Service]\nExecStart=\nExecStart={command}\n")

"""The rules that make an imported system boot from virtiofs. Each has a message and steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines.origin import fstab, network, signs
from pipelines.origin.system import System
from pipelines.recipe import machine_specific
from pipelines.recipe.generators import Generator
from pipelines.recipe.stage import ROOT, Command, Stage, Tree

_QUIET = (("DEBIAN_FRONTEND", "noninteractive"), ("DEBCONF_NONINTERACTIVE_SEEN", "true"), ("LC_ALL", "C.UTF-8"))

_SCRIPTS = "/usr/local/lib/virtroot"

#: Prefixes of packages of boot loaders: grub, and shim, which starts it on firmware that checks signatures.
_LOADERS = ("grub", "shim-")

_AGENT = "qemu-guest-agent"


@dataclass(frozen=True)
class Rule:
    """A change of the system; ``said`` is the message for the user, ``warning`` is True if the user has to check it."""

    said: str
    steps: tuple[Command | Tree, ...] = ()
    warning: bool = False


@dataclass(frozen=True)
class Installed:
    """The names of the system's packages, and the row of its generator with its kernel's boot paths."""

    packages: frozenset[str]
    generator: Generator


def make_rules(system: System, installed: Installed, *, keep_identity: bool) -> tuple[Rule, ...]:
    """Return the rules for ``system``, in the order of their application."""
    found = [
        *_make_top_rules(system),
        *_make_sign_rules(system, installed),
        *_make_network_rules(system),
        _make_prepare_rule(),
        *_make_diversion_rules(system),
        *_make_fstab_rules(system),
        *_make_disk_rules(system),
        *_make_resume_rules(system),
        *_make_dracut_rules(system),
        *_make_fstype_rules(system),
        *_make_loader_rules(system, installed),
        *_make_card_rules(system),
        *_make_package_rules(system, installed),
        *_make_service_rules(system),
        *_make_preset_rules(system, installed),
        _make_initramfs_rule(installed),
        *_make_link_rules(system, installed),
        _make_keep_rule() if keep_identity else _make_identity_rule(system),
        _make_close_rule(),
    ]
    return tuple(found)


def make_stage(rule: Rule) -> Stage:
    """Return the steps of ``rule`` as a foreign stage."""
    return Stage(rule.said, rule.steps, foreign=True)


def _make_script(verb: str, *arguments: str) -> Command:
    return Command((f"{_SCRIPTS}/import-root", verb, ROOT, *arguments))


def _make_root_command(*argv: str) -> Command:
    return Command(argv, chroot=True, env=_QUIET)


def _make_prepare_rule() -> Rule:
    steps = (_make_script("prepare"), Command((f"{_SCRIPTS}/resolver", "replace", ROOT)))
    return Rule("the content of /proc, /sys and /run is left out", steps)


def _make_top_rules(system: System) -> list[Rule]:
    user, group, mode = system.owners.get(".", (0, 0, 0o755))
    if (user, group, mode & 0o755) == (0, 0, 0o755):
        return []
    said = (
        f"/ itself belonged to {user}:{group} with mode {mode:04o}, and is root's with 0755: sshd would refuse logins"
    )
    return [Rule(said, (_make_script("top"),))]


def _make_sign_rules(system: System, installed: Installed) -> list[Rule]:
    """Return the rules for the signs found, in the order of the table."""
    found, gone = [], set()
    for sign in signs.SIGNS:
        # Ignore paths that an earlier rule has put aside.
        shown = tuple(each for each in system.signs.get(sign.name, ()) if each[0] not in gone)
        if not shown or not sign.said or sign.name == "diversions":
            continue
        said = signs.describe(sign, shown)
        if not sign.verb:
            found.append(Rule(said, warning=True))
            continue
        paths = [path for path, _ in shown]
        # Ubuntu's kernels have their links in /boot, and the hypervisor uses these.
        where = ("boot",) if installed.generator.kernel.startswith("boot/") else ("",)
        more = {"touch": [], "kernel-img": [*where, *paths]}.get(sign.verb, paths)
        found.append(Rule(said, (_make_script(sign.verb, *sign.arguments, *more),)))
        gone |= set(paths) if sign.verb in {"aside", "remove"} else set()
    return found


def _make_diversion_rules(system: System) -> list[Rule]:
    shown = system.signs.get("diversions", ())
    paths = [path for _, texts in shown for path in texts]
    said = signs.describe(signs.BY_NAME["diversions"], shown)
    return [Rule(said, (_make_script("undivert", *paths),))] if paths else []


def _make_network_rules(system: System) -> list[Rule]:
    """Return the rules for the card's name, its address and the name servers."""
    plan = _plan_network(system)
    hardware = ", ".join(path for path, _ in system.signs.get("hardware", ()))
    found = []
    if plan.rename:
        why = "; ".join(system.cards) or "its configuration names one card"
        found.append(Rule(f"{why}: the guest's card is called {plan.rename}", (_make_script("card", plan.rename),)))
    if hardware and not plan.fallback:
        said = (
            f"{hardware} matches a card of the old machine, and not the guest's: change it, or the guest has no address"
        )
        found.append(Rule(said, warning=True))
    if plan.fallback:
        why = f"{hardware} matches a card of the old machine" if hardware else "nothing in it configures a card"
        said = f"{why}: systemd-networkd asks for the address of a card that no file matches"
        found.append(Rule(said, (Tree("skeleton", "network"),)))
    resolver = {
        "stub": "etc/resolv.conf is systemd-resolved's: it had no name servers, or those of a container engine",
        "install": "etc/resolv.conf is systemd-resolved's: it had no name servers, or those of a container engine",
        "remove": "etc/resolv.conf of a container engine is removed: what asks for the address writes it",
    }
    if plan.resolver in resolver:
        found.append(Rule(resolver[plan.resolver], (_make_script("resolv", plan.resolver),)))
    if plan.resolver == "missing":
        said = "nothing in it writes etc/resolv.conf: the guest has no name servers; write the file in the guest"
        found.append(Rule(said, warning=True))
    return found


def _plan_network(system: System) -> network.Network:
    return network.plan(system.signs, system.cards, system.found, system.distro)


def _make_service_rules(system: System) -> list[Rule]:
    """Return the rules that enable the services for the network."""
    plan = _plan_network(system)
    services = [
        *(["systemd-networkd.service"] if plan.enable else []),
        *(["systemd-resolved.service"] if plan.resolver in {"stub", "install"} else []),
    ]
    if not services:
        return []
    # Enable the other services even if one is missing; the guest's check of its network reports that.
    script = 'for unit do systemctl enable "$unit" || echo "$unit cannot be enabled" >&2; done'
    enable = Command(("sh", "-c", script, "enable", *services), chroot=True, env=(("SYSTEMD_OFFLINE", "1"),))
    return [Rule(f"{' and '.join(services)} start with the guest", (enable,))]


def _make_close_rule() -> Rule:
    steps = (Command((f"{_SCRIPTS}/resolver", "take-back", ROOT)), _make_script("close"))
    return Rule("temporary files for the system's programs are removed", steps)


def _make_fstab_rules(system: System) -> list[Rule]:
    new = fstab.rewrite(system.fstab)
    said = "fstab has the one line of a virtiofs root; its old lines are comments"
    found = [Rule(said, (_make_script("fstab", new.text),))]
    if new.swap:
        found.append(Rule(f"swap on {', '.join(new.swap)} is not used any more", warning=True))
    found += [Rule(f"{mount.point} {_describe_mount(mount)}", warning=True) for mount in new.data]
    return found


def _describe_mount(mount: fstab.Mount) -> str:
    if mount.is_on_disk:
        return f"was a file system of its own on {mount.device}: look whether its content was copied"
    return f"was mounted from {mount.device}, and is not any more: its line in fstab is a comment"


def _make_disk_rules(system: System) -> list[Rule]:
    units = [
        Rule(f"the unit {unit} waits for a disk and is put aside", (_make_script("unit", unit),))
        for unit in system.units
    ]
    if not system.crypttab:
        return units
    return [Rule(f"crypttab with {len(system.crypttab)} lines is put aside", (_make_script("crypttab"),)), *units]


def _make_resume_rules(system: System) -> list[Rule]:
    if not system.resume:
        return []
    return [
        Rule(f"the resume device in {', '.join(system.resume)} is purged", (_make_script("resume", *system.resume),))
    ]


def _make_dracut_rules(system: System) -> list[Rule]:
    if not system.dracut:
        return []
    said = f"the disks that dracut's image would wait for, by {', '.join(system.dracut)}, are purged"
    return [Rule(said, (_make_script("dracut", *system.dracut),))]


def _make_fstype_rules(system: System) -> list[Rule]:
    said = "adds no module to the initramfs, and breaks a root of another type; virtroot needs none, take it out"
    return [Rule(f"FSTYPE in {path} {said}", warning=True) for path in system.fstype]


def _make_loader_rules(system: System, installed: Installed) -> list[Rule]:
    found = []
    if system.cmdline:
        said = f"grub gave the kernel {system.cmdline!r}, which virtroot's command line does not have"
        found.append(Rule(said, warning=True))
    loaders = sorted(name for name in installed.packages if name.startswith(_LOADERS))
    purge = {
        "debian": ("apt-get", "--yes", "--allow-remove-essential", "--allow-change-held-packages", "purge"),
        "arch": ("pacman", "--remove", "--nosave", "--recursive", "--noconfirm"),
    }[system.distro]
    steps = (*([_make_root_command(*purge, *loaders)] if loaders else ()), _make_script("loader"))
    what = ", ".join(loaders) or "what is left of grub"
    return [*found, Rule(f"the hypervisor loads the kernel: {what} purged", steps)]


def _make_card_rules(system: System) -> list[Rule]:
    if _plan_network(system).rename:
        return []
    said = "the guest's card may have another name (ip link shows it)"
    return [Rule(f"{line}; {said}", warning=True) for line in system.cards]


def _make_package_rules(system: System, installed: Installed) -> list[Rule]:
    there = _AGENT in installed.packages or {"usr/sbin/qemu-ga", "usr/bin/qemu-ga"} & system.found
    wanted = [
        *([] if there else [_AGENT]),
        *(["systemd-resolved"] if _plan_network(system).resolver == "install" else []),
    ]
    return [_make_install_rule(package, system.distro) for package in wanted]


def _make_install_rule(package: str, distro: str) -> Rule:
    install = {
        # Lists and downloads go to /run, which is emptied, so that the system's own do not change.
        "debian": (
            "set -- -o Dir::State::lists=/run/apt/lists -o Dir::Cache=/run/apt -o Acquire::Retries=1 "
            "-o Acquire::http::Timeout=20 -o APT::Sandbox::User=root -o APT::Install-Recommends=false; "
            "mkdir -p /run/apt/lists/partial /run/apt/archives/partial; "
            # Continue if one source is not available: another one may have the package.
            'apt-get -qq "$@" update || echo a source of its packages cannot be read >&2; '
            f'apt-get -y "$@" install {package}'
        ),
        # CheckSpace needs a list of mounts, and DownloadUser a sandbox; the chroot has neither.
        "arch": (
            "sed '/^[[:space:]]*\\(CheckSpace\\|DownloadUser\\)/d' /etc/pacman.conf > /run/pacman.conf; "
            # With newer lists than those of the installed packages, this would be a partial upgrade.
            "refresh=; ls /var/lib/pacman/sync/*.db > /dev/null 2>&1 || refresh=y; "
            f"pacman --config /run/pacman.conf -S$refresh --noconfirm {package}"
        ),
    }[distro]
    # Continue the import if the package manager reaches no mirror.
    script = f"{{ {install}; }} || echo {package} could not be installed >&2"
    return Rule(f"{package} is installed from the system's own mirror", (_make_root_command("sh", "-c", script),))


def _make_preset_rules(system: System, installed: Installed) -> list[Rule]:
    if not system.presets or installed.generator.name != "mkinitcpio":
        return []
    said = "by name, and so for none of mkinitcpio.conf.d; they do not any more"
    return [
        Rule(
            f"{', '.join(system.presets)} asked for /etc/mkinitcpio.conf {said}",
            (_make_script("presets", *system.presets),),
        )
    ]


def _make_initramfs_rule(installed: Installed) -> Rule:
    row = installed.generator
    trees = tuple(Tree("skeleton", name) for name in row.skeletons)
    if not row.regenerate:
        return Rule("no initramfs: the kernel mounts the root itself", trees)
    return Rule(
        f"virtiofs and virtio_pci are in {row.name}'s initramfs, which is generated again",
        (*trees, replace(row.regeneration, env=_QUIET)),
    )


def _make_link_rules(system: System, installed: Installed) -> list[Rule]:
    if system.distro != "debian" or not system.kernels or installed.generator.kernel in system.links:
        return []
    newest = system.kernels[-1]
    return [Rule(f"links name the kernel {newest}, as Debian's own do", (_make_script("links", newest),))]


def _make_identity_rule(system: System) -> Rule:
    ssh = {"usr/sbin/sshd", "usr/bin/sshd"} & system.found
    trees = (*([Tree("skeleton", "sshd")] if ssh else ()), Tree("skeleton", "machine-specific"))
    said = "its identity (machine-id, ssh host keys) is left behind: each guest gets its own"
    return Rule(said, (_make_script("forget", *machine_specific.make_find_tests()), *trees))


def _make_keep_rule() -> Rule:
    return Rule("its identity (host name, machine-id, ssh host keys) is kept")

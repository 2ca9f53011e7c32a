"""What a root on virtiofs asks of a system that ran from disks: each rule as words for a person, and steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines.origin import fstab, network, signs
from pipelines.origin.system import System
from pipelines.recipe import machine_specific
from pipelines.recipe.generators import Generator
from pipelines.recipe.stage import ROOT, Command, Stage, Tree

_QUIET = (("DEBIAN_FRONTEND", "noninteractive"), ("DEBCONF_NONINTERACTIVE_SEEN", "true"), ("LC_ALL", "C.UTF-8"))

_SCRIPTS = "/usr/local/lib/virtroot"

#: Packages of boot loaders: those of grub, and what carries it into a firmware that checks signatures.
_LOADERS = ("grub", "shim-")

_AGENT = "qemu-guest-agent"


@dataclass(frozen=True)
class Rule:
    """``said`` is what a person reads when it is applied; ``warning`` that it is for them to look at."""

    said: str
    steps: tuple[Command | Tree, ...] = ()
    warning: bool = False


@dataclass(frozen=True)
class Installed:
    """The system's packages, by name, and the row of its initramfs generator with its kernel's boot paths."""

    packages: frozenset[str]
    generator: Generator


def rules(system: System, installed: Installed, *, keep_identity: bool) -> tuple[Rule, ...]:
    """Return the rules that apply to ``system``, in the order that they are applied in."""
    found = [
        *_top(system),
        *_signs(system, installed),
        *_network(system),
        _prepared(),
        *_diversions(system),
        *_fstab(system),
        *_disks(system),
        *_resume(system),
        *_dracut(system),
        *_fstype(system),
        *_loader(system, installed),
        *_cards(system),
        *_agent(system, installed),
        *_services(system),
        *_presets(system, installed),
        _initramfs(installed),
        *_links(system, installed),
        _kept() if keep_identity else _new_identity(system),
        _closed(),
    ]
    return tuple(found)


def stage(rule: Rule) -> Stage:
    """Return the steps of ``rule`` as a stage; they are of a foreign root."""
    return Stage(rule.said, rule.steps, foreign=True)


def _script(verb: str, *arguments: str) -> Command:
    return Command((f"{_SCRIPTS}/import-root", verb, ROOT, *arguments))


def _in_root(*argv: str) -> Command:
    return Command(argv, chroot=True, env=_QUIET)


def _prepared() -> Rule:
    steps = (_script("prepare"), Command((f"{_SCRIPTS}/resolver", "replace", ROOT)))
    return Rule("what a running system shows in /proc, /sys and /run is left out", steps)


def _top(system: System) -> list[Rule]:
    user, group, mode = system.owners.get(".", (0, 0, 0o755))
    if (user, group, mode & 0o755) == (0, 0, 0o755):
        return []
    said = (
        f"/ itself belonged to {user}:{group} with mode {mode:04o}, and is root's with 0755: sshd would refuse logins"
    )
    return [Rule(said, (_script("top"),))]


def _signs(system: System, installed: Installed) -> list[Rule]:
    """Return the rules of the signs that show, in the order of the table."""
    found, gone = [], set()
    for sign in signs.SIGNS:
        # What was put aside before says nothing any more.
        shown = tuple(each for each in system.signs.get(sign.name, ()) if each[0] not in gone)
        if not shown or not sign.said or sign.name == "diversions":
            continue
        said = signs.describe(sign, shown)
        if not sign.verb:
            found.append(Rule(said, warning=True))
            continue
        paths = [path for path, _ in shown]
        # Ubuntu's kernels keep their links in /boot; the hypervisor takes the kernel from there.
        where = ("boot",) if installed.generator.kernel.startswith("boot/") else ("",)
        more = {"touch": [], "kernel-img": [*where, *paths]}.get(sign.verb, paths)
        found.append(Rule(said, (_script(sign.verb, *sign.arguments, *more),)))
        gone |= set(paths) if sign.verb in {"aside", "remove"} else set()
    return found


def _diversions(system: System) -> list[Rule]:
    shown = system.signs.get("diversions", ())
    paths = [path for _, texts in shown for path in texts]
    said = signs.describe(signs.BY_NAME["diversions"], shown)
    return [Rule(said, (_script("undivert", *paths),))] if paths else []


def _network(system: System) -> list[Rule]:
    """Return what gives the guest's card the name, the address and the name servers that its system counts on."""
    plan = _plan(system)
    hardware = ", ".join(path for path, _ in system.signs.get("hardware", ()))
    found = []
    if plan.rename:
        why = "; ".join(system.cards) or "its configuration names one card"
        found.append(Rule(f"{why}: the guest's card is called {plan.rename}", (_script("card", plan.rename),)))
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
        found.append(Rule(resolver[plan.resolver], (_script("resolv", plan.resolver),)))
    if plan.resolver == "missing":
        said = "nothing in it writes etc/resolv.conf: the guest has no name servers; write the file in the guest"
        found.append(Rule(said, warning=True))
    return found


def _plan(system: System) -> network.Network:
    return network.plan(system.signs, system.cards, system.found, system.distro)


def _services(system: System) -> list[Rule]:
    """Return what starts the programs that the network rests on."""
    plan = _plan(system)
    services = [
        *(["systemd-networkd.service"] if plan.enable else []),
        *(["systemd-resolved.service"] if plan.resolver in {"stub", "install"} else []),
    ]
    if not services:
        return []
    # A service that is missing is said by the guest's check of its network; the others are to be enabled.
    script = 'for unit do systemctl enable "$unit" || echo "$unit cannot be enabled" >&2; done'
    enable = Command(("sh", "-c", script, "enable", *services), chroot=True, env=(("SYSTEMD_OFFLINE", "1"),))
    return [Rule(f"{' and '.join(services)} start with the guest", (enable,))]


def _closed() -> Rule:
    steps = (Command((f"{_SCRIPTS}/resolver", "take-back", ROOT)), _script("close"))
    return Rule("what was lent to its programs is taken back", steps)


def _fstab(system: System) -> list[Rule]:
    new = fstab.rewrite(system.fstab)
    said = "fstab has the one line of a virtiofs root; its old lines are comments"
    found = [Rule(said, (_script("fstab", new.text),))]
    if new.swap:
        found.append(Rule(f"swap on {', '.join(new.swap)} is not used any more", warning=True))
    found += [Rule(f"{mount.point} {_was(mount)}", warning=True) for mount in new.data]
    return found


def _was(mount: fstab.Mount) -> str:
    if mount.of_a_disk:
        return f"was a file system of its own on {mount.device}: look whether its content was copied"
    return f"was mounted from {mount.device}, and is not any more: its line in fstab is a comment"


def _disks(system: System) -> list[Rule]:
    units = [
        Rule(f"the unit {unit} waits for a disk and is put aside", (_script("unit", unit),)) for unit in system.units
    ]
    if not system.crypttab:
        return units
    return [Rule(f"crypttab with {len(system.crypttab)} lines is put aside", (_script("crypttab"),)), *units]


def _resume(system: System) -> list[Rule]:
    if not system.resume:
        return []
    return [Rule(f"the resume device in {', '.join(system.resume)} is purged", (_script("resume", *system.resume),))]


def _dracut(system: System) -> list[Rule]:
    if not system.dracut:
        return []
    said = f"the disks that dracut's image would wait for, by {', '.join(system.dracut)}, are purged"
    return [Rule(said, (_script("dracut", *system.dracut),))]


def _fstype(system: System) -> list[Rule]:
    said = "adds no module to the initramfs, and breaks a root of another type; virtroot needs none, take it out"
    return [Rule(f"FSTYPE in {path} {said}", warning=True) for path in system.fstype]


def _loader(system: System, installed: Installed) -> list[Rule]:
    found = []
    if system.cmdline:
        said = f"grub gave the kernel {system.cmdline!r}, which virtroot's command line does not have"
        found.append(Rule(said, warning=True))
    loaders = sorted(name for name in installed.packages if name.startswith(_LOADERS))
    purge = {
        "debian": ("apt-get", "--yes", "--allow-remove-essential", "--allow-change-held-packages", "purge"),
        "arch": ("pacman", "--remove", "--nosave", "--recursive", "--noconfirm"),
    }[system.distro]
    steps = (*([_in_root(*purge, *loaders)] if loaders else ()), _script("loader"))
    what = ", ".join(loaders) or "what is left of grub"
    return [*found, Rule(f"the hypervisor loads the kernel: {what} purged", steps)]


def _cards(system: System) -> list[Rule]:
    if _plan(system).rename:
        return []
    said = "the guest's card may have another name (ip link shows it)"
    return [Rule(f"{line}; {said}", warning=True) for line in system.cards]


def _agent(system: System, installed: Installed) -> list[Rule]:
    there = _AGENT in installed.packages or {"usr/sbin/qemu-ga", "usr/bin/qemu-ga"} & system.found
    wanted = [*([] if there else [_AGENT]), *(["systemd-resolved"] if _plan(system).resolver == "install" else [])]
    return [_install(package, system.distro) for package in wanted]


def _install(package: str, distro: str) -> Rule:
    install = {
        # Lists and downloads are left below /run, which is emptied, and the system's own stay as they are.
        "debian": (
            "set -- -o Dir::State::lists=/run/apt/lists -o Dir::Cache=/run/apt -o Acquire::Retries=1 "
            "-o Acquire::http::Timeout=20 -o APT::Sandbox::User=root -o APT::Install-Recommends=false; "
            "mkdir -p /run/apt/lists/partial /run/apt/archives/partial; "
            # A source that is gone is no reason to leave out what another one has.
            'apt-get -qq "$@" update || echo a source of its packages cannot be read >&2; '
            f'apt-get -y "$@" install {package}'
        ),
        # There is no list of mounts to look for free space in, and what confines downloads asks for more of a machine.
        "arch": (
            "sed '/^[[:space:]]*\\(CheckSpace\\|DownloadUser\\)/d' /etc/pacman.conf > /run/pacman.conf; "
            # Newer lists than those that its packages came from would make it a system upgraded in parts.
            "refresh=; ls /var/lib/pacman/sync/*.db > /dev/null 2>&1 || refresh=y; "
            f"pacman --config /run/pacman.conf -S$refresh --noconfirm {package}"
        ),
    }[distro]
    # A package manager that reaches no mirror is no reason to leave the system where it is.
    script = f"{{ {install}; }} || echo {package} could not be installed >&2"
    return Rule(f"{package} is installed from the system's own mirror", (_in_root("sh", "-c", script),))


def _presets(system: System, installed: Installed) -> list[Rule]:
    if not system.presets or installed.generator.name != "mkinitcpio":
        return []
    said = "by name, and so for none of mkinitcpio.conf.d; they do not any more"
    return [
        Rule(
            f"{', '.join(system.presets)} asked for /etc/mkinitcpio.conf {said}", (_script("presets", *system.presets),)
        )
    ]


def _initramfs(installed: Installed) -> Rule:
    row = installed.generator
    trees = tuple(Tree("skeleton", name) for name in row.skeletons)
    if not row.regenerate:
        return Rule("no initramfs: the kernel mounts the root itself", trees)
    return Rule(
        f"virtiofs and virtio_pci are in {row.name}'s initramfs, which is made anew",
        (*trees, replace(row.regeneration, env=_QUIET)),
    )


def _links(system: System, installed: Installed) -> list[Rule]:
    if system.distro != "debian" or not system.kernels or installed.generator.kernel in system.links:
        return []
    newest = system.kernels[-1]
    return [Rule(f"links name the kernel {newest}, as Debian's own do", (_script("links", newest),))]


def _new_identity(system: System) -> Rule:
    ssh = {"usr/sbin/sshd", "usr/bin/sshd"} & system.found
    trees = (*([Tree("skeleton", "sshd")] if ssh else ()), Tree("skeleton", "machine-specific"))
    said = "its identity (machine-id, ssh host keys) is left behind: each guest gets its own"
    return Rule(said, (_script("forget", *machine_specific.make_find_tests()), *trees))


def _kept() -> Rule:
    return Rule("its identity (host name, machine-id, ssh host keys) goes with it")

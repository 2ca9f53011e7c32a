"""How a Debian root is made: debootstrap or mmdebstrap, then apt and dpkg from outside the root."""

from __future__ import annotations

from pipelines.recipe import generators, machine_specific, surroundings
from pipelines.recipe.distros.distro import Distro
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import CACHE, ROOT, Command, Stage, Tree

_SCRIPTS = "/usr/local/lib/virtroot"

_QUIET = (
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("LC_ALL", "C.UTF-8"),
)


def _mirrors(recipe: Recipe) -> tuple[str, str]:
    """Return where packages come from; what is empty is the builder's own."""
    if recipe.snapshot:
        return recipe.snapshot.mirror or "", recipe.snapshot.security_mirror or ""
    return _own_mirrors(recipe)


def _own_mirrors(recipe: Recipe) -> tuple[str, str]:
    """Return what the guest upgrades from."""
    return recipe.mirror[0].url if recipe.mirror else "", recipe.security_mirror or ""


def _lent(recipe: Recipe, verb: str) -> tuple[Command, ...]:
    """Let the root's apt use the dated archive, or give it its own sources back."""
    if not recipe.snapshot:
        return ()
    mirrors = (*_mirrors(recipe), *_own_mirrors(recipe))
    return (Command((f"{_SCRIPTS}/dated-sources", verb, recipe.release, ROOT, *mirrors)),)


def _refuses(recipe: Recipe) -> list[str]:
    mistakes = []
    if len(recipe.mirror) > 1:
        mistakes.append("mirror: debian takes one mirror, and security_mirror beside it")
    if any(mirror.keyring for mirror in recipe.mirror):
        mistakes.append("mirror: keyring is for arch; Debian's mirrors are checked with Debian's own keys")
    if recipe.siglevel != "required":
        mistakes.append("siglevel: is for arch; Debian's packages are always checked")
    if recipe.snapshot and bool(recipe.snapshot.mirror) != bool(recipe.snapshot.security_mirror):
        mistakes.append("snapshot: mirror and security_mirror belong together")
    return mistakes


def _apt(recipe: Recipe, *arguments: str) -> Command:
    """Run the builder's apt on the root: downloads and lists stay outside, and the root needs no network."""
    options = {
        "Dir": ROOT,
        "Dir::State::status": f"{ROOT}/var/lib/dpkg/status",
        "Dir::State::lists": f"{CACHE}/lists-{recipe.release}",
        "Dir::Cache": CACHE,
        "Dir::Cache::archives": f"{CACHE}/archives",
        "Dir::Bin::dpkg": "dpkg",
        "Dpkg::Options::": f"--root={ROOT}",
        "Dpkg::Use-Pty": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "APT::Install-Recommends": "false",
        # apt would hand downloads to a user that cannot read the root's directories.
        "APT::Sandbox::User": "root",
    }
    flags = [flag for key, value in options.items() for flag in ("-o", f"{key}={value}")]
    # dpkg's fsync after each file is for machines that lose power; a killed build is thrown away whole. Where a
    # skeleton has a package's configuration file, nobody is there to answer dpkg's question, and the skeleton's stays.
    dpkg = ("-o", "Dpkg::Options::=--force-unsafe-io", "-o", "Dpkg::Options::=--force-confold")
    return Command(("apt-get", *flags, *dpkg, "-y", *arguments), env=_QUIET)


def _base(recipe: Recipe) -> Stage:
    mirrors = [_mirrors(recipe)[0]]
    if recipe.snapshot:
        # mmdebstrap takes the other suites too where it is left to its default, which these then stand for.
        mirrors = ["--dated", *mirrors, *(() if recipe.mirror else (recipe.snapshot.security_mirror or "",))]
    bootstrap = Command((f"{_SCRIPTS}/bootstrap", recipe.bootstrap, recipe.release, ROOT, CACHE, *mirrors), env=_QUIET)
    # What the bootstrappers copy from the builder or leave behind has no place in a guest.
    tidy = Command(("rm", "-rf", "/etc/resolv.conf", "/etc/hostname", "/var/cache/apt/archives"), chroot=True)
    return Stage("base", (bootstrap, tidy), cached=True)


def _skeleton(recipe: Recipe) -> Stage:
    return Stage(
        "skeleton",
        (
            Tree("skeleton", "virtiofs"),
            Tree("skeleton", "network"),
            Tree("skeleton", "sshd"),
            Tree("skeleton", "machine-specific"),
            *(Tree("skeleton", name) for name in generators.of(recipe).skeletons),
            surroundings.lend(),
            # Above all no service may start in the builder; removed by the finish stage.
            Command(("sh", "-c", "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d"), chroot=True),
            Command(("chmod", "755", "/usr/sbin/policy-rc.d"), chroot=True),
        ),
    )


#: Notes, in the builder itself, that its lists are today's.
_UPDATED = "/run/virtroot-lists-updated"


def _update(recipe: Recipe) -> tuple[Command, ...]:
    """Make sure of today's lists, once in a builder: the stage before may have been restored in another one."""
    update = _apt(recipe, "-qq", "--error-on=any", "update")
    once = Command(("sh", "-ec", '[ -e "$0" ] || { "$@"; touch "$0"; }', _UPDATED, *update.argv), env=update.env)
    return Command(("mkdir", "-p", f"{CACHE}/archives/partial", f"{CACHE}/lists-{recipe.release}/partial")), once


def _kernel(recipe: Recipe) -> Stage:
    generator = generators.of(recipe)
    # Debian's kernels depend on a generator's package, and would bring initramfs-tools where none is there.
    stands_for = (Command((f"{_SCRIPTS}/stand-for-generator", ROOT, generator.stand_in, *generator.packages)),)
    return Stage(
        "kernel",
        (
            Command((f"{_SCRIPTS}/write-sources", recipe.release, ROOT, *_own_mirrors(recipe))),
            *_lent(recipe, "lend"),
            *_update(recipe),
            # Upgrades the minimal root to the security suite in the same transaction.
            _apt(recipe, "dist-upgrade", *generator.packages),
            *(stands_for if generator.stand_in else ()),
            # The kernel comes alone: together with the generator, its own hook and the generator's trigger would each
            # generate the initramfs. It comes before the recipe's packages, since it takes longer than most of them
            # and is the same for many recipes; those that belong into the initramfs trigger another one.
            _apt(recipe, "install", recipe.kernel),
        ),
        cached=True,
    )


def _packages(recipe: Recipe) -> Stage:
    if not recipe.packages:
        return Stage("packages", cached=True)
    return Stage(
        "packages",
        (
            *_update(recipe),
            _apt(recipe, "install", *dict.fromkeys(recipe.packages)),
            # Downloads that no build has used for a month; apt-get autoclean would read every list again.
            Command(("find", f"{CACHE}/archives", "-name", "*.deb", "-atime", "+30", "-delete")),
        ),
        cached=True,
    )


def _overlay(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    generator = generators.of(recipe)
    steps: list[Command | Tree] = []
    if recipe.overlay:
        steps.append(Tree("overlay", recipe.overlay))
    if recipe.run:
        # Commands may want the network, and the root has no resolver of its own while it is being made.
        steps.append(Command((f"{_SCRIPTS}/resolver", "lend", ROOT)))
        steps += [Command(("sh", "-ec", command), chroot=True, env=_QUIET) for command in recipe.run]
        steps.append(Command((f"{_SCRIPTS}/resolver", "take-back", ROOT)))
    if any(path.startswith(generator.config) for path in overlay_paths):
        steps.append(generator.regeneration)
    return Stage("overlay", tuple(steps), foreign=True)


def _finish(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    def remove(*paths: str) -> Command:
        return Command(("rm", "-rf", *paths), chroot=True)

    return Stage(
        "finish",
        (
            *_lent(recipe, "take-back"),
            surroundings.take_back(),
            # networkd is Debian's own, but nobody enables it; a guest without a network is of little use.
            Command(("systemctl", "enable", "systemd-networkd.service"), chroot=True, env=(("SYSTEMD_OFFLINE", "1"),)),
            machine_specific.removal(overlay_paths),
            Command(("find", "/var/log", "-type", "f", "-delete"), chroot=True),
            Command(
                ("find", "/var/lib/dpkg", "/var/cache/debconf", "-name", "*-old", "-type", "f", "-delete"), chroot=True
            ),
            Command(
                ("find", "/run", "/tmp", "/var/tmp", "/var/lib/apt/lists", "-mindepth", "1", "-delete"), chroot=True
            ),
            remove("/var/cache/apt", "/var/cache/ldconfig/aux-cache", "/usr/sbin/policy-rc.d"),
            Command(("mkdir", "-p", "/var/cache/apt/archives/partial"), chroot=True),
            # The packages made their catalogues and caches just now; without these, systemd makes them all again at a
            # guest's first boot, which takes longer than the rest of it.
            Command(("touch", "--reference=/usr", "/etc/.updated", "/var/.updated"), chroot=True),
            Command((f"{_SCRIPTS}/make-databases", ROOT)),
            # Empty and not missing: systemd then takes an id at boot without calling it the machine's first boot.
            Command(("truncate", "--size=0", "/etc/machine-id"), chroot=True),
            Command(("chmod", "0644", "/etc/machine-id"), chroot=True),
        ),
    )


def _stages(recipe: Recipe, overlay_paths: tuple[str, ...]) -> tuple[Stage, ...]:
    return (
        _base(recipe),
        _skeleton(recipe),
        _kernel(recipe),
        _packages(recipe),
        _overlay(recipe, overlay_paths),
        _finish(recipe, overlay_paths),
    )


# One that was removed, and whose configuration is there still, is no package that is installed.
_PACKAGES = r"dpkg-query -W -f '${db:Status-Status} ${Package}\t${Version}\n' | sed -n 's/^installed //p'"


def _mirror_query(recipe: Recipe) -> Command:
    return Command((f"{_SCRIPTS}/mirror-state", recipe.release, *_mirrors(recipe)))


DEBIAN = Distro(
    name="debian",
    releases=("trixie", "bookworm"),
    bootstraps=("debootstrap", "mmdebstrap"),
    kernel="linux-image-cloud-amd64",
    containerfile="debian",
    base_image="debian:trixie-slim",
    base_suite="trixie",
    capabilities=(),
    refuses=_refuses,
    set_up_builder=lambda recipe: (),
    stages=_stages,
    mirror_query=_mirror_query,
    packages_query=("sh", "-c", _PACKAGES),
    packages_check=("sh", "-c", 'dpkg --audit >&2; test -z "$(dpkg --audit)"'),
)

"""The build of a Debian root: debootstrap or mmdebstrap, then apt and dpkg from outside the root."""

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


def _get_mirrors(recipe: Recipe) -> tuple[str, str]:
    """Return the mirrors that the build uses; an empty one is the builder's default."""
    if recipe.snapshot:
        return recipe.snapshot.mirror or "", recipe.snapshot.security_mirror or ""
    return _get_guest_mirrors(recipe)


def _get_guest_mirrors(recipe: Recipe) -> tuple[str, str]:
    """Return the mirrors that the guest uses."""
    return recipe.mirror[0].url if recipe.mirror else "", recipe.security_mirror or ""


def _switch_sources(recipe: Recipe, verb: str) -> tuple[Command, ...]:
    """Return the command that makes the root's apt use the dated archive (``lend``) or its own sources again."""
    if not recipe.snapshot:
        return ()
    mirrors = (*_get_mirrors(recipe), *_get_guest_mirrors(recipe))
    return (Command((f"{_SCRIPTS}/dated-sources", verb, recipe.release, ROOT, *mirrors)),)


def _find_mistakes(recipe: Recipe) -> list[str]:
    mistakes = []
    if len(recipe.mirror) > 1:
        mistakes.append("mirror: debian has one mirror, and security_mirror in addition")
    if any(mirror.keyring for mirror in recipe.mirror):
        mistakes.append("mirror: keyring is for arch only; Debian's mirrors are checked with Debian's keys")
    if recipe.siglevel != "required":
        mistakes.append("siglevel: for arch only; Debian's packages are always checked")
    if recipe.snapshot and bool(recipe.snapshot.mirror) != bool(recipe.snapshot.security_mirror):
        mistakes.append("snapshot: mirror and security_mirror require each other")
    return mistakes


def _make_apt_command(recipe: Recipe, *arguments: str) -> Command:
    """Return a command of the builder's apt for the root. Downloads and lists stay in the builder."""
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
        # apt would otherwise download as a user that cannot read the root's directories.
        "APT::Sandbox::User": "root",
    }
    flags = [flag for key, value in options.items() for flag in ("-o", f"{key}={value}")]
    # force-unsafe-io: dpkg's fsync of each file protects against power loss, but a killed build is discarded anyway.
    # force-confold: keep the skeleton's version of a package's configuration file; nobody can answer dpkg's question.
    dpkg = ("-o", "Dpkg::Options::=--force-unsafe-io", "-o", "Dpkg::Options::=--force-confold")
    return Command(("apt-get", *flags, *dpkg, "-y", *arguments), env=_QUIET)


def _make_base_stage(recipe: Recipe) -> Stage:
    mirrors = [_get_mirrors(recipe)[0]]
    if recipe.snapshot:
        # With its default mirror mmdebstrap uses the other suites, too. The dated ones take the place of the default.
        mirrors = ["--dated", *mirrors, *(() if recipe.mirror else (recipe.snapshot.security_mirror or "",))]
    bootstrap = Command((f"{_SCRIPTS}/bootstrap", recipe.bootstrap, recipe.release, ROOT, CACHE, *mirrors), env=_QUIET)
    # The bootstrappers copy these from the builder or leave them behind.
    tidy = Command(("rm", "-rf", "/etc/resolv.conf", "/etc/hostname", "/var/cache/apt/archives"), chroot=True)
    return Stage("base", (bootstrap, tidy), cached=True)


def _make_skeleton_stage(recipe: Recipe) -> Stage:
    return Stage(
        "skeleton",
        (
            Tree("skeleton", "virtiofs"),
            Tree("skeleton", "network"),
            Tree("skeleton", "sshd"),
            Tree("skeleton", "machine-specific"),
            *(Tree("skeleton", name) for name in generators.get_generator(recipe).skeletons),
            surroundings.set_up(),
            # Prevent packages from starting services in the builder. The finish stage removes it.
            Command(("sh", "-c", "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d"), chroot=True),
            Command(("chmod", "755", "/usr/sbin/policy-rc.d"), chroot=True),
        ),
    )


#: A file in the builder that exists once its package lists have been updated.
_LISTS_UPDATED = "/run/virtroot-lists-updated"


def _update_lists(recipe: Recipe) -> tuple[Command, ...]:
    """Return the commands that update the package lists, once per builder.

    Each stage needs them, because the stage before it may have been restored from the cache.
    """
    update = _make_apt_command(recipe, "-qq", "--error-on=any", "update")
    once = Command(("sh", "-ec", '[ -e "$0" ] || { "$@"; touch "$0"; }', _LISTS_UPDATED, *update.argv), env=update.env)
    return Command(("mkdir", "-p", f"{CACHE}/archives/partial", f"{CACHE}/lists-{recipe.release}/partial")), once


def _make_kernel_stage(recipe: Recipe) -> Stage:
    generator = generators.get_generator(recipe)
    # Debian's kernels depend on a generator's package; without one, apt would install initramfs-tools.
    stands_for = (Command((f"{_SCRIPTS}/stand-for-generator", ROOT, generator.placeholder, *generator.packages)),)
    return Stage(
        "kernel",
        (
            Command((f"{_SCRIPTS}/write-sources", recipe.release, ROOT, *_get_guest_mirrors(recipe))),
            *_switch_sources(recipe, "lend"),
            *_update_lists(recipe),
            # This also upgrades the minimal root to the security suite, in the same transaction.
            _make_apt_command(recipe, "dist-upgrade", *generator.packages),
            *(stands_for if generator.placeholder else ()),
            # Install the kernel alone. Together with the generator, the kernel's hook and the generator's trigger would
            # each generate the initramfs. It comes before the recipe's packages because it takes longer than most of
            # them and is the same for many recipes. Packages with files for the initramfs trigger another one.
            _make_apt_command(recipe, "install", recipe.kernel),
        ),
        cached=True,
    )


def _make_packages_stage(recipe: Recipe) -> Stage:
    if not recipe.packages:
        return Stage("packages", cached=True)
    return Stage(
        "packages",
        (
            *_update_lists(recipe),
            _make_apt_command(recipe, "install", *dict.fromkeys(recipe.packages)),
            # Delete downloads that no build has used for a month. apt-get autoclean would read all lists again.
            Command(("find", f"{CACHE}/archives", "-name", "*.deb", "-atime", "+30", "-delete")),
        ),
        cached=True,
    )


def _make_overlay_stage(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    generator = generators.get_generator(recipe)
    steps: list[Command | Tree] = []
    if recipe.overlay:
        steps.append(Tree("overlay", recipe.overlay))
    if recipe.run:
        # Commands of the recipe may need the network, and the root has no resolver during the build.
        steps.append(Command((f"{_SCRIPTS}/resolver", "lend", ROOT)))
        steps += [Command(("sh", "-ec", command), chroot=True, env=_QUIET) for command in recipe.run]
        steps.append(Command((f"{_SCRIPTS}/resolver", "take-back", ROOT)))
    if any(path.startswith(generator.config) for path in overlay_paths):
        steps.append(generator.regeneration)
    return Stage("overlay", tuple(steps), foreign=True)


def _make_finish_stage(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    def remove(*paths: str) -> Command:
        return Command(("rm", "-rf", *paths), chroot=True)

    return Stage(
        "finish",
        (
            *_switch_sources(recipe, "take-back"),
            surroundings.tear_down(),
            # Debian installs networkd but does not enable it; the guest would have no network.
            Command(("systemctl", "enable", "systemd-networkd.service"), chroot=True, env=(("SYSTEMD_OFFLINE", "1"),)),
            machine_specific.make_removal(overlay_paths),
            Command(("find", "/var/log", "-type", "f", "-delete"), chroot=True),
            Command(
                ("find", "/var/lib/dpkg", "/var/cache/debconf", "-name", "*-old", "-type", "f", "-delete"), chroot=True
            ),
            Command(
                ("find", "/run", "/tmp", "/var/tmp", "/var/lib/apt/lists", "-mindepth", "1", "-delete"), chroot=True
            ),
            remove("/var/cache/apt", "/var/cache/ldconfig/aux-cache", "/usr/sbin/policy-rc.d"),
            Command(("mkdir", "-p", "/var/cache/apt/archives/partial"), chroot=True),
            # Prevent systemd's ConditionNeedsUpdate units, which would generate catalogues and caches again at a
            # guest's first boot. The packages have just generated them, and it takes longer than the rest of the boot.
            Command(("touch", "--reference=/usr", "/etc/.updated", "/var/.updated"), chroot=True),
            Command((f"{_SCRIPTS}/make-databases", ROOT)),
            # With an empty file, unlike a missing one, systemd sets an id without treating the boot as the first one.
            Command(("truncate", "--size=0", "/etc/machine-id"), chroot=True),
            Command(("chmod", "0644", "/etc/machine-id"), chroot=True),
        ),
    )


def _make_stages(recipe: Recipe, overlay_paths: tuple[str, ...]) -> tuple[Stage, ...]:
    return (
        _make_base_stage(recipe),
        _make_skeleton_stage(recipe),
        _make_kernel_stage(recipe),
        _make_packages_stage(recipe),
        _make_overlay_stage(recipe, overlay_paths),
        _make_finish_stage(recipe, overlay_paths),
    )


# A removed package whose configuration files remain is not installed.
_PACKAGES = r"dpkg-query -W -f '${db:Status-Status} ${Package}\t${Version}\n' | sed -n 's/^installed //p'"


def _make_mirror_query(recipe: Recipe) -> Command:
    return Command((f"{_SCRIPTS}/mirror-state", recipe.release, *_get_mirrors(recipe)))


DEBIAN = Distro(
    name="debian",
    releases=("trixie", "bookworm"),
    bootstraps=("debootstrap", "mmdebstrap"),
    kernel="linux-image-cloud-amd64",
    containerfile="debian",
    base_image="debian:trixie-slim",
    base_suite="trixie",
    capabilities=(),
    find_mistakes=_find_mistakes,
    set_up_builder=lambda recipe: (),
    stages=_make_stages,
    mirror_query=_make_mirror_query,
    packages_query=("sh", "-c", _PACKAGES),
    packages_check=("sh", "-c", 'dpkg --audit >&2; test -z "$(dpkg --audit)"'),
)

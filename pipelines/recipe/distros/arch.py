"""The build of an Arch root: pacstrap, the skeleton, and pacstrap again."""

from __future__ import annotations

from pipelines.recipe import generators, machine_specific, surroundings
from pipelines.recipe.distros.distro import Distro
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.stage import CACHE, ROOT, Command, Stage, Tree

_SCRIPTS = "/usr/local/lib/virtroot"
_CONFIG = "/etc/virtroot/pacman.conf"
_KEYRINGS = "/etc/virtroot/keyrings"
_TRUSTED = "/etc/virtroot/trusted"
_DOWNLOADS = f"{CACHE}/pkg"
_DATABASES = "/var/lib/virtroot/pacman"

#: Arch's redirector to a mirror nearby.
_DEFAULT_MIRROR = "https://geo.mirror.pkgbuild.com/$repo/os/$arch"

_CLAMP_INSTALL_DATES = (
    'find /var/lib/pacman/local -name desc -exec sed -i "/^%INSTALLDATE%/ { n; s/.*/$SOURCE_DATE_EPOCH/ }" {} +'
)


def _get_mirrors(recipe: Recipe) -> tuple[str, ...]:
    """Return the mirrors that the build uses."""
    if recipe.snapshot:
        return (recipe.snapshot.mirror or "",)
    return _get_guest_mirrors(recipe)


def _get_guest_mirrors(recipe: Recipe) -> tuple[str, ...]:
    """Return the mirrors that the guest uses."""
    return tuple(mirror.url for mirror in recipe.mirror) or (_DEFAULT_MIRROR,)


def _list_keyrings(recipe: Recipe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(mirror.keyring for mirror in recipe.mirror if mirror.keyring))


def _make_keyring_trees(recipe: Recipe) -> tuple[Tree, ...]:
    # One directory each: files of different folders may have the same name.
    return tuple(Tree("keyring", name, f"{_KEYRINGS}/{index}") for index, name in enumerate(_list_keyrings(recipe)))


def _find_mistakes(recipe: Recipe) -> list[str]:
    mistakes = []
    if recipe.security_mirror:
        mistakes.append("security_mirror: for debian only; Arch has no security suite")
    if recipe.siglevel == "never" and _list_keyrings(recipe):
        mistakes.append("siglevel: never does not check signatures, so a keyring has no effect; remove one of them")
    if recipe.snapshot and recipe.snapshot.security_mirror:
        mistakes.append("snapshot: security_mirror is for debian only; Arch has no security suite")
    return mistakes


def _make_pacstrap_command(*packages: str) -> Command:
    # -c: keep packages in the builder's cache. -M, -G: do not copy the builder's list of mirrors and its keyring.
    return Command(("pacstrap", "-C", _CONFIG, "-c", "-M", "-G", ROOT, *packages))


def _set_up_builder(recipe: Recipe) -> tuple[Command | Tree, ...]:
    """Return the steps that configure mirrors and trusted keys of the builder's pacman."""
    trees = _make_keyring_trees(recipe)
    files = (f"{tree.builder}/{tree.name.rpartition('/')[2]}" for tree in trees)
    return (
        *trees,
        *((Command((f"{_SCRIPTS}/trust-keys", _TRUSTED, *files)),) if trees else ()),
        Command((f"{_SCRIPTS}/write-config", _CONFIG, _DOWNLOADS, recipe.siglevel, *_get_mirrors(recipe))),
        *((Command((f"{_SCRIPTS}/refresh-keys", _CONFIG, _DATABASES)),) if recipe.siglevel == "required" else ()),
    )


def _format_mirrorlist(mirrors: tuple[str, ...]) -> str:
    return "\n".join(f"Server = {url}" for url in mirrors)


#: Replace the dated archive in the list of mirrors by the guest's mirrors, unless something else changed the list.
_RESTORE_MIRRORS = """
list=/etc/pacman.d/mirrorlist
if [ "$(cat "$list")" = "$1" ]; then printf "%s\\n" "$2" > "$list"; fi
"""


def _make_skeleton_stage(recipe: Recipe) -> Stage:
    names = ("virtiofs", "arch", "network", "sshd", "machine-specific", *generators.get_generator(recipe).skeletons)
    script = 'printf "%s\\n" "$1" > /etc/pacman.d/mirrorlist'
    write = Command(("sh", "-c", script, "write", _format_mirrorlist(_get_mirrors(recipe))), chroot=True)
    # The guest upgrades from the same mirrors, so the keyring that it generates has to contain the same keys.
    public = (f"{_TRUSTED}/virtroot{part}" for part in (".gpg", "-trusted", "-revoked"))
    publish = Command(("install", "-D", "-m", "644", "-t", f"{ROOT}/usr/share/pacman/keyrings", *public))
    return Stage(
        "skeleton",
        (
            *(Tree("skeleton", name) for name in names),
            Command(("mkdir", "-p", "/etc/pacman.d"), chroot=True),
            write,
            surroundings.set_up(),
            # No package of Arch has devices. Without this one, output to /dev/null would create a file in the root.
            Command(("cp", "-a", "--remove-destination", "/dev/null", f"{ROOT}/dev/null")),
            *((publish,) if _list_keyrings(recipe) else ()),
        ),
    )


def _make_packages_stage(recipe: Recipe) -> Stage:
    generator = generators.get_generator(recipe)
    names = dict.fromkeys((recipe.kernel, *generator.packages, *recipe.packages))
    # Arch's kernels depend on a generator's package; without one, pacman would install mkinitcpio.
    stands_for = (Command((f"{_SCRIPTS}/stand-for-generator", _CONFIG, ROOT, generator.placeholder)),)
    # All packages are one transaction, so that pacman's hook generates the initramfs once, after it, with the
    # skeleton's drop-ins. Commands of the recipe may call pacman, which needs a keyring to check signatures. The finish
    # stage deletes it.
    keyring = Command(("arch-chroot", ROOT, "/usr/lib/virtroot/pacman-keyring"))
    steps = (
        *(stands_for if generator.placeholder else ()),
        _make_pacstrap_command(*names),
        *((keyring,) if recipe.run else ()),
    )
    return Stage("packages", steps, cached=True)


def _make_overlay_stage(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    steps: list[Command | Tree] = []
    if recipe.overlay:
        steps.append(Tree("overlay", recipe.overlay))
    if recipe.run:
        # Commands of the recipe may need the network. /etc/resolv.conf is a link of systemd-resolved into /run, which
        # is empty here.
        lend = 'mkdir -p "$1/run/systemd/resolve"; cp /etc/resolv.conf "$1/run/systemd/resolve/stub-resolv.conf"'
        steps.append(Command(("sh", "-ec", lend, "lend", ROOT)))
        steps += [Command(("sh", "-ec", command), chroot=True) for command in recipe.run]
    if any(path.startswith(generators.get_generator(recipe).config) for path in overlay_paths):
        steps.append(generators.get_generator(recipe).regeneration)
    return Stage("overlay", tuple(steps), foreign=True)


def _make_finish_stage(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    services = ["systemd-networkd.service", "systemd-resolved.service"]
    if "openssh" in recipe.packages:
        services.append("sshd.service")
    lists = (_format_mirrorlist(_get_mirrors(recipe)), _format_mirrorlist(_get_guest_mirrors(recipe)))
    take_back = Command(("sh", "-ec", _RESTORE_MIRRORS, "take-back", *lists), chroot=True)
    return Stage(
        "finish",
        (
            *((take_back,) if recipe.snapshot else ()),
            surroundings.tear_down(),
            Command(("systemctl", "enable", *services), chroot=True, env=(("SYSTEMD_OFFLINE", "1"),)),
            machine_specific.make_removal(overlay_paths),
            # pacman creates them if a skeleton has a configuration file of a package.
            Command(("find", "/etc", "-name", "*.pacnew", "-delete"), chroot=True),
            Command(
                ("find", "/var/log", "/var/cache/pacman", "/var/lib/pacman/sync", "-type", "f", "-delete"), chroot=True
            ),
            Command(("find", "/run", "/tmp", "/var/tmp", "-mindepth", "1", "-delete"), chroot=True),
            # All guests would have this secret key. Each generates its own keyring at its first boot.
            Command(("rm", "-rf", "/etc/pacman.d/gnupg"), chroot=True),
            # pacman's database records when each package was installed, which differs between builds.
            Command(("sh", "-ec", _CLAMP_INSTALL_DATES), chroot=True),
            Command(("rm", "-f", "/var/cache/ldconfig/aux-cache"), chroot=True),
            # Prevent systemd's ConditionNeedsUpdate units at the first boot: the build has done their work.
            Command(("touch", "--reference=/usr", "/etc/.updated", "/var/.updated"), chroot=True),
            # With an empty file, unlike a missing one, systemd sets an id without treating the boot as the first one.
            Command(("truncate", "--size=0", "/etc/machine-id"), chroot=True),
            Command(("chmod", "0644", "/etc/machine-id"), chroot=True),
        ),
    )


def _make_stages(recipe: Recipe, overlay_paths: tuple[str, ...]) -> tuple[Stage, ...]:
    return (
        Stage("base", (_make_pacstrap_command("base"),), cached=True),
        _make_skeleton_stage(recipe),
        _make_packages_stage(recipe),
        _make_overlay_stage(recipe, overlay_paths),
        _make_finish_stage(recipe, overlay_paths),
    )


ARCH = Distro(
    name="arch",
    releases=("rolling",),
    bootstraps=("pacstrap",),
    kernel="linux",
    containerfile="arch-on-debian",
    base_image="debian:trixie-slim",
    base_suite="trixie",
    # pacstrap mounts /proc, /sys and /dev in the root.
    capabilities=("SYS_ADMIN",),
    find_mistakes=_find_mistakes,
    set_up_builder=_set_up_builder,
    stages=_make_stages,
    mirror_query=lambda recipe: Command((f"{_SCRIPTS}/mirror-state", _CONFIG, _DATABASES)),
    packages_query=("pacman", "-Q"),
    packages_check=("pacman", "--database", "--check", "--quiet"),
)

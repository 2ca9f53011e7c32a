"""How an Arch root is made: pacstrap, twice, with the skeleton between."""

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

#: Arch's own redirector to a mirror that is near.
_DEFAULT_MIRROR = "https://geo.mirror.pkgbuild.com/$repo/os/$arch"

_CLAMP_INSTALL_DATES = (
    'find /var/lib/pacman/local -name desc -exec sed -i "/^%INSTALLDATE%/ { n; s/.*/$SOURCE_DATE_EPOCH/ }" {} +'
)


def _mirrors(recipe: Recipe) -> tuple[str, ...]:
    """Return where packages come from."""
    if recipe.snapshot:
        return (recipe.snapshot.mirror or "",)
    return _own_mirrors(recipe)


def _own_mirrors(recipe: Recipe) -> tuple[str, ...]:
    """Return what the guest upgrades from."""
    return tuple(mirror.url for mirror in recipe.mirror) or (_DEFAULT_MIRROR,)


def _keyrings(recipe: Recipe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(mirror.keyring for mirror in recipe.mirror if mirror.keyring))


def _keyring_trees(recipe: Recipe) -> tuple[Tree, ...]:
    # A place for each: files of different folders may have one name.
    return tuple(Tree("keyring", name, f"{_KEYRINGS}/{index}") for index, name in enumerate(_keyrings(recipe)))


def _refuses(recipe: Recipe) -> list[str]:
    mistakes = []
    if recipe.security_mirror:
        mistakes.append("security_mirror: is for debian; Arch has no security suite")
    if recipe.siglevel == "never" and _keyrings(recipe):
        mistakes.append("siglevel: never checks no signature, so a keyring has no use; take out one of them")
    if recipe.snapshot and recipe.snapshot.security_mirror:
        mistakes.append("snapshot: security_mirror is for debian; Arch has no security suite")
    return mistakes


def _pacstrap(*packages: str) -> Command:
    # Packages stay in the builder's cache (-c); its mirrors (-M) and its keyring (-G) are none of the root's business.
    return Command(("pacstrap", "-C", _CONFIG, "-c", "-M", "-G", ROOT, *packages))


def _set_up_builder(recipe: Recipe) -> tuple[Command | Tree, ...]:
    """Tell the builder's pacman where packages come from and whose signatures count."""
    trees = _keyring_trees(recipe)
    files = (f"{tree.builder}/{tree.name.rpartition('/')[2]}" for tree in trees)
    return (
        *trees,
        *((Command((f"{_SCRIPTS}/trust-keys", _TRUSTED, *files)),) if trees else ()),
        Command((f"{_SCRIPTS}/write-config", _CONFIG, _DOWNLOADS, recipe.siglevel, *_mirrors(recipe))),
        *((Command((f"{_SCRIPTS}/refresh-keys", _CONFIG, _DATABASES)),) if recipe.siglevel == "required" else ()),
    )


def _mirrorlist(mirrors: tuple[str, ...]) -> str:
    return "\n".join(f"Server = {url}" for url in mirrors)


#: Gives a root that was made from a dated archive the mirrors of its own; a list that others changed is theirs.
_TAKE_BACK = """
list=/etc/pacman.d/mirrorlist
if [ "$(cat "$list")" = "$1" ]; then printf "%s\\n" "$2" > "$list"; fi
"""


def _skeleton(recipe: Recipe) -> Stage:
    names = ("virtiofs", "arch", "network", "sshd", "machine-specific", *generators.of(recipe).skeletons)
    script = 'printf "%s\\n" "$1" > /etc/pacman.d/mirrorlist'
    write = Command(("sh", "-c", script, "write", _mirrorlist(_mirrors(recipe))), chroot=True)
    # The guest upgrades from the same mirrors, so the keyring that it makes for itself has to know the same keys.
    public = (f"{_TRUSTED}/virtroot{part}" for part in (".gpg", "-trusted", "-revoked"))
    publish = Command(("install", "-D", "-m", "644", "-t", f"{ROOT}/usr/share/pacman/keyrings", *public))
    return Stage(
        "skeleton",
        (
            *(Tree("skeleton", name) for name in names),
            Command(("mkdir", "-p", "/etc/pacman.d"), chroot=True),
            write,
            surroundings.lend(),
            # Arch's packages bring no devices: what commands in the root discard would stay in it as a file.
            Command(("cp", "-a", "--remove-destination", "/dev/null", f"{ROOT}/dev/null")),
            *((publish,) if _keyrings(recipe) else ()),
        ),
    )


def _packages(recipe: Recipe) -> Stage:
    generator = generators.of(recipe)
    names = dict.fromkeys((recipe.kernel, *generator.packages, *recipe.packages))
    # Arch's kernels depend on a generator's package, and would bring mkinitcpio where none is there.
    stands_for = (Command((f"{_SCRIPTS}/stand-for-generator", _CONFIG, ROOT, generator.stand_in)),)
    # One transaction: pacman's hook makes the initramfs once, after it, with the skeleton's drop-ins in place.
    # Commands may want pacman, which checks what it installs. The finish stage takes the keyring away.
    keyring = Command(("arch-chroot", ROOT, "/usr/lib/virtroot/pacman-keyring"))
    steps = (*(stands_for if generator.stand_in else ()), _pacstrap(*names), *((keyring,) if recipe.run else ()))
    return Stage("packages", steps, cached=True)


def _overlay(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    steps: list[Command | Tree] = []
    if recipe.overlay:
        steps.append(Tree("overlay", recipe.overlay))
    if recipe.run:
        # Commands may want the network, and systemd-resolved's link leads into a /run that is empty here.
        lend = 'mkdir -p "$1/run/systemd/resolve"; cp /etc/resolv.conf "$1/run/systemd/resolve/stub-resolv.conf"'
        steps.append(Command(("sh", "-ec", lend, "lend", ROOT)))
        steps += [Command(("sh", "-ec", command), chroot=True) for command in recipe.run]
    if any(path.startswith(generators.of(recipe).config) for path in overlay_paths):
        steps.append(generators.of(recipe).regeneration)
    return Stage("overlay", tuple(steps), foreign=True)


def _finish(recipe: Recipe, overlay_paths: tuple[str, ...]) -> Stage:
    services = ["systemd-networkd.service", "systemd-resolved.service"]
    if "openssh" in recipe.packages:
        services.append("sshd.service")
    lists = (_mirrorlist(_mirrors(recipe)), _mirrorlist(_own_mirrors(recipe)))
    take_back = Command(("sh", "-ec", _TAKE_BACK, "take-back", *lists), chroot=True)
    return Stage(
        "finish",
        (
            *((take_back,) if recipe.snapshot else ()),
            surroundings.take_back(),
            Command(("systemctl", "enable", *services), chroot=True, env=(("SYSTEMD_OFFLINE", "1"),)),
            machine_specific.removal(overlay_paths),
            # Left where a package brings a configuration file that a skeleton had put there before.
            Command(("find", "/etc", "-name", "*.pacnew", "-delete"), chroot=True),
            Command(
                ("find", "/var/log", "/var/cache/pacman", "/var/lib/pacman/sync", "-type", "f", "-delete"), chroot=True
            ),
            Command(("find", "/run", "/tmp", "/var/tmp", "-mindepth", "1", "-delete"), chroot=True),
            # A secret key here would be every guest's; each makes its own keyring at its first boot.
            Command(("rm", "-rf", "/etc/pacman.d/gnupg"), chroot=True),
            # pacman's database says when each package was installed, which differs between builds of equal roots.
            Command(("sh", "-ec", _CLAMP_INSTALL_DATES), chroot=True),
            Command(("rm", "-f", "/var/cache/ldconfig/aux-cache"), chroot=True),
            # Nothing that these would bring about at the first boot is left to do.
            Command(("touch", "--reference=/usr", "/etc/.updated", "/var/.updated"), chroot=True),
            # Empty and not missing: systemd then takes an id at boot without calling it the machine's first boot.
            Command(("truncate", "--size=0", "/etc/machine-id"), chroot=True),
            Command(("chmod", "0644", "/etc/machine-id"), chroot=True),
        ),
    )


def _stages(recipe: Recipe, overlay_paths: tuple[str, ...]) -> tuple[Stage, ...]:
    return (
        Stage("base", (_pacstrap("base"),), cached=True),
        _skeleton(recipe),
        _packages(recipe),
        _overlay(recipe, overlay_paths),
        _finish(recipe, overlay_paths),
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
    refuses=_refuses,
    set_up_builder=_set_up_builder,
    stages=_stages,
    mirror_query=lambda recipe: Command((f"{_SCRIPTS}/mirror-state", _CONFIG, _DATABASES)),
    packages_query=("pacman", "-Q"),
    packages_check=("pacman", "--database", "--check", "--quiet"),
)

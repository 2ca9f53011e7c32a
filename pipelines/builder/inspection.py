"""The rules of a root that boots from virtiofs, checked before it is published.

`gather` asks the builder for facts; the rules look at nothing else. Each rule names a way in which a guest hangs or a
host is put at risk.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipelines.errors import Phase, VirtrootError
from pipelines.recipe.generators import Generator
from pipelines.target.target import Target
from pipelines.text import split_fields, split_lines, trim

# What comes from the root loses the two characters that part the sections, and no file is read that is none.
_FACTS = r"""
cd "$1"; kernel=$2 initrd=$3
section() { printf '\036%s\037' "$1"; tr -d '\036\037'; }
plain() { [ -f "$1" ] && [ ! -L "$1" ]; }
readlink "$kernel" | section kernel
readlink "$initrd" | section initrd
if plain etc/fstab; then head -c 65536 etc/fstab; fi | section fstab
for trace in boot/grub boot/grub2 usr/sbin/grub-install etc/default/grub; do
    if [ -e "$trace" ] || [ -L "$trace" ]; then printf '%s\n' "$trace"; fi
done | section grub
for file in usr/lib/modules/*/modules.builtin; do
    if plain "$file"; then version=${file%/*}; sed "s|^|${version##*/} |" "$file"; fi
done | section builtin
for file in usr/lib/modules/*/pkgbase; do
    if plain "$file"; then version=${file%/*}; printf '%s %s\n' "${version##*/}" "$(head -c 256 "$file")"; fi
done | section pkgbase
# usage: missing DATABASE SOURCE...   An empty hardware database has 105 bytes.
missing() {
    if [ -e "$2" ] && [ "$(stat --format=%s "$1" 2> /dev/null || echo 0)" -lt 1024 ]; then echo "$1"; fi
}
{
    [ -e etc/udev/hwdb.bin ] || missing usr/lib/udev/hwdb.bin usr/lib/udev/hwdb.d/*.hwdb
    missing var/lib/systemd/catalog/database usr/lib/systemd/catalog/*.catalog
} | section databases
# In the root, where a link leads to what the guest will find, and not to a file of the builder.
chroot . sh -c 'file=$(readlink -f /sbin/init) && [ -f "$file" ] && [ -x "$file" ] && echo "$file"' | section init
"""

#: Bytes that a command may say of a root, and seconds that it may take: a recipe's commands may have replaced it.
_LIMIT, _TIMEOUT = 64 << 20, 300

_IS_REGULAR = 'cd "$1"; for name in "$2" "$3"; do if [ -f "$name" ] && [ ! -L "$name" ]; then echo "$name"; fi; done'


@dataclass(frozen=True)
class RootFacts:
    """What the rules look at.

    ``kernel`` and ``initrd`` (empty: none) are the boot paths, ``kernel_link`` and ``initrd_link`` what the links
    there say (empty for files), ``regular`` the paths, links followed inside the root, that are regular files.
    ``initramfs`` has the initramfs's entries, ``resume`` its lines that name a resume device, ``builtin`` maps kernel
    version to the modules built into it, ``pkgbase`` kernel version to the package that says it brought it. ``init``
    is the program that ``/sbin/init`` is, links followed inside the root; empty where there is none, or none that can
    be started. ``rdinit`` is the program of the initramfs that the kernel is told to start, empty for ``/init``;
    ``switches`` are the programs of which it needs one to go on in the root. ``databases`` are those that programs make
    of files that are there, and that are missing or empty.
    """

    kernel: str
    initrd: str
    kernel_link: str
    initrd_link: str
    regular: frozenset[str]
    fstab: str
    grub: tuple[str, ...]
    packages: tuple[str, ...]
    initramfs: tuple[str, ...]
    resume: tuple[str, ...]
    builtin: dict[str, frozenset[str]]
    init: str
    pkgbase: dict[str, str] = field(default_factory=dict)
    rdinit: str = ""
    switches: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()

    @property
    def kernel_path(self) -> str:
        """The kernel's path after its link, relative to the root."""
        return _followed(self.kernel, self.kernel_link)

    @property
    def initrd_path(self) -> str:
        """The initramfs's path after its link, relative to the root."""
        return _followed(self.initrd, self.initrd_link)

    @property
    def kernel_version(self) -> str:
        """The version in the kernel's file name, else its package's, else the only one with modules, else empty."""
        named = _version(self.kernel_path)
        if named in self.builtin:
            return named
        package = posixpath.basename(self.kernel_path).removeprefix("vmlinuz-")
        brought = [version for version, pkgbase in self.pkgbase.items() if pkgbase == package]
        for versions in (brought, list(self.builtin)):
            if len(versions) == 1:
                return versions[0]
        return named


def _followed(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) if link else path


def _version(path: str) -> str:
    """Take ``6.12.0-amd64`` out of ``boot/vmlinuz-6.12.0-amd64``; empty where a name has no version."""
    match = re.search(r"-(\d+\..*)$", posixpath.basename(path))
    return match[1].removesuffix(".img") if match else ""


def gather(target: Target, root: str, generator: Generator, packages: tuple[str, ...]) -> RootFacts:
    """Collect the facts of the tree ``root`` on ``target``; ``packages`` are the installed packages' names."""
    facts = ["sh", "-c", _FACTS, "facts", root, generator.kernel, generator.initrd]
    answer = target.run(facts, limit=_LIMIT, timeout=_TIMEOUT).text
    sections = dict(part.split("\037", 1) for part in answer.split("\036")[1:])
    lines = {name: tuple(line for line in split_lines(body) if line) for name, body in sections.items()}
    kernel_link, initrd_link = trim(sections["kernel"]), trim(sections["initrd"])
    paths = [_followed(generator.kernel, kernel_link), _followed(generator.initrd, initrd_link)]
    safe = [path for path in paths if not path.startswith(("/", "../"))]
    regular = split_lines(target.run(["sh", "-ec", _IS_REGULAR, "regular", root, *[*safe, "", ""][:2]]).text)
    pkgbase = dict(split_fields(line, 2) for line in lines["pkgbase"] if len(split_fields(line)) > 1)
    builtin: dict[str, set[str]] = {}
    for line in lines["builtin"]:
        version, _, module = line.partition(" ")
        builtin.setdefault(version, set()).add(module)
    readable = paths[1] in regular
    with ThreadPoolExecutor(2) as both:
        asked = [
            both.submit(_in_root, target, root, argv if readable else (), paths[1])
            for argv in (generator.list_initramfs, generator.show_resume)
        ]
    return RootFacts(
        kernel=generator.kernel,
        initrd=generator.initrd,
        kernel_link=kernel_link,
        initrd_link=initrd_link,
        regular=frozenset(regular),
        fstab=sections["fstab"],
        grub=lines["grub"],
        packages=packages,
        initramfs=asked[0].result(),
        resume=asked[1].result(),
        builtin={version: frozenset(modules) for version, modules in builtin.items()},
        init=trim(sections["init"]),
        pkgbase=pkgbase,
        rdinit=generator.rdinit,
        switches=generator.switches,
        databases=lines["databases"],
    )


def _in_root(target: Target, root: str, argv: tuple[str, ...], path: str) -> tuple[str, ...]:
    if not argv:
        return ()
    done = target.run(["chroot", root, *argv, f"/{path}"], limit=_LIMIT, timeout=_TIMEOUT)
    return tuple(split_lines(done.text))


def _modules(facts: RootFacts) -> str:
    """Prevents "tag <root> not found": both modules are needed before the root can be mounted."""
    version = facts.kernel_version
    if not facts.initrd:
        return _not_built_in(version, facts.builtin.get(version, frozenset()))
    # booster makes an initramfs for one kernel, and leaves its version out of the paths.
    own = re.compile(rf"/modules/({re.escape(version)}/.*|[^/]+)$")
    available = {_module(entry) for entry in facts.initramfs if own.search(entry)}
    available |= {_module(entry) for entry in facts.builtin.get(version, ())}
    missing = [module for module in ("virtiofs", "virtio_pci") if module not in available]
    if missing:
        return f"{' and '.join(missing)} neither in {facts.initrd_path} nor built into kernel {version or '(unknown)'}"
    return ""


#: What a kernel that mounts the root itself has to have in it; virtiofs is a FUSE, and virtio_pci rests on the others.
_NEEDED_BUILT_IN = ("virtiofs", "virtio_pci", "fuse", "virtio", "virtio_ring")


def _not_built_in(version: str, builtin: frozenset[str]) -> str:
    built_in = {_module(entry) for entry in builtin}
    missing = [module for module in _NEEDED_BUILT_IN if module not in built_in]
    if not missing:
        return ""
    return (
        f"without an initramfs, {' and '.join(missing)} must be built into kernel {version or '(unknown)'}, and is not"
    )


def _module(entry: str) -> str:
    match = re.search(r"([^/]+)\.ko(\.\w+)?$", entry)
    return match[1].replace("-", "_") if match else ""


def _resume(facts: RootFacts) -> str:
    """Prevents a boot that waits for a device that is not there."""
    for line in facts.resume:
        match = re.fullmatch(r"\s*(?:export\s+)?RESUME=(.*)", line)
        if match and trim(match[1]).strip("'\"") not in {"none", ""}:
            return f"conf.d/resume in the initramfs names {trim(match[1])}, which the boot would wait for"
    return ""


def _fstab(facts: RootFacts) -> str:
    """Prevents a root that stays read-only, and units that wait for disks of another machine."""
    lines = [fields for line in split_lines(facts.fstab) if (fields := split_fields(line)) and fields[0][:1] != "#"]
    if lines != [["root", "/", "virtiofs", "defaults", "0", "0"]]:
        found = "; ".join(" ".join(line) for line in lines) or "no line"
        return f"etc/fstab must have the one line `root / virtiofs defaults 0 0`, it has: {found}"
    return ""


def _grub(facts: RootFacts) -> str:
    """Prevents kernel upgrades that fail in a boot loader's hooks."""
    traces = [*facts.grub, *(f"package {name}" for name in facts.packages if name.startswith("grub"))]
    return f"there is no boot loader in a virtiofs root, but found: {', '.join(traces)}" if traces else ""


def _kernel(facts: RootFacts) -> str:
    """Prevents a host that is handed a kernel from outside the root, or none."""
    return _boot_file("kernel", facts.kernel, facts.kernel_link, facts.kernel_path, facts.regular)


def _initrd(facts: RootFacts) -> str:
    """Prevents a host that is handed an initramfs from outside the root, or none where the domain names one."""
    if not facts.initrd:
        return ""
    return _boot_file("initramfs", facts.initrd, facts.initrd_link, facts.initrd_path, facts.regular)


def _boot_file(what: str, path: str, link: str, followed: str, regular: frozenset[str]) -> str:
    if link.startswith("/"):
        return f"the {what} link {path} -> {link} is absolute: outside the root it names a file of the host"
    if followed.startswith("../"):
        return f"the {what} link {path} -> {link} leaves the root"
    if followed not in regular:
        return f"the {what} {path}{f' -> {link}' if link else ''} is no regular file inside the root"
    return ""


def _versions(facts: RootFacts) -> str:
    """Prevents a kernel that finds the modules of another one in its initramfs."""
    kernel, initrd = _version(facts.kernel_path), _version(facts.initrd_path)
    if kernel and initrd and kernel != initrd:
        return f"{facts.kernel} is version {kernel}, but {facts.initrd} is version {initrd}"
    return ""


def _programs(facts: RootFacts) -> str:
    """Prevents an initramfs without the program that the kernel starts, or without one that goes on in the root.

    A generator that fails halfway may leave such an image, and its hook's failure is lost on the package manager.
    """
    # Of a link what comes before the arrow is its path.
    names = {entry.partition(" -> ")[0].split(" ")[-1].removeprefix("./").strip("/") for entry in facts.initramfs}
    if facts.rdinit and facts.rdinit not in names:
        return f"{facts.initrd_path} has no {facts.rdinit}, which the kernel's command line names"
    if not facts.switches or not facts.initramfs:
        return ""
    if not facts.rdinit and "init" not in names:
        return f"{facts.initrd_path} has no init, which the kernel starts"
    if not {posixpath.basename(name) for name in names} & set(facts.switches):
        return f"{facts.initrd_path} has no {' or '.join(facts.switches)}, and so cannot go on in the root"
    return ""


def _init(facts: RootFacts) -> str:
    """Prevents an initramfs that mounts the root and finds no program to go on with."""
    return "" if facts.init else "no init: sbin/init is missing, no program, or a link that leads to none in the root"


RULES: dict[str, Callable[[RootFacts], str]] = {
    "kernel-path": _kernel,
    "initramfs-path": _initrd,
    "same-version": _versions,
    "virtiofs-modules": _modules,
    "initramfs-program": _programs,
    "no-resume": _resume,
    "fstab": _fstab,
    "no-grub": _grub,
    "init": _init,
}


def violations(facts: RootFacts) -> list[str]:
    """Return ``rule: what is wrong`` for each rule that ``facts`` break; empty for a root that may be published."""
    return [f"{name}: {complaint}" for name, rule in RULES.items() if (complaint := rule(facts))]


def doubts(facts: RootFacts) -> list[str]:
    """Return in words what is odd about a root that boots nevertheless."""
    return [f"/{path} is missing or empty: the program that makes it failed in the builder" for path in facts.databases]


def refuse_broken(facts: RootFacts) -> None:
    """Raise `VirtrootError` naming every broken rule."""
    broken = violations(facts)
    hint = "look at the recipe's packages, overlay and run commands: one of them undoes what virtroot set up"
    if not facts.initrd and _modules(facts):
        hint = "generator: none is for kernels that mount virtiofs alone, as trixie's and Arch's; use another generator"
    if broken:
        raise VirtrootError(
            f"the root breaks the rule {broken[0]}" if len(broken) == 1 else f"the root breaks {len(broken)} rules",
            hint,
            "\n".join(broken) if len(broken) > 1 else "",
            where=Phase.INSPECT,
        )

"""The rules for a root that boots from virtiofs, checked before it is published.

`gather` collects facts in the builder; the rules use nothing else. Each rule prevents a guest that hangs, or a risk for
the host.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import Phase, VirtrootError
from pipelines.recipe.generators import Generator
from pipelines.target.target import Target
from pipelines.text import split_fields, split_lines, trim

_FACTS = Path(__file__).with_name("inspect_root.sh").read_text(encoding="utf-8")

#: Bytes that a command in a root may print, and seconds that it may take: a recipe's commands may have replaced it.
_MAX_OUTPUT, _TIMEOUT = 64 << 20, 300

_IS_REGULAR = 'cd "$1"; for name in "$2" "$3"; do if [ -f "$name" ] && [ ! -L "$name" ]; then echo "$name"; fi; done'


@dataclass(frozen=True)
class RootFacts:
    """The facts that the rules use.

    ``kernel`` and ``initrd`` (empty: none) are the boot paths. ``kernel_link`` and ``initrd_link`` are the targets of
    the links there, empty for files. ``regular`` are those of the two paths, with links resolved inside the root, that
    are regular files. ``initramfs`` has the entries of the initramfs, ``resume`` its lines with a resume device.
    ``builtin`` maps a kernel's version to its built-in modules, ``pkgbase`` maps it to the package of that kernel.
    ``init`` is the program ``/sbin/init``, with links resolved inside the root; empty if it is missing or not
    executable. ``rdinit`` is the program of the initramfs that the kernel starts, empty for ``/init``. ``switches`` are
    programs that switch to the root; the initramfs needs one of them. ``databases`` are missing or empty databases
    whose source files exist.
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
        """The kernel's path with its link resolved, relative to the root."""
        return _resolve_link(self.kernel, self.kernel_link)

    @property
    def initrd_path(self) -> str:
        """The path of the initramfs with its link resolved, relative to the root."""
        return _resolve_link(self.initrd, self.initrd_link)

    @property
    def kernel_version(self) -> str:
        """The kernel's version: from its file name, or its package, or the only one with modules; otherwise empty."""
        named = _parse_version(self.kernel_path)
        if named in self.builtin:
            return named
        package = posixpath.basename(self.kernel_path).removeprefix("vmlinuz-")
        brought = [version for version, pkgbase in self.pkgbase.items() if pkgbase == package]
        for versions in (brought, list(self.builtin)):
            if len(versions) == 1:
                return versions[0]
        return named


def _resolve_link(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) if link else path


def _parse_version(path: str) -> str:
    """Return ``6.12.0-amd64`` for ``boot/vmlinuz-6.12.0-amd64``; empty for a name without a version."""
    match = re.search(r"-(\d+\..*)$", posixpath.basename(path))
    return match[1].removesuffix(".img") if match else ""


def gather(target: Target, root: str, generator: Generator, packages: tuple[str, ...]) -> RootFacts:
    """Collect the facts of the tree ``root`` on ``target``; ``packages`` are the names of the installed packages."""
    facts = ["sh", "-c", _FACTS, "facts", root, generator.kernel, generator.initrd]
    answer = target.run(facts, limit=_MAX_OUTPUT, timeout=_TIMEOUT).text
    sections = dict(part.split("\037", 1) for part in answer.split("\036")[1:])
    lines = {name: tuple(line for line in split_lines(body) if line) for name, body in sections.items()}
    kernel_link, initrd_link = trim(sections["kernel"]), trim(sections["initrd"])
    paths = [_resolve_link(generator.kernel, kernel_link), _resolve_link(generator.initrd, initrd_link)]
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
            both.submit(_run_in_root, target, root, argv if readable else (), paths[1])
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


def _run_in_root(target: Target, root: str, argv: tuple[str, ...], path: str) -> tuple[str, ...]:
    if not argv:
        return ()
    done = target.run(["chroot", root, *argv, f"/{path}"], limit=_MAX_OUTPUT, timeout=_TIMEOUT)
    return tuple(split_lines(done.text))


def _find_module_fault(facts: RootFacts) -> str:
    """Prevent the kernel's "tag <root> not found": both modules are needed to mount the root."""
    version = facts.kernel_version
    if not facts.initrd:
        return _find_builtin_fault(version, facts.builtin.get(version, frozenset()))
    # booster generates an initramfs for one kernel; its paths do not contain the version.
    own = re.compile(rf"/modules/({re.escape(version)}/.*|[^/]+)$")
    available = {_parse_module(entry) for entry in facts.initramfs if own.search(entry)}
    available |= {_parse_module(entry) for entry in facts.builtin.get(version, ())}
    missing = [module for module in ("virtiofs", "virtio_pci") if module not in available]
    if missing:
        return f"{' and '.join(missing)} neither in {facts.initrd_path} nor built into kernel {version or '(unknown)'}"
    return ""


#: Modules that must be built into a kernel that mounts the root itself. virtiofs needs fuse, virtio_pci needs the rest.
_NEEDED_BUILT_IN = ("virtiofs", "virtio_pci", "fuse", "virtio", "virtio_ring")


def _find_builtin_fault(version: str, builtin: frozenset[str]) -> str:
    built_in = {_parse_module(entry) for entry in builtin}
    missing = [module for module in _NEEDED_BUILT_IN if module not in built_in]
    if not missing:
        return ""
    return (
        f"without an initramfs, {' and '.join(missing)} must be built into kernel {version or '(unknown)'}, but is not"
    )


def _parse_module(entry: str) -> str:
    match = re.search(r"([^/]+)\.ko(\.\w+)?$", entry)
    return match[1].replace("-", "_") if match else ""


def _find_resume_fault(facts: RootFacts) -> str:
    """Prevent a boot that waits for a missing device."""
    for line in facts.resume:
        match = re.fullmatch(r"\s*(?:export\s+)?RESUME=(.*)", line)
        if match and trim(match[1]).strip("'\"") not in {"none", ""}:
            return f"conf.d/resume in the initramfs has the device {trim(match[1])}; the boot would wait for it"
    return ""


def _find_fstab_fault(facts: RootFacts) -> str:
    """Prevent a root that stays read-only, and units that wait for disks of another machine."""
    lines = [fields for line in split_lines(facts.fstab) if (fields := split_fields(line)) and fields[0][:1] != "#"]
    if lines != [["root", "/", "virtiofs", "defaults", "0", "0"]]:
        found = "; ".join(" ".join(line) for line in lines) or "no line"
        return f"etc/fstab must have the single line `root / virtiofs defaults 0 0`, but has: {found}"
    return ""


def _find_grub_fault(facts: RootFacts) -> str:
    """Prevent kernel upgrades that fail in a boot loader's hooks."""
    traces = [*facts.grub, *(f"package {name}" for name in facts.packages if name.startswith("grub"))]
    return f"a virtiofs root must not have a boot loader, but has: {', '.join(traces)}" if traces else ""


def _find_kernel_fault(facts: RootFacts) -> str:
    """Prevent a start with a kernel from outside the root, or without one."""
    return _find_boot_file_fault("kernel", facts.kernel, facts.kernel_link, facts.kernel_path, facts.regular)


def _find_initrd_fault(facts: RootFacts) -> str:
    """Prevent a start with an initramfs from outside the root, or without the one that the domain names."""
    if not facts.initrd:
        return ""
    return _find_boot_file_fault("initramfs", facts.initrd, facts.initrd_link, facts.initrd_path, facts.regular)


def _find_boot_file_fault(what: str, path: str, link: str, followed: str, regular: frozenset[str]) -> str:
    if link.startswith("/"):
        return f"the {what} link {path} -> {link} is absolute: for the host it is a file outside the root"
    if followed.startswith("../"):
        return f"the {what} link {path} -> {link} leaves the root"
    if followed not in regular:
        return f"the {what} {path}{f' -> {link}' if link else ''} is not a regular file inside the root"
    return ""


def _find_version_fault(facts: RootFacts) -> str:
    """Prevent an initramfs with the modules of another kernel."""
    kernel, initrd = _parse_version(facts.kernel_path), _parse_version(facts.initrd_path)
    if kernel and initrd and kernel != initrd:
        return f"{facts.kernel} is version {kernel}, but {facts.initrd} is version {initrd}"
    return ""


def _find_program_fault(facts: RootFacts) -> str:
    """Prevent an initramfs without the program that the kernel starts, or without one that switches to the root.

    A generator that fails may leave an incomplete image, and the package manager ignores the failure of its hook.
    """
    # A link is listed as "PATH -> TARGET".
    names = {entry.partition(" -> ")[0].split(" ")[-1].removeprefix("./").strip("/") for entry in facts.initramfs}
    if facts.rdinit and facts.rdinit not in names:
        return f"{facts.initrd_path} has no {facts.rdinit}, which rdinit= on the kernel's command line names"
    if not facts.switches or not facts.initramfs:
        return ""
    if not facts.rdinit and "init" not in names:
        return f"{facts.initrd_path} has no init, which the kernel starts"
    if not {posixpath.basename(name) for name in names} & set(facts.switches):
        return f"{facts.initrd_path} has no {' or '.join(facts.switches)}, and cannot switch to the root"
    return ""


def _find_init_fault(facts: RootFacts) -> str:
    """Prevent an initramfs that mounts the root but finds no init in it."""
    return "" if facts.init else "no init: sbin/init is missing, not executable, or a link to such a path"


RULES: dict[str, Callable[[RootFacts], str]] = {
    "kernel-path": _find_kernel_fault,
    "initramfs-path": _find_initrd_fault,
    "same-version": _find_version_fault,
    "virtiofs-modules": _find_module_fault,
    "initramfs-program": _find_program_fault,
    "no-resume": _find_resume_fault,
    "fstab": _find_fstab_fault,
    "no-grub": _find_grub_fault,
    "init": _find_init_fault,
}


def find_violations(facts: RootFacts) -> list[str]:
    """Return ``rule: what is wrong`` for each broken rule; empty for a root that may be published."""
    return [f"{name}: {complaint}" for name, rule in RULES.items() if (complaint := rule(facts))]


def find_doubts(facts: RootFacts) -> list[str]:
    """Return a message for each fault that does not prevent a boot."""
    return [
        f"/{path} is missing or empty: the program that generates it failed in the builder" for path in facts.databases
    ]


def refuse_broken(facts: RootFacts) -> None:
    """Raise VirtrootError with every broken rule."""
    broken = find_violations(facts)
    hint = "check the recipe's packages, overlay and run commands: one of them changes what virtroot set up"
    if not facts.initrd and _find_module_fault(facts):
        hint = "use another generator: none requires a kernel with built-in virtiofs, such as trixie's and Arch's"
    if broken:
        raise VirtrootError(
            f"the root breaks the rule {broken[0]}" if len(broken) == 1 else f"the root breaks {len(broken)} rules",
            hint,
            "\n".join(broken) if len(broken) > 1 else "",
            where=Phase.INSPECT,
        )

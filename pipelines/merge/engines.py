"""Where container engines of a guest keep their data, by their configuration: trees of other systems.

In such a tree, numbers of users are those of the other system. Trees of engines without root are not listed here: they
belong to a user and to numbers of /etc/subuid. The files follow the user's number, and the numbers of /etc/subuid are
not in /etc/passwd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from pipelines.errors import VirtrootError
from pipelines.merge import collisions, paths, policy
from pipelines.merge.baselines import Inventory
from pipelines.merge.policy import EngineData
from pipelines.text import one_line, split_fields, trim

#: Options that name the data of a program, by its name. See dockerd(8), containerd(8), systemd-nspawn(1), crio(8).
_OPTIONS = {
    "buildkitd": ("--root",),
    "containerd": ("--root",),
    "crio": ("--root", "-r"),
    "dockerd": ("--data-root", "--graph", "-g"),
    "k3s": ("--data-dir", "-d"),
    "lxc-start": ("--lxcpath", "-P"),
    "podman": ("--root",),
    "systemd-nspawn": ("--directory", "-D"),
}

#: Files with lines ``name = value``, the names that are read from them, and whose they are.
_SETTINGS = (
    (r"containerd/.*\.toml", ("root", "root_path"), "containerd"),
    (r"crio/.*\.conf", ("root",), "CRI-O"),
    (r"containers/storage\.conf", ("graphroot", "imagestore", "additionalimagestores"), "podman"),
    (r"containers/containers\.conf(\.d/[^/]+)?", ("volume_path", "static_dir"), "podman"),
    (r"lxc/.*\.conf", (r"lxc\.lxcpath", r"lxc\.rootfs\.path", r"lxc\.rootfs"), "LXC"),
    (r"schroot/(schroot\.conf|chroot\.d/[^/]+)", ("directory", "union-overlay-directory"), "schroot"),
    (r"(systemd/system/.*|default/(lxd|incus))", (r"(?:Environment=\"?)?(?:LXD|INCUS)_DIR",), "LXD or Incus"),
)
_K3S = re.compile(r"^[ \t]*data-dir\s*:\s*[\"']?(/[^\s\"'#]+)", re.MULTILINE)
_QUOTED = re.compile(r"[\"']([^\"']+)[\"']")

#: These files hold options of dockerd without the program's name.
_DOCKER_OPTIONS = ("etc/default/docker", "etc/conf.d/docker", "etc/sysconfig/docker")

#: Directories that hold more than the data of one program.
_HOLDING_MORE = policy.select_by_engine_data(EngineData.BELOW, EngineData.NOWHERE)

#: Directories in which no program keeps data.
_WITHOUT_DATA = policy.select_by_engine_data(EngineData.NOWHERE)

#: A path that goes over more links is taken for a loop, as in path_resolution(7).
_MOST_LINKS = 40

#: Limits for what a guest's configuration may name. Without them it could make an upgrade take for ever.
_MOST_TREES, _MOST_MOUNTS = 200, 1000


def list_system_trees(base: Inventory, ours: Inventory) -> dict[str, str]:
    """Return the trees of other systems that are not at one of the usual places, each with who names it.

    ``base`` is the guest's baseline: only it has the targets of links that the guest never changed. Raises
    `VirtrootError` for a configuration that names too many.
    """
    links, mounts = _map_links(base) | _map_links(ours), _limit(_list_bind_mounts(ours.contents), _MOST_MOUNTS)
    named = dict(_limit(_list_configured(ours.contents), _MOST_TREES))
    found: dict[str, str] = {}
    for path, why in (*named.items(), *((path, "the usual place") for path in collisions.OTHER_SYSTEMS)):
        for place in _list_places(path, mounts):
            found.setdefault(_follow_links(place, links), why)
    elsewhere = {
        path: why for path, why in found.items() if not _holds_more(path) and path not in collisions.OTHER_SYSTEMS
    }
    return {path: elsewhere[path] for path in sorted(paths.drop_nested(elsewhere))}


def _limit(found: Iterable[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """Return the pairs without repetitions; raises `VirtrootError` where there are more than ``most``."""
    unique = [*islice(dict.fromkeys(found), most + 1)]
    if len(unique) > most:
        last = one_line(unique[-1][0])
        raise VirtrootError(
            f"the guest's /etc names more than {most} directories of container engines, like /{last}",
            "shorten /etc/fstab, or the configuration of its container engines, in the guest",
        )
    return unique


def _holds_more(path: str) -> bool:
    """Say whether a path cannot be the data of one engine, because it holds more or something else."""
    is_above = any(paths.is_below(each, [path]) for each in (*_HOLDING_MORE, *collisions.OTHER_SYSTEMS))
    return not path or is_above or path.split("/")[0] in _WITHOUT_DATA


def _map_links(inventory: Inventory) -> dict[str, str]:
    """Return the targets of the links that the inventory has, by their paths."""
    return {
        path: entry.content
        for entries in (inventory.unowned, inventory.owned or {})
        for path, entry in entries.items()
        if entry.kind == "link" and entry.content
    }


def _follow_links(path: str, links: Mapping[str, str]) -> str:
    """Return the path that ``path`` leads to by the ``links`` that are known; empty for a loop."""
    for _ in range(_MOST_LINKS):
        link = next((each for each in reversed([*paths.walk_up(path)]) if each in links), "")
        if not link:
            return path
        target = links[link]
        whole = target if target.startswith("/") else f"{link.rpartition('/')[0]}/{target}"
        path = _normalize(whole + path.removeprefix(link))
    return ""


def _normalize(path: str) -> str:
    """Return an absolute path without the slash before it; ``..`` does not lead out of the root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)


def _list_places(path: str, mounts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a path, and the directories that are mounted at it, above it or below it."""
    yield path
    for source, place in mounts:
        if paths.is_below(path, [place]):
            yield source + path.removeprefix(place)
        elif paths.is_below(place, [path]):
            yield source


def _list_bind_mounts(contents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield directories that are mounted at another place, with that place; see fstab(5), systemd.mount(5)."""
    for line in _decode(contents.get("etc/fstab", b"")).split("\n"):
        fields = split_fields(line)
        if len(fields) > 3 and not line.startswith("#") and {"bind", "rbind"} & {*fields[3].split(",")}:
            source, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), each) for each in fields[:2])
            yield _normalize(source), _normalize(place)
    for path, text in contents.items():
        if path.startswith("etc/systemd/system/") and path.endswith(".mount"):
            found = re.findall(r"^(What|Where|Options)[ \t]*=(.*)$", _decode(text), re.MULTILINE)
            unit = {name: trim(value) for name, value in found}
            if "bind" in unit.get("Options", "") and {"What", "Where"} <= {*unit}:
                yield _normalize(unit["What"]), _normalize(unit["Where"])


def _list_configured(contents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the paths that configuration files name, with the engine and the file."""
    for path, content in contents.items():
        text = _decode(content)
        for each, engine in _find_paths(path, text, contents):
            # A specifier or variable in the path stands for several directories. The one above it holds all of them.
            fixed = re.split(r"[%$]", each)[0]
            directory = fixed if fixed == each else fixed.rpartition("/")[0]
            if directory.startswith("/"):
                yield _normalize(directory), f"{engine}, by /{path}"


def _find_paths(path: str, text: str, contents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the paths that one configuration file names, with the engine."""
    if path == "etc/docker/daemon.json":
        yield from ((each, "Docker") for each in _find_docker_data(text))
    elif path.startswith("etc/rancher/"):
        yield from ((each, "Kubernetes") for each in _K3S.findall(text))
    elif path in _DOCKER_OPTIONS:
        yield from ((each, "Docker") for each in _find_options(text, _OPTIONS["dockerd"]))
    elif path.startswith("etc/systemd/system/"):
        for program, argument in _find_started(text):
            yield argument, program
        for other in sorted({*re.findall(r"--config-file[= ](\S+)", text)} & {f"/{each}" for each in contents}):
            yield from ((each, "Docker") for each in _find_docker_data(_decode(contents.get(_normalize(other), b""))))
    for pattern, names, engine in _SETTINGS:
        if re.fullmatch(f"etc/{pattern}", path):
            for value in _find_values(text, names):
                yield value, engine


def _decode(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


def _find_docker_data(text: str) -> list[str]:
    """Return where Docker's configuration says that its data is, even if it is not valid JSON."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return re.findall(r"\"(?:data-root|graph)\"\s*:\s*\"([^\"]+)\"", text)
    found = [settings.get(name) for name in ("data-root", "graph")] if isinstance(settings, dict) else []
    return [each for each in found if isinstance(each, str)]


def _find_started(text: str) -> Iterator[tuple[str, str]]:
    """Yield the programs of engines that a unit starts, with the directories in their options."""
    for command in re.findall(r"^[ \t]*Exec\w*[ \t]*=(.*)$", re.sub(r"\\\n", " ", text), re.MULTILINE):
        words = {word.rpartition("/")[2].strip("\"'") for word in split_fields(command)}
        for program in sorted(words & {*_OPTIONS}):
            yield from ((program, each) for each in _find_options(command, _OPTIONS[program]))


def _find_options(text: str, names: Iterable[str]) -> list[str]:
    found = re.findall(rf"(?:^|[\s\"'=])(?:{'|'.join(names)})[\s=]?\s*[\"']?(/[^\s\"']*)", text)
    return [str(each) for each in found]


def _find_values(text: str, names: Iterable[str]) -> Iterator[str]:
    for value in re.findall(rf"^[ \t]*(?:{'|'.join(names)})[ \t]*=[ \t]*(\[[^\]]{{0,2000}}\]|.*)$", text, re.MULTILINE):
        quoted = _QUOTED.findall(value)
        # LXC names the kind of storage before a colon.
        yield from quoted or [re.sub(r"^\w+:(?=/)", "", value.partition("#")[0]).strip(" \t\"'")]

"""Where a guest's container engines keep their data, by their configuration: trees whose numbers are another system's.

What an engine runs without root belongs to its user and to numbers of /etc/subuid. It is not named here: the user's
files follow the user's number, and the numbers of /etc/subuid are nobody's in /etc/passwd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from pipelines.errors import VirtrootError
from pipelines.merge import collisions, paths, policy
from pipelines.merge.baselines import Survey
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

#: Files with settings in the form ``name = value``, what is read from them, and whose they are.
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

#: Options of dockerd stand alone in these.
_DOCKER_OPTIONS = ("etc/default/docker", "etc/conf.d/docker", "etc/sysconfig/docker")

#: What holds more than the data of one program.
_SHARED = policy.for_engines(EngineData.BELOW, EngineData.NOWHERE)

#: Directories that have no data of programs.
_WITHOUT_DATA = policy.for_engines(EngineData.NOWHERE)

#: Links lead over no more others.
_MOST_LINKS = 40

#: Nobody has more such trees, or mounts more directories at other places.
_MOST_TREES, _MOST_MOUNTS = 200, 1000


def foreign_trees(base: Survey, ours: Survey) -> dict[str, str]:
    """Return the trees whose numbers are another system's, but for the usual ones, and who says so.

    ``base`` is what the guest's root was, and knows where links lead that the guest never changed. Raises
    `VirtrootError` for a configuration that names more than anybody has.
    """
    links, mounts = _links(base) | _links(ours), _bounded(_mounts(ours.contents), _MOST_MOUNTS)
    named = dict(_bounded(_configured(ours.contents), _MOST_TREES))
    found: dict[str, str] = {}
    for path, why in (*named.items(), *((path, "the usual place") for path in collisions.FOREIGN)):
        for place in _places(path, mounts):
            found.setdefault(_real(place, links), why)
    own = {path: why for path, why in found.items() if not _is_shared(path) and path not in collisions.FOREIGN}
    return {path: own[path] for path in sorted(paths.outermost(own))}


def _bounded(found: Iterable[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    unique = [*islice(dict.fromkeys(found), most + 1)]
    if len(unique) > most:
        last = one_line(unique[-1][0])
        raise VirtrootError(
            f"the guest's /etc names more than {most} directories of container engines, like /{last}",
            "look at /etc/fstab, and at the configuration of its container engines, in the guest",
        )
    return unique


def _is_shared(path: str) -> bool:
    """Say whether a path is none of the guest's data, or holds other people's, too."""
    is_above = any(paths.below(each, [path]) for each in (*_SHARED, *collisions.FOREIGN))
    return not path or is_above or path.split("/")[0] in _WITHOUT_DATA


def _links(survey: Survey) -> dict[str, str]:
    return {
        path: entry.content
        for entries in (survey.unowned, survey.owned or {})
        for path, entry in entries.items()
        if entry.kind == "link" and entry.content
    }


def _real(path: str, links: Mapping[str, str]) -> str:
    """Return the path that ``path`` leads to, as far as links are known."""
    for _ in range(_MOST_LINKS):
        link = next((each for each in reversed([*paths.above(path)]) if each in links), "")
        if not link:
            return path
        target = links[link]
        whole = target if target.startswith("/") else f"{link.rpartition('/')[0]}/{target}"
        path = _normal(whole + path.removeprefix(link))
    return ""


def _normal(path: str) -> str:
    """Return an absolute path without the slash before it; what would lead out of the root stays in it."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)


def _places(path: str, mounts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a path, and the directories that are mounted at it, above it or below it."""
    yield path
    for source, place in mounts:
        if paths.below(path, [place]):
            yield source + path.removeprefix(place)
        elif paths.below(place, [path]):
            yield source


def _mounts(contents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the directories that are mounted at another place, and that place; see fstab(5), systemd.mount(5)."""
    for line in _text(contents.get("etc/fstab", b"")).split("\n"):
        fields = split_fields(line)
        if len(fields) > 3 and not line.startswith("#") and {"bind", "rbind"} & {*fields[3].split(",")}:
            source, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), each) for each in fields[:2])
            yield _normal(source), _normal(place)
    for path, text in contents.items():
        if path.startswith("etc/systemd/system/") and path.endswith(".mount"):
            found = re.findall(r"^(What|Where|Options)[ \t]*=(.*)$", _text(text), re.MULTILINE)
            unit = {name: trim(value) for name, value in found}
            if "bind" in unit.get("Options", "") and {"What", "Where"} <= {*unit}:
                yield _normal(unit["What"]), _normal(unit["Where"])


def _configured(contents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the paths that engines' configuration names, and whose it is."""
    for path, content in contents.items():
        text = _text(content)
        for each, whose in _named(path, text, contents):
            # A unit's own name, or a variable, is part of it: what is above it holds all of them.
            fixed = re.split(r"[%$]", each)[0]
            directory = fixed if fixed == each else fixed.rpartition("/")[0]
            if directory.startswith("/"):
                yield _normal(directory), f"{whose}, by /{path}"


def _named(path: str, text: str, contents: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    if path == "etc/docker/daemon.json":
        yield from ((each, "Docker") for each in _docker(text))
    elif path.startswith("etc/rancher/"):
        yield from ((each, "Kubernetes") for each in _K3S.findall(text))
    elif path in _DOCKER_OPTIONS:
        yield from ((each, "Docker") for each in _options(text, _OPTIONS["dockerd"]))
    elif path.startswith("etc/systemd/system/"):
        for program, argument in _started(text):
            yield argument, program
        for other in sorted({*re.findall(r"--config-file[= ](\S+)", text)} & {f"/{each}" for each in contents}):
            yield from ((each, "Docker") for each in _docker(_text(contents.get(_normal(other), b""))))
    for pattern, names, whose in _SETTINGS:
        if re.fullmatch(f"etc/{pattern}", path):
            for value in _values(text, names):
                yield value, whose


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


def _docker(text: str) -> list[str]:
    """Return where Docker's configuration says that its data is, also where a part of that is no JSON."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return re.findall(r"\"(?:data-root|graph)\"\s*:\s*\"([^\"]+)\"", text)
    found = [told.get(name) for name in ("data-root", "graph")] if isinstance(told, dict) else []
    return [each for each in found if isinstance(each, str)]


def _started(text: str) -> Iterator[tuple[str, str]]:
    """Yield the programs of engines that a unit starts, and the directories that it gives them."""
    for command in re.findall(r"^[ \t]*Exec\w*[ \t]*=(.*)$", re.sub(r"\\\n", " ", text), re.MULTILINE):
        words = {word.rpartition("/")[2].strip("\"'") for word in split_fields(command)}
        for program in sorted(words & {*_OPTIONS}):
            yield from ((program, each) for each in _options(command, _OPTIONS[program]))


def _options(text: str, names: Iterable[str]) -> list[str]:
    found = re.findall(rf"(?:^|[\s\"'=])(?:{'|'.join(names)})[\s=]?\s*[\"']?(/[^\s\"']*)", text)
    return [str(each) for each in found]


def _values(text: str, names: Iterable[str]) -> Iterator[str]:
    for value in re.findall(rf"^[ \t]*(?:{'|'.join(names)})[ \t]*=[ \t]*(\[[^\]]{{0,2000}}\]|.*)$", text, re.MULTILINE):
        quoted = _QUOTED.findall(value)
        # LXC says how a root is had before a colon.
        yield from quoted or [re.sub(r"^\w+:(?=/)", "", value.partition("#")[0]).strip(" \t\"'")]

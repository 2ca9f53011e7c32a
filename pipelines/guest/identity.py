"""What makes one guest differ from the next one of the same golden root."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pipelines.artifact.manifest import Manifest
from pipelines.errors import VirtrootError
from pipelines.guest import sshd
from pipelines.libvirt import beside
from pipelines.log import warn
from pipelines.recipe import machine_specific
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.target.target import Target
from pipelines.text import one_line, split_fields, split_lines, trim

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_KEY = re.compile(r"(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+( .*)?")


#: Succeeds where one of the patterns names something in the directory $1.
_IS_THERE = 'cd "$1"; shift; for pattern do for path in $pattern; do [ ! -e "$path" ] || exit 0; done; done; exit 1'

#: Bytes of a file whose lines are kept: an /etc/hosts that blocks advertisements has some megabytes.
_LARGEST = 16 << 20


@dataclass(frozen=True)
class Identity:
    """A guest's hostname, its id (the domain's UUID and the machine-id), and who may log in as root by ssh."""

    hostname: str
    uuid: UUID
    authorized_keys: str = ""


def checked_hostname(hostname: str) -> str:
    """Return ``hostname`` if it is one (RFC 1123, one label); raises `VirtrootError`."""
    if not _HOSTNAME.fullmatch(hostname):
        raise VirtrootError(
            f"{hostname!r} is no host name", "use letters, digits and hyphens, 63 at most; or give --hostname"
        )
    return hostname


def read_ssh_key(path: str) -> str:
    """Return the public keys in the file ``path``; raises `VirtrootError` for a file that has none."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise VirtrootError(
            f"cannot read the ssh key {path}: {error}", "name a public key file, like ~/.ssh/id_ed25519.pub"
        ) from error
    lines = [line for line in split_lines(text) if line and not line.startswith("#")]
    if not lines or not all(_KEY.fullmatch(line) for line in lines):
        secret = any("PRIVATE KEY" in line for line in lines)
        raise VirtrootError(
            f"{path} is {'a private key' if secret else 'no public ssh key'}", "give the file that ends in .pub"
        )
    return "\n".join(lines) + "\n"


def own_ssh_keys() -> tuple[str, ...]:
    """Return the public key files of who runs this, of the kinds that ssh tries by itself; under sudo the caller's too.

    Homes are those that ssh goes by, whatever ``HOME`` says.
    """
    users = [user for user in (pwd.getpwuid(os.geteuid()).pw_name, os.environ.get("SUDO_USER")) if user]
    names = [f"id_{kind}.pub" for kind in ("ed25519", "ed25519_sk", "ecdsa", "ecdsa_sk", "rsa")]
    paths = []
    for user in dict.fromkeys(users):
        with suppress(KeyError):
            paths += [Path(pwd.getpwnam(user).pw_dir) / ".ssh" / name for name in names]
    return tuple(str(path) for path in paths if path.is_file())


def write(target: Target, root: str, identity: Identity) -> None:
    """Write the identity into the guest's root on ``target``."""
    hosts = f"127.0.0.1 localhost\n127.0.1.1 {identity.hostname}\n::1 localhost ip6-localhost ip6-loopback\n"
    _write(target, root, identity, hosts.encode(), identity.authorized_keys.encode())


def rewrite(target: Target, root: str, identity: Identity) -> None:
    """Write the identity into the root of a system that was imported: what else its files say stays."""
    hosts = [line for line in _lines(target, root, "etc/hosts") if split_fields(line)[:1] != [b"127.0.1.1"]]
    hosts.append(f"127.0.1.1 {identity.hostname}".encode())
    keys = b""
    if identity.authorized_keys:
        keys = _with_keys(target, root, _keys_path(target, root), identity.authorized_keys)
    _write(target, root, identity, _text(hosts), keys)


def add_keys(target: Target, root: str, authorized_keys: str) -> None:
    """Let further keys log in to a system that keeps its identity."""
    path = _keys_path(target, root)
    beside.put(target, root, path, _keys_mode(path), _with_keys(target, root, path, authorized_keys))


def _keys_mode(path: str) -> int:
    """Return the mode of a file of keys: sshd reads one elsewhere than in root's home as the user who logs in."""
    return 0o600 if path == sshd.AUTHORIZED_KEYS else 0o644


def _with_keys(target: Target, root: str, path: str, authorized_keys: str) -> bytes:
    """Return the root's authorized_keys with those keys at its end that it does not have.

    The other lines stay byte for byte. A line may restrict its key, and half of such a line would let the key do all.
    """
    keys = _lines(target, root, path)
    return _text([*keys, *(key for key in split_lines(authorized_keys.encode()) if key not in keys)])


def forget(target: Target, root: str, source: str, name: str, overlay_keys: Sequence[str]) -> None:
    """Delete the keys and ids of the guest ``source`` in a copy of its root, but those that could not be made again.

    What the recipe's overlay brought (``overlay_keys``) stays as well: it is for all guests. Of the others that stay,
    warn that the guest ``name`` has them, too.
    """
    known = [each for each in machine_specific.MATERIALS if not machine_specific.is_in_overlay(each, overlay_keys)]
    has_unit = _has(target, root, machine_specific.UNIT)
    kept = [each for each in known if each.made_by == machine_specific.UNIT and not has_unit]
    for path in beside.forget(target, root, *(path for each in known if each not in kept for path in each.paths)):
        warn(f"{name} may have /{path} of {source}: a link on the way leads out of the root")
    for each in kept:
        if _has(target, root, *each.paths):
            warn(f"{name} has {each.name} of {source}, since nothing in it would make another one")
    keys = [path for path in sshd.read(target, root).public_keys if not machine_specific.is_material(path)]
    if keys and _has(target, root, machine_specific.KEYGEN_SCRIPT):
        beside.forget(target, root, *keys, *(f"{path}.pub" for path in keys))
    elif keys:
        shown = ", ".join(f"/{one_line(path)}" for path in keys)
        warn(f"{name} has the ssh host keys of {source} in {shown}: delete them and make others")


def _has(target: Target, root: str, *patterns: str) -> bool:
    """Say whether one of the patterns names something in a root."""
    return target.run(["sh", "-c", _IS_THERE, "there", root, *patterns], check=False).returncode == 0


def hostname(target: Target, root: str) -> str:
    """Return the host name in a root; empty where it has none that is valid."""
    try:
        name = trim(b"".join(_lines(target, root, "etc/hostname")[:1]).decode(errors="replace"))
    except VirtrootError:
        return ""
    return name if _HOSTNAME.fullmatch(name) else ""


def name_files(target: Target, root: str, manifest: Manifest, old: str = BUILD_NAME, new: str = "") -> None:
    """Write the guest's host name where packages wrote that of the builder.

    ``new`` is the root's own where it is empty. For a root that was another guest's, ``old`` is that guest's; the name
    is then replaced only where a domain follows it, since it may be any word.
    """
    own = new or (hostname(target, root) if manifest.named_in else "")
    if manifest.named_in and own:
        domain = "" if old == BUILD_NAME else ".localdomain"
        beside.substitute(target, root, f"{old}{domain}", f"{own}{domain}", manifest.named_in)


def warn_of_sshd(target: Target, root: str) -> None:
    """Say why root could not log in with the keys that were written, if the sshd in the root refuses that."""
    found = sshd.read(target, root)
    if found.refuses:
        warn(f"sshd refuses root in this root ({found.refuses}): log in as another user, ./inv ssh --user")
    elif not found.authorized_keys:
        warn("sshd reads no file of keys in this root (AuthorizedKeysFile none): the ssh key does not let anybody in")


def _keys_path(target: Target, root: str) -> str:
    return sshd.read(target, root).authorized_keys or sshd.AUTHORIZED_KEYS


def _write(target: Target, root: str, identity: Identity, hosts: bytes, keys: bytes) -> None:
    files = {
        "etc/hostname": (0o644, f"{identity.hostname}\n".encode()),
        "etc/hosts": (0o644, hosts),
        "etc/machine-id": (0o444, f"{identity.uuid.hex}\n".encode()),
    }
    if keys:
        path = _keys_path(target, root)
        # A file elsewhere than in root's home may be for all users, and have keys already.
        content = keys if path == sshd.AUTHORIZED_KEYS else _with_keys(target, root, path, keys.decode())
        files[path] = (_keys_mode(path), content)
    for path, (mode, content) in files.items():
        beside.put(target, root, path, mode, content)


def _lines(target: Target, root: str, path: str) -> list[bytes]:
    """Return the lines of a file in the root; none where it is missing.

    Raises `VirtrootError` where they cannot be read: what is written in their place would lose them.
    """
    return split_lines(beside.read_if_there(target, root, path, _LARGEST))


def _text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)

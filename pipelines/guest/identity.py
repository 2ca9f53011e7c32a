"""A guest's identity: what distinguishes it from other guests that were made from the same golden root."""

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
from pipelines.log import warn
from pipelines.recipe import machine_specific
from pipelines.recipe.surroundings import BUILD_NAME
from pipelines.target import programs
from pipelines.target.target import Target
from pipelines.text import one_line, split_fields, split_lines, trim

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_KEY = re.compile(r"(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+( .*)?")


#: Succeeds if one of the patterns matches a path in the directory $1.
_HAS = 'cd "$1"; shift; for pattern do for path in $pattern; do [ ! -e "$path" ] || exit 0; done; done; exit 1'

#: Bytes of a file that is read and written back: an /etc/hosts that blocks advertisements has some megabytes.
_LARGEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Identity:
    """A guest's hostname, its UUID (the domain's, and the machine-id), and the ssh keys that may log in as root."""

    hostname: str
    uuid: UUID
    authorized_keys: str = ""


def check_hostname(hostname: str) -> str:
    """Return ``hostname`` if it is a valid host name of one label (RFC 1123); raises `VirtrootError` otherwise."""
    if not _HOSTNAME.fullmatch(hostname):
        raise VirtrootError(
            f"invalid host name {hostname!r}", "use letters, digits and hyphens, at most 63; or give --hostname"
        )
    return hostname


def read_ssh_key(path: str) -> str:
    """Return the public keys in the file ``path``; raises `VirtrootError` if it contains none."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise VirtrootError(
            f"cannot read the ssh key {path}: {error}", "use the file of a public key, like ~/.ssh/id_ed25519.pub"
        ) from error
    lines = [line for line in split_lines(text) if line and not line.startswith("#")]
    if not lines or not all(_KEY.fullmatch(line) for line in lines):
        secret = any("PRIVATE KEY" in line for line in lines)
        raise VirtrootError(
            f"{path}: {'a private key' if secret else 'not a public ssh key'}", "use the file that ends in .pub"
        )
    return "\n".join(lines) + "\n"


def find_ssh_keys() -> tuple[str, ...]:
    """Return the default public key files of the current user, and of the user who called sudo.

    The home directories are those in the password database, which ssh uses, not ``HOME``.
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


def update(target: Target, root: str, identity: Identity) -> None:
    """Write the identity into the root of an imported system; the other content of its files stays."""
    hosts = [line for line in _read_lines(target, root, "etc/hosts") if split_fields(line)[:1] != [b"127.0.1.1"]]
    hosts.append(f"127.0.1.1 {identity.hostname}".encode())
    keys = b""
    if identity.authorized_keys:
        keys = _append_keys(target, root, _find_keys_path(target, root), identity.authorized_keys)
    _write(target, root, identity, _join_lines(hosts), keys)


def add_keys(target: Target, root: str, authorized_keys: str) -> None:
    """Add ssh keys for root to a system that keeps its identity."""
    path = _find_keys_path(target, root)
    programs.put(target, root, path, _get_keys_mode(path), _append_keys(target, root, path, authorized_keys))


def _get_keys_mode(path: str) -> int:
    """Return the mode of a file of keys: outside root's home, sshd reads it as the user who logs in."""
    return 0o600 if path == sshd.AUTHORIZED_KEYS else 0o644


def _append_keys(target: Target, root: str, path: str, authorized_keys: str) -> bytes:
    """Return the root's authorized_keys with the keys appended that it does not have yet.

    The other lines stay byte for byte. A line may restrict its key, and a part of it would grant the key everything.
    """
    keys = _read_lines(target, root, path)
    return _join_lines([*keys, *(key for key in split_lines(authorized_keys.encode()) if key not in keys)])


def delete_secrets(target: Target, root: str, source: str, name: str, overlay_keys: Sequence[str]) -> None:
    """Delete keys and ids of the guest ``source`` in a copy of its root, except those that could not be made again.

    Files of the recipe's overlay (``overlay_keys``) stay as well: they are for all guests. For each of the others that
    stay, warn that the guest ``name`` shares it.
    """
    known = [each for each in machine_specific.MATERIALS if not machine_specific.is_in_overlay(each, overlay_keys)]
    has_unit = _has(target, root, machine_specific.UNIT)
    kept = [each for each in known if each.made_by == machine_specific.UNIT and not has_unit]
    for path in programs.delete_files(
        target, root, *(path for each in known if each not in kept for path in each.paths)
    ):
        warn(f"{name} may share /{path} with {source}: the path leads through a link out of the root")
    for each in kept:
        if _has(target, root, *each.paths):
            warn(f"{name} shares {each.name} with {source}: nothing in the root would make another one")
    keys = [path for path in sshd.read(target, root).public_keys if not machine_specific.is_material(path)]
    if keys and _has(target, root, machine_specific.KEYGEN_SCRIPT):
        programs.delete_files(target, root, *keys, *(f"{path}.pub" for path in keys))
    elif keys:
        shown = ", ".join(f"/{one_line(path)}" for path in keys)
        warn(f"{name} shares the ssh host keys in {shown} with {source}: delete them and generate others")


def _has(target: Target, root: str, *patterns: str) -> bool:
    """Return whether one of the patterns matches a path in a root."""
    return target.run(["sh", "-c", _HAS, "there", root, *patterns], check=False).returncode == 0


def read_hostname(target: Target, root: str) -> str:
    """Return the host name in a root; empty if it is missing or invalid."""
    try:
        name = trim(b"".join(_read_lines(target, root, "etc/hostname")[:1]).decode(errors="replace"))
    except VirtrootError:
        return ""
    return name if _HOSTNAME.fullmatch(name) else ""


def replace_build_name(target: Target, root: str, manifest: Manifest, old: str = BUILD_NAME, new: str = "") -> None:
    """Replace the builder's host name by the guest's in the files into which packages wrote it.

    ``new`` is the host name, by default the one in the root. For the root of another guest, ``old`` is that guest's
    name; it is replaced only where a domain follows it, since it may be any word.
    """
    own = new or (read_hostname(target, root) if manifest.named_in else "")
    if manifest.named_in and own:
        domain = "" if old == BUILD_NAME else ".localdomain"
        programs.substitute(target, root, f"{old}{domain}", f"{own}{domain}", manifest.named_in)


def warn_of_sshd(target: Target, root: str) -> None:
    """Warn if the sshd in the root does not let root log in with the keys that were written."""
    found = sshd.read(target, root)
    if found.refuses:
        warn(f"sshd in this root refuses logins of root ({found.refuses}): use another user, ./inv ssh --user")
    elif not found.authorized_keys:
        warn("sshd in this root reads no file of keys (AuthorizedKeysFile none): the ssh key has no effect")


def _find_keys_path(target: Target, root: str) -> str:
    return sshd.read(target, root).authorized_keys or sshd.AUTHORIZED_KEYS


def _write(target: Target, root: str, identity: Identity, hosts: bytes, keys: bytes) -> None:
    files = {
        "etc/hostname": (0o644, f"{identity.hostname}\n".encode()),
        "etc/hosts": (0o644, hosts),
        "etc/machine-id": (0o444, f"{identity.uuid.hex}\n".encode()),
    }
    if keys:
        path = _find_keys_path(target, root)
        # A file outside root's home may be for all users, and may have keys already.
        content = keys if path == sshd.AUTHORIZED_KEYS else _append_keys(target, root, path, keys.decode())
        files[path] = (_get_keys_mode(path), content)
    for path, (mode, content) in files.items():
        programs.put(target, root, path, mode, content)


def _read_lines(target: Target, root: str, path: str) -> list[bytes]:
    """Return the lines of a file in the root; none if it is missing.

    Raises `VirtrootError` if they cannot be read: writing the file would lose them.
    """
    return split_lines(programs.read_if_exists(target, root, path, _LARGEST_BYTES))


def _join_lines(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)

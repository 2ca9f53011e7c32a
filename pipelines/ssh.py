"""Ssh: the user's own ssh and scp reach a guest, wherever it runs, and know its host key from its root."""

from __future__ import annotations

import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.cli.task import GUEST, Context, settings_of, task
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, ssh_access
from pipelines.guest.guest import Guest
from pipelines.guest.identity import own_ssh_keys
from pipelines.guest.sshd import Sshd
from pipelines.host import process
from pipelines.host.destination import write as write_destination
from pipelines.libvirt import beside
from pipelines.libvirt.connect import connect
from pipelines.log import result, say, warn
from pipelines.settings import CHECKOUT, Settings
from pipelines.text import split_fields, split_lines, without_logins

#: Variables that say where guests are: a shell that runs ssh later may not have them. No others: what is in a
#: configuration of ssh ends on command lines, which every user can read.
_SETTINGS = (
    "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "INVOKE_VIRTROOT_CONNECT", "INVOKE_VIRTROOT_EMBEDDED",
    "INVOKE_VIRTROOT_OUTPUT", "INVOKE_VIRTROOT_POOL", "INVOKE_VIRTROOT_POOL_PATH",
)  # fmt: skip

#: What ./inv ssh and cp do whatever ~/.ssh/config says for every host. They run what they are given, nothing else, on
#: a connection of their own: one that is kept may lead to another machine of the same name. They lend the guest nothing
#: of the user's, believe no key but the one in its root, and give an emulated guest the time it needs.
_OURS = {
    "RemoteCommand": "none",
    "RequestTTY": "auto",
    "StdinNull": "no",
    "ForkAfterAuthentication": "no",
    "PermitLocalCommand": "no",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "Tunnel": "no",
    "ProxyUseFdpass": "no",
    "CanonicalizeHostname": "no",
    "KnownHostsCommand": "none",
    "VerifyHostKeyDNS": "no",
    "ConnectTimeout": "120",
}

#: scp's own words say the same, and bear no other.
_SESSION = {"SessionType": "default"}

#: A file that goes into or comes out of a guest that is off has no more bytes.
_LARGEST = 256 << 20


def ssh(name: str, argv: Sequence[str], settings: Settings, *, user: str = "root") -> int:
    """Log in to a running guest, or run ``argv`` there as ssh does; return ssh's exit status."""
    _need("ssh")
    guest = guests.find(connect(settings), name)
    ssh_access.reachable(guest)
    found = _know(guest, settings)
    if user == "root" and found.refuses:
        warn(f"the sshd of {name} refuses root ({found.refuses}): log in as another user with --user")
    options = [*_options(guest.name, settings, user), *_words(_SESSION)]
    status = process.attach(["ssh", *options, guest.name, *(["--", *argv] if argv else [])])
    return _explained(status, guest, user)


def proxy(name: str, settings: Settings) -> None:
    """Join standard input and output to a running guest's sshd, having written its host key where ssh looks for it."""
    guest = guests.find(connect(settings), name)
    address = ssh_access.reachable(guest)
    # ssh looks for the key when the other end has said who it is: after this.
    found = _know(guest, settings)
    guest.target.relay(address, found.port)


def config(settings: Settings, *, user: str = "root") -> str:
    """Return what lets plain ssh reach each guest, for a file that ``~/.ssh/config`` includes."""
    blocks = []
    for guest in guests.every(connect(settings)):
        given = _config(guest.name, settings, user, _chosen())
        options = [f"    {key} {value}" for key, value in given.items()]
        blocks.append("\n".join([f"Host {guest.name}", *options]))
    return "\n\n".join(blocks)


def copy(source: str, destination: str, settings: Settings, *, user: str = "root") -> int:
    """Copy a file to or from a guest, ``NAME:PATH``: by scp where it runs, in its root where it is off.

    Return the exit status. Raises `VirtrootError` for two guests, none, and paths that lead out of a root.
    """
    hypervisor = connect(settings)
    ends = [_end(source), _end(destination)]
    if all(name for name, _ in ends) or not any(name for name, _ in ends):
        raise VirtrootError("one end has to be in a guest, the other one here", "like ./inv cp page.html web:/srv/www/")
    name = next(name for name, _ in ends if name)
    guest = guests.find(hypervisor, name)
    if guest.running:
        _need("scp")
        ssh_access.reachable(guest)
        _know(guest, settings)
        # A path that has a colon, or begins with a hyphen, is one nevertheless.
        words = [f"{name}:{path}" if inside else _plain(path) for inside, path in ends]
        status = process.attach(["scp", "-r", "-q", *_options(name, settings, user), "--", *words])
        return _explained(status, guest, user)
    with hold.hold(hypervisor, name, off="it has just been started: run this again") as guest:
        guest.assemble()
        if ends[0][0]:
            _take(guest, ends[0][1], Path(destination))
        else:
            _give(guest, Path(source), ends[1][1])
    return 0


def _end(text: str) -> tuple[str, str]:
    """Return guest and path of one end; a path that has a slash before its colon is one here."""
    name, colon, path = text.partition(":")
    return (name, path) if colon and name and "/" not in name else ("", text)


def _plain(path: str) -> str:
    return path if path.startswith("/") else f"./{path}"


def _give(guest: Guest, source: Path, path: str) -> None:
    try:
        with source.open("rb") as content:
            mode = stat.S_IMODE(os.fstat(content.fileno()).st_mode) & 0o755
            size = os.fstat(content.fileno()).st_size
            if not stat.S_ISREG(os.fstat(content.fileno()).st_mode) or size > _LARGEST:
                raise VirtrootError(
                    f"{source} is no file of {_LARGEST >> 20} MiB at most",
                    f"start {guest.name}: what is larger, and directories, are copied by scp",
                )
            try:
                beside.put(guest.target, guest.root, _inside(path, source.name), mode, content, over_files=True)
            except VirtrootError as error:
                if "Is a directory" not in error.what:
                    raise
                content.seek(0)
                beside.put(guest.target, guest.root, _inside(f"{path}/", source.name), mode, content, over_files=True)
    except OSError as error:
        raise VirtrootError(f"cannot read {source}: {error.strerror}", "name a file") from error


def _take(guest: Guest, path: str, destination: Path) -> None:
    inside = _inside(path, "")
    content = beside.read(guest.target, guest.root, inside, _LARGEST)
    write_destination(destination, content, Path(inside).name)


def _inside(path: str, name: str) -> str:
    """Return a path relative to the root; one that ends with a slash is a directory for ``name``."""
    whole = f"{path}{name}" if path.endswith("/") else path
    if not whole.startswith("/") or not whole.strip("/"):
        raise VirtrootError(f"{path!r} is no absolute path of a file in the guest", "like web:/etc/motd")
    return whole.strip("/")


def _need(program: str) -> None:
    if not process.is_installed(program):
        raise VirtrootError(f"{program} is not installed", "install the package openssh-client")


def _options(name: str, settings: Settings, user: str) -> list[str]:
    words = _words({**_config(name, settings, user), **_OURS})
    if os.environ.get("SUDO_USER"):
        # ssh looks for keys in root's home alone, and in no default place where it is given any.
        words += [word for key in own_ssh_keys() for word in ("-i", key.removesuffix(".pub"))]
    return words


def _words(options: Mapping[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _explained(status: int, guest: Guest, user: str) -> int:
    """Return ssh's or scp's ``status``; where it may be that no key is let in, say how to let one in.

    What ssh prints goes to the terminal, unread: 255 is its own failure, or the command's.
    """
    if status in (1, 255) and guest.running and not _let_in(guest, user):
        home = "/root" if user == "root" else f"~{user}"
        script = f"mkdir -pm 700 {home}/.ssh; cat >> {home}/.ssh/authorized_keys"
        if user != "root":
            script += f"; chown -R {shlex.quote(user)}: {home}/.ssh"
        key = next(iter(own_ssh_keys()), "~/.ssh/id_ed25519.pub")
        say(f"if permission was denied: no key of yours (~/.ssh/id_*.pub) is known to let {user} in; to add one:")
        say(f"./inv exec {guest.name} -- sh -c {shlex.quote(script)} < {key}")
    return status


def _let_in(guest: Guest, user: str) -> bool:
    """Say whether a key of who runs this is among those that may log in as root; of other users that is not known."""
    if user != "root":
        return False
    try:
        known = beside.read(guest.target, guest.root, "root/.ssh/authorized_keys").decode(errors="replace")
        own = [split_fields(Path(path).read_text(errors="replace")) for path in own_ssh_keys()]
    except (VirtrootError, OSError):
        return False
    keys = {word for line in split_lines(known) for word in split_fields(line)}
    return any(len(words) > 1 and words[1] in keys for words in own)


def _chosen() -> list[str]:
    """Return the variables that an ssh which is started later needs, as ``NAME=VALUE``."""
    chosen = [f"{key}={os.environ[key]}" for key in sorted(_SETTINGS) if os.environ.get(key)]
    for variable in [each for each in chosen if without_logins(each) != each]:
        chosen.remove(variable)
        warn(f"{variable.partition('=')[0]} has a password in it, and is left out: set it where ssh is run")
    return chosen


def _config(name: str, settings: Settings, user: str, chosen: Sequence[str] = ()) -> dict[str, str]:
    """Return ssh's options for a guest: by its name, whatever its address is, and by its own key alone.

    ``chosen`` are variables for the program that joins ssh to the guest, which has those of ssh itself anyway.
    """
    words = [*(["env", *chosen] if chosen else []), str(CHECKOUT / "inv"), "ssh-proxy", name]
    return {
        "User": user,
        "HostKeyAlias": name,
        "UserKnownHostsFile": f'"{_percent(str(_known_hosts(name, settings)))}"',
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ProxyCommand": _percent(shlex.join(words)),
    }


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _known_hosts(name: str, settings: Settings) -> Path:
    return settings.output_dir / ".ssh" / name


def _know(guest: Guest, settings: Settings) -> Sshd:
    """Write a guest's host key where ssh looks for it; return what its sshd does."""
    line, found = ssh_access.known_host(guest)
    path = _known_hosts(guest.name, settings)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.read_text() == line:
            return found
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as partial:
            partial.write(line)
        Path(partial.name).replace(path)
    except OSError as error:
        raise VirtrootError(
            f"cannot write {path}: {error.strerror}", "mend its owner, or set virtroot.output"
        ) from error
    return found


_USER = {"user": "log in as this user"}


@task(name="ssh", help={**GUEST, **_USER})
def ssh_task(
    c: Context,
    name: str,
    user: str = "root",
    command: Sequence[str] = (),
) -> None:
    """Log in to a guest by ssh, or run a command there.

    ./inv ssh web
    ./inv ssh web -- journalctl -b
    """
    sys.exit(ssh(name, command, settings_of(c), user=user))


@task(name="ssh-config", help=_USER)
def ssh_config_task(
    c: Context,
    user: str = "root",
) -> None:
    """Print what lets plain ssh, scp and rsync reach every guest by its name, to be included in ~/.ssh/config.

    ./inv ssh-config > ~/.ssh/virtroot
    """
    result(config(settings_of(c), user=user))


@task(name="ssh-proxy", help=GUEST)
def ssh_proxy_task(
    c: Context,
    name: str,
) -> None:
    """Join standard input and output to a guest's sshd: what ssh-config names as ProxyCommand.

    ./inv ssh-proxy web
    """
    proxy(name, settings_of(c))


@task(
    name="cp",
    positional=["source", "destination"],
    help={
        "source": "a file here, or GUEST:PATH",
        "destination": "where to, the other one of the two",
        **_USER,
    },
)
def cp_task(
    c: Context,
    source: str,
    destination: str,
    user: str = "root",
) -> None:
    """Copy a file into a guest or out of it, running or not.

    ./inv cp page.html web:/srv/www/
    ./inv cp web:/var/log/dpkg.log .
    """
    sys.exit(copy(source, destination, settings_of(c), user=user))

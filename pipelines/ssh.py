"""Access to guests by the user's own ssh and scp, with the host key from the guest's root."""

from __future__ import annotations

import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines import invocation
from pipelines.cli.task import GUEST, Context, context_of, task
from pipelines.context import CommandContext
from pipelines.errors import VirtrootError
from pipelines.guest import guest as guests
from pipelines.guest import hold, ssh_access
from pipelines.guest.guest import Guest
from pipelines.guest.identity import find_ssh_keys
from pipelines.guest.sshd import Sshd
from pipelines.host import process
from pipelines.host.destination import write as write_destination
from pipelines.log import result, say, warn
from pipelines.settings import Settings
from pipelines.target import programs
from pipelines.text import split_fields, split_lines, without_logins

#: Variables that say where guests are: a shell that runs ssh later may not have them. No other variables are passed,
#: since ssh's configuration ends up on command lines, which every user can read.
_VARIABLES = (
    "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "INVOKE_VIRTROOT_CONNECT", "INVOKE_VIRTROOT_EMBEDDED",
    "INVOKE_VIRTROOT_OUTPUT", "INVOKE_VIRTROOT_POOL", "INVOKE_VIRTROOT_POOL_PATH",
)  # fmt: skip

#: Options of ./inv ssh and cp that override ~/.ssh/config. They run only what they are given, on a connection of their
#: own, since a shared connection may lead to another machine of the same name. They forward nothing of the user's to
#: the guest, trust only the host key in its root, and give an emulated guest enough time.
_OVERRIDES = {
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

#: Only for ssh: scp sets this itself, and refuses it as an option.
_SESSION = {"SessionType": "default"}

#: The most bytes of a file that is copied to or from a guest that is off.
_LARGEST_BYTES = 256 << 20


def ssh(name: str, argv: Sequence[str], ctx: CommandContext, *, user: str = "root") -> int:
    """Log in to a running guest, or run ``argv`` there; return ssh's exit status."""
    _require_program("ssh")
    guest = guests.get(ctx.hypervisor, name)
    ssh_access.get_address(guest)
    found = _write_known_hosts(guest, ctx.settings)
    if user == "root" and found.refuses:
        warn(f"the sshd of {name} refuses logins of root ({found.refuses}): use another user with --user")
    options = [*_make_arguments(guest.name, ctx.settings, user), *_format_options(_SESSION)]
    status = process.attach(["ssh", *options, guest.name, *(["--", *argv] if argv else [])])
    return _explain_status(status, guest, user)


def proxy(name: str, ctx: CommandContext) -> None:
    """Connect standard input and output to a running guest's sshd; write its host key where ssh looks for it."""
    guest = guests.get(ctx.hypervisor, name)
    address = ssh_access.get_address(guest)
    # ssh looks up the host key only after the other end has identified itself, so it is written in time.
    found = _write_known_hosts(guest, ctx.settings)
    guest.target.relay(address, found.port)


def make_config(ctx: CommandContext, *, user: str = "root") -> str:
    """Return the configuration for ssh to reach each guest, to be included in ``~/.ssh/config``."""
    blocks = []
    for guest in guests.list_guests(ctx.hypervisor):
        given = _make_options(guest.name, ctx.settings, user, _list_variables())
        options = [f"    {key} {value}" for key, value in given.items()]
        blocks.append("\n".join([f"Host {guest.name}", *options]))
    return "\n\n".join(blocks)


def copy(source: str, destination: str, ctx: CommandContext, *, user: str = "root") -> int:
    """Copy a file to or from a guest, ``NAME:PATH``: by scp if the guest is running, else directly in its root.

    Returns the exit status. Raises `VirtrootError` for two guests, for none, and for a path that leads out of a root.
    """
    hypervisor = ctx.hypervisor
    ends = [_parse_end(source), _parse_end(destination)]
    if all(name for name, _ in ends) or not any(name for name, _ in ends):
        raise VirtrootError("exactly one path has to be in a guest", "use for example ./inv cp page.html web:/srv/www/")
    name = next(name for name, _ in ends if name)
    guest = guests.get(hypervisor, name)
    if guest.running:
        _require_program("scp")
        ssh_access.get_address(guest)
        _write_known_hosts(guest, ctx.settings)
        # Otherwise scp would take a local path with a colon for a host, and one that begins with a hyphen for options.
        words = [f"{name}:{path}" if inside else _make_path(path) for inside, path in ends]
        status = process.attach(["scp", "-r", "-q", *_make_arguments(name, ctx.settings, user), "--", *words])
        return _explain_status(status, guest, user)
    with hold.hold(hypervisor, name, off="run this again: the guest was started meanwhile") as guest:
        guest.mount_layers()
        if ends[0][0]:
            _copy_out(guest, ends[0][1], Path(destination))
        else:
            _copy_in(guest, Path(source), ends[1][1])
    return 0


def _parse_end(text: str) -> tuple[str, str]:
    """Return the guest and the path of one end; with a slash before the colon, the text is a local path."""
    name, colon, path = text.partition(":")
    return (name, path) if colon and name and "/" not in name else ("", text)


def _make_path(path: str) -> str:
    return path if path.startswith("/") else f"./{path}"


def _copy_in(guest: Guest, source: Path, path: str) -> None:
    try:
        with source.open("rb") as content:
            mode = stat.S_IMODE(os.fstat(content.fileno()).st_mode) & 0o755
            size = os.fstat(content.fileno()).st_size
            if not stat.S_ISREG(os.fstat(content.fileno()).st_mode) or size > _LARGEST_BYTES:
                raise VirtrootError(
                    f"{source}: not a regular file of at most {_LARGEST_BYTES >> 20} MiB",
                    f"start {guest.name}: then directories and larger files are copied by scp",
                )
            try:
                programs.put(
                    guest.target, guest.root, _resolve_inside(path, source.name), mode, content, over_files=True
                )
            except programs.DirectoryExists:
                content.seek(0)
                programs.put(
                    guest.target, guest.root, _resolve_inside(f"{path}/", source.name), mode, content, over_files=True
                )
    except OSError as error:
        raise VirtrootError(f"cannot read {source}: {error.strerror}", "use a readable file") from error


def _copy_out(guest: Guest, path: str, destination: Path) -> None:
    inside = _resolve_inside(path, "")
    content = programs.read(guest.target, guest.root, inside, _LARGEST_BYTES)
    write_destination(destination, content, Path(inside).name)


def _resolve_inside(path: str, name: str) -> str:
    """Return a path relative to the root; to one that ends with a slash, ``name`` is added."""
    whole = f"{path}{name}" if path.endswith("/") else path
    if not whole.startswith("/") or not whole.strip("/"):
        raise VirtrootError(f"{path!r}: not an absolute path of a file in the guest", "use for example web:/etc/motd")
    return whole.strip("/")


def _require_program(program: str) -> None:
    if not process.is_installed(program):
        raise VirtrootError(f"{program} is not installed", "install the package openssh-client")


def _make_arguments(name: str, settings: Settings, user: str) -> list[str]:
    words = _format_options({**_make_options(name, settings, user), **_OVERRIDES})
    if os.environ.get("SUDO_USER"):
        # As root, ssh looks for keys only in root's home, and in no default place if it is given any key.
        words += [word for key in find_ssh_keys() for word in ("-i", key.removesuffix(".pub"))]
    return words


def _format_options(options: Mapping[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _explain_status(status: int, guest: Guest, user: str) -> int:
    """Return the ``status`` of ssh or scp; if a missing key may be the reason of a failure, print how to add one.

    The output of ssh goes to the terminal and is not read: a status of 255 is ssh's own, or the command's.
    """
    if status in (1, 255) and guest.running and not _is_key_authorized(guest, user):
        home = "/root" if user == "root" else f"~{user}"
        script = f"mkdir -pm 700 {home}/.ssh; cat >> {home}/.ssh/authorized_keys"
        if user != "root":
            script += f"; chown -R {shlex.quote(user)}: {home}/.ssh"
        key = next(iter(find_ssh_keys()), "~/.ssh/id_ed25519.pub")
        say(f"if permission was denied: none of your keys (~/.ssh/id_*.pub) may log in as {user}; to add one:")
        say(f"./inv exec {guest.name} -- sh -c {shlex.quote(script)} < {key}")
    return status


def _is_key_authorized(guest: Guest, user: str) -> bool:
    """Return whether one of the user's keys may log in as root; False for other users, whose keys are not known."""
    if user != "root":
        return False
    try:
        known = programs.read(guest.target, guest.root, "root/.ssh/authorized_keys").decode(errors="replace")
        own = [split_fields(Path(path).read_text(errors="replace")) for path in find_ssh_keys()]
    except (VirtrootError, OSError):
        return False
    keys = {word for line in split_lines(known) for word in split_fields(line)}
    return any(len(words) > 1 and words[1] in keys for words in own)


def _list_variables() -> list[str]:
    """Return the variables that an ssh which is run later needs, as ``NAME=VALUE``."""
    chosen = [f"{key}={os.environ[key]}" for key in sorted(_VARIABLES) if os.environ.get(key)]
    for variable in [each for each in chosen if without_logins(each) != each]:
        chosen.remove(variable)
        warn(f"{variable.partition('=')[0]} contains a password and is left out: set it where ssh is run")
    return chosen


def _make_options(name: str, settings: Settings, user: str, chosen: Sequence[str] = ()) -> dict[str, str]:
    """Return ssh's options for a guest: its name instead of an address, and only the host key in its root.

    ``chosen`` are variables for the proxy command, which inherits the environment of ssh anyway.
    """
    words = [*(["env", *chosen] if chosen else []), *invocation.make_command(settings.project), "ssh-proxy", name]
    return {
        "User": user,
        "HostKeyAlias": name,
        "UserKnownHostsFile": f'"{_escape_percent(str(_get_known_hosts_file(name, settings)))}"',
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ProxyCommand": _escape_percent(shlex.join(words)),
    }


def _escape_percent(text: str) -> str:
    return text.replace("%", "%%")


def _get_known_hosts_file(name: str, settings: Settings) -> Path:
    return settings.output_dir / ".ssh" / name


def _write_known_hosts(guest: Guest, settings: Settings) -> Sshd:
    """Write a guest's host key where ssh looks for it; return the settings of its sshd."""
    line, found = ssh_access.make_known_hosts_line(guest)
    path = _get_known_hosts_file(guest.name, settings)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.read_text() == line:
            return found
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as partial:
            partial.write(line)
        Path(partial.name).replace(path)
    except OSError as error:
        raise VirtrootError(
            f"cannot write {path}: {error.strerror}", "fix its owner, or set virtroot.output"
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
    sys.exit(ssh(name, command, context_of(c), user=user))


@task(name="ssh-config", help=_USER)
def ssh_config_task(
    c: Context,
    user: str = "root",
) -> None:
    """Print a configuration with which ssh, scp and rsync reach every guest by name; include it in ~/.ssh/config.

    ./inv ssh-config > ~/.ssh/virtroot
    """
    result(make_config(context_of(c), user=user))


@task(name="ssh-proxy", help=GUEST)
def ssh_proxy_task(
    c: Context,
    name: str,
) -> None:
    """Connect standard input and output to a guest's sshd; ssh-config uses it as ProxyCommand.

    ./inv ssh-proxy web
    """
    proxy(name, context_of(c))


@task(
    name="cp",
    positional=["source", "destination"],
    help={
        "source": "a local file, or GUEST:PATH",
        "destination": "a local path, or GUEST:PATH; one of the two is in a guest",
        **_USER,
    },
)
def cp_task(
    c: Context,
    source: str,
    destination: str,
    user: str = "root",
) -> None:
    """Copy a file to a guest or from it, running or not.

    ./inv cp page.html web:/srv/www/
    ./inv cp web:/var/log/dpkg.log .
    """
    sys.exit(copy(source, destination, context_of(c), user=user))

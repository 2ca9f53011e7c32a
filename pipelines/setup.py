"""Install and start what a new machine lacks. Existing programs and engines are not changed."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from pipelines.builder import container
from pipelines.cli.task import Context, settings_of, task
from pipelines.engine import endpoint, images
from pipelines.engine import engine as engines
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.libvirt import embedded
from pipelines.log import say, step, warn
from pipelines.recipe.distros import DISTROS
from pipelines.settings import Settings

_PIDFILE = Path("/run/virtroot/dockerd.pid")
_LOG = Path("/var/log/virtroot-dockerd.log")

#: Seconds until a started engine must answer.
_START_TIMEOUT = 60

_PROBE_IMAGE = "debian:trixie-slim"


def setup(settings: Settings, *, refresh: bool = False) -> None:
    """Ensure that a Docker engine answers and that base images are available; print each step before doing it.

    With ``refresh``, build virtroot's images again at any age.
    """
    if not engines.is_available():
        _ensure_engine()
    engine = engines.connect()
    needs_mirror = settings.base == "mirror" or (settings.base == "auto" and not engine.registry_has(_PROBE_IMAGE))
    have_base = engine.image_id(images.get_base_tag(settings.base, _PROBE_IMAGE))
    if needs_mirror and (refresh or not have_base) and images.is_mirror_tool_missing():
        say("no image registry answers, so mmdebstrap is needed to make base images from the distribution's mirror")
        _install("mmdebstrap")
    if refresh:
        _rebuild_images(engine, settings)
    say("a Docker engine answers, and base images are available")


def _rebuild_images(engine: engines.Engine, settings: Settings) -> None:
    """Build the existing images of builders and of the embedded hypervisor again."""
    now = datetime.now(UTC)
    for distro in DISTROS.values():
        if engine.images(f"virtroot/{distro.containerfile}"):
            container.ensure_image(engine, distro, settings, now)
    if engine.images(f"virtroot/{embedded.NAME}") and embedded.rebuild(settings, now):
        warn(
            f"the embedded hypervisor {settings.embedded} keeps its old image, because guests or tasks are running "
            "in it; run ./inv setup --refresh again after they have ended"
        )


def stop_engine() -> None:
    """Stop the engine that `setup` started without systemd; other engines are not affected."""
    if process.stop_daemon("dockerd", _PIDFILE):
        say("stopped the Docker engine that ./inv setup started")
    else:
        say("nothing to stop; for an engine under systemd run systemctl stop docker docker.socket")


def _ensure_engine() -> None:
    where = endpoint.get_endpoint()
    if endpoint.is_forbidden(where):
        raise endpoint.Forbidden(where)
    if where.named_by:
        raise VirtrootError(f"no Docker engine answers {where}", "start that engine, or use another one")
    if os.geteuid() != 0:
        raise VirtrootError("no Docker engine answers", "install or start one, or run ./inv setup as root")
    if not process.is_installed("dockerd"):
        _install("docker")
    _start_engine()


#: The packages of programs, by package manager.
_PACKAGES = {
    "apt-get": {
        "docker": "docker.io",
        "ssh": "openssh-client",
        "bsdtar": "libarchive-tools",
        "ansible": "ansible-core",
    },
    "pacman": {"ssh": "openssh", "bsdtar": "libarchive", "ansible": "ansible-core"},
}

#: Packages with the same name everywhere. For other programs, the package has the program's name.
_EVERYWHERE = {"mkfs.btrfs": "btrfs-progs", "mkfs.xfs": "xfsprogs"}


def ensure_programs(*programs: str) -> None:
    """Install the missing ones of ``programs``. Raises VirtrootError if that requires root."""
    for program in programs:
        if process.is_installed(program):
            continue
        if os.geteuid() != 0:
            raise VirtrootError(f"{program} is not installed", f"install {program}, or run this as root once")
        _install(program)


def _install(what: str) -> None:
    if process.is_installed("apt-get"):
        package = _get_package("apt-get", what)
        say(f"will install the package {package} with apt-get")
        with step(f"apt-get install {package}"):
            env = {"DEBIAN_FRONTEND": "noninteractive"}
            process.run(["apt-get", "update", "-qq"], env=env)
            process.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", package], env=env)
    elif process.is_installed("pacman"):
        package = _get_package("pacman", what)
        say(f"will install the package {package} with pacman")
        with step(f"pacman -S {package}"):
            process.run(["pacman", "-Sy", "--noconfirm", "--needed", package])
    else:
        raise VirtrootError(
            f"{what} is not installed, and this machine has neither apt-get nor pacman",
            f"install {what} with this system's package manager, then run the task again",
        )


def _get_package(tool: str, program: str) -> str:
    return _PACKAGES[tool].get(program) or _EVERYWHERE.get(program, program)


def _start_engine() -> None:
    if Path("/run/systemd/system").is_dir():
        say("will start the Docker engine with systemctl")
        process.run(["systemctl", "start", "docker"])
    else:
        say(f"will start dockerd, since no systemd runs here; its log is {_LOG}")
        # dockerd needs iptables, which is in sbin; a user's PATH may lack that directory.
        process.start_daemon(["dockerd"], log=_LOG, pidfile=_PIDFILE)
    deadline = time.monotonic() + _START_TIMEOUT
    with step("starting the Docker engine"):
        while not engines.is_available():
            if time.monotonic() > deadline:
                raise VirtrootError(
                    "the Docker engine was started, but does not answer", f"check {_LOG} or journalctl -u docker"
                )
            time.sleep(0.5)


@task(
    name="setup",
    help={
        "stop": "stop the engine that an earlier setup started",
        "refresh": "build the images of builders and the embedded hypervisor again, with current packages",
    },
)
def setup_task(
    c: Context,
    stop: bool = False,
    refresh: bool = False,
) -> None:
    """Install and start what is missing, and print each step before doing it.

    ./inv setup
    ./inv setup --refresh
    """
    if stop:
        stop_engine()
    else:
        setup(settings_of(c), refresh=refresh)

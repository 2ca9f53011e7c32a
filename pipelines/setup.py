"""Set-up: what a fresh machine lacks is named, installed and started; a machine that has it is left alone."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from pipelines.builder import container
from pipelines.cli.task import Context, settings_of, task
from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.engine.endpoint import get_endpoint
from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.libvirt import embedded
from pipelines.log import say, step, warn
from pipelines.recipe.distros import DISTROS
from pipelines.settings import Settings

_PIDFILE = Path("/run/virtroot/dockerd.pid")
_LOG = Path("/var/log/virtroot-dockerd.log")

#: Seconds that a new engine may take to answer.
_START_TIMEOUT = 60

_PROBE_IMAGE = "debian:trixie-slim"


def setup(settings: Settings, *, refresh: bool = False) -> None:
    """Make sure that a Docker engine answers and that a base image can be had; say what is done before doing it.

    With ``refresh`` the images that virtroot made on it are made anew, whatever their age.
    """
    if not engines.is_available():
        _need_engine()
    engine = engines.connect()
    needs_mirror = settings.base == "mirror" or (settings.base == "auto" and not engine.registry_has(_PROBE_IMAGE))
    have_base = engine.image_id(images.get_base_tag(settings.base, _PROBE_IMAGE))
    if needs_mirror and (refresh or not have_base) and images.is_mirror_tool_missing():
        say("no image registry answers: mmdebstrap is needed to make base images from the distribution's mirror")
        _install("mmdebstrap")
    if refresh:
        _renew_images(engine, settings)
    say("a Docker engine answers and base images can be had")


def _renew_images(engine: engines.Engine, settings: Settings) -> None:
    """Make the builders' images and the embedded hypervisor's anew; one that nobody has needed yet is left unmade."""
    now = datetime.now(UTC)
    for distro in DISTROS.values():
        if engine.images(f"virtroot/{distro.containerfile}"):
            container.ensure_image(engine, distro, settings, now)
    if engine.images(f"virtroot/{embedded.NAME}") and embedded.renew(settings, now):
        warn(
            f"guests run or tasks work in the embedded hypervisor {settings.embedded}, which goes on as it was made: "
            "when they are done, ./inv setup --refresh lets the next start take the new image"
        )


def stop_engine() -> None:
    """Stop the engine that `setup` started without systemd; any other engine is left alone."""
    if process.stop_daemon("dockerd", _PIDFILE):
        say("stopped the Docker engine that ./inv setup started")
    else:
        say("nothing to stop: an engine that systemd runs is stopped by systemctl stop docker docker.socket")


def _need_engine() -> None:
    where = get_endpoint()
    if where.named_by:
        raise VirtrootError(f"no Docker engine answers {where}", "start that engine, or choose another one")
    if os.geteuid() != 0:
        raise VirtrootError("no Docker engine answers", "install or start one, or run ./inv setup as root")
    if not process.is_installed("dockerd"):
        _install("docker")
    _start_engine()


#: The packages' names by package manager, and the words that install them.
_PACKAGES = {
    "apt-get": {
        "docker": "docker.io",
        "ssh": "openssh-client",
        "bsdtar": "libarchive-tools",
        "ansible": "ansible-core",
    },
    "pacman": {"ssh": "openssh", "bsdtar": "libarchive", "ansible": "ansible-core"},
}

#: The same wherever there is a package; other programs are in a package of their own name.
_EVERYWHERE = {"mkfs.btrfs": "btrfs-progs", "mkfs.xfs": "xfsprogs"}


def need(*programs: str) -> None:
    """Install what is missing of ``programs``; raises `VirtrootError` where that takes root."""
    for program in programs:
        if process.is_installed(program):
            continue
        if os.geteuid() != 0:
            raise VirtrootError(f"{program} is missing", f"install {program}, or run this as root once")
        _install(program)


def _install(what: str) -> None:
    if process.is_installed("apt-get"):
        package = _package("apt-get", what)
        say(f"will install the package {package} with apt-get")
        with step(f"apt-get install {package}"):
            env = {"DEBIAN_FRONTEND": "noninteractive"}
            process.run(["apt-get", "update", "-qq"], env=env)
            process.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", package], env=env)
    elif process.is_installed("pacman"):
        package = _package("pacman", what)
        say(f"will install the package {package} with pacman")
        with step(f"pacman -S {package}"):
            process.run(["pacman", "-Sy", "--noconfirm", "--needed", package])
    else:
        raise VirtrootError(
            f"{what} is missing, and this machine has neither apt-get nor pacman",
            f"install {what} with this system's own package manager, then run the task again",
        )


def _package(tool: str, program: str) -> str:
    return _PACKAGES[tool].get(program) or _EVERYWHERE.get(program, program)


def _start_engine() -> None:
    if Path("/run/systemd/system").is_dir():
        say("will start the Docker engine with systemctl")
        process.run(["systemctl", "start", "docker"])
    else:
        say(f"will start dockerd, since no systemd runs here; its log is {_LOG}")
        # Packages put iptables into sbin, which a plain user's PATH may lack.
        process.start_daemon(["dockerd"], log=_LOG, pidfile=_PIDFILE)
    deadline = time.monotonic() + _START_TIMEOUT
    with step("starting the Docker engine"):
        while not engines.is_available():
            if time.monotonic() > deadline:
                raise VirtrootError(
                    "the Docker engine was started and does not answer", f"read {_LOG} or journalctl -u docker"
                )
            time.sleep(0.5)


@task(
    name="setup",
    help={
        "stop": "stop the engine that an earlier setup started",
        "refresh": "make the images of builders and embedded hypervisor anew, with today's packages",
    },
)
def setup_task(
    c: Context,
    stop: bool = False,
    refresh: bool = False,
) -> None:
    """Install and start what is missing, saying so first.

    ./inv setup
    ./inv setup --refresh
    """
    if stop:
        stop_engine()
    else:
        setup(settings_of(c), refresh=refresh)

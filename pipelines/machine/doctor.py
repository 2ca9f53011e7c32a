"""Doctor: what this machine has of what virtroot needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipelines.errors import VirtrootError
from pipelines.host import engine as engines
from pipelines.host import images, process
from pipelines.host.target import Local
from pipelines.libvirt import connect as connecting
from pipelines.libvirt import kvm
from pipelines.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is as it should be, and what that means; only ``needed`` ones stop the work."""

    name: str
    ok: bool
    needed: bool
    says: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything and change nothing; no guest, container or pool is made."""
    return [
        _engine(),
        _registry(settings),
        _images(settings),
        _mirror_tool(),
        _libvirt(settings),
        _kvm(settings),
        _virtiofsd(),
        _sandbox(),
    ]


def as_text(findings: list[Finding]) -> str:
    """Return the findings as lines."""
    return "\n".join(
        f"{'ok' if each.ok else 'NO' if each.needed else '-':<3} {each.name:<15} {each.says}" for each in findings
    )


def status(findings: list[Finding]) -> int:
    """Return the exit status: 1 when something needed is missing."""
    return int(any(each.needed and not each.ok for each in findings))


def _asked(question: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, question()
    except VirtrootError as error:
        return False, f"{error.what}; {error.hint}"


def _engine() -> Finding:
    ok, says = _asked(lambda: f"answers, {engines.connect().memory() >> 20} MiB of memory to build in")
    return Finding("Docker engine", ok, True, says)


def _registry(settings: Settings) -> Finding:
    if not engines.answers():
        return Finding("image registry", False, False, "cannot tell without an engine")
    ok = engines.connect().registry_has("debian:trixie-slim")
    return Finding(
        "image registry", ok, False, "answers" if ok else f"does not answer; base: {settings.base} uses the mirror"
    )


def _images(settings: Settings) -> Finding:
    if not engines.answers():
        return Finding("images", False, False, "cannot tell without an engine")
    since = images.since(settings.image_max_age)
    now = datetime.now(UTC)
    old = [
        f"{tag} is {(now - image.made).days} days old"
        for tag, image in engines.connect().images("virtroot/*").items()
        if image.made < since
    ]
    if old:
        return Finding("images", False, False, f"{', '.join(old)}; ./inv setup --refresh renews those in use")
    limit = f"{settings.image_max_age} days" if settings.image_max_age else "which is 0: any age is fine"
    return Finding("images", True, False, f"none is older than image_max_age, {limit}")


def _mirror_tool() -> Finding:
    ok = process.found("mmdebstrap")
    return Finding("mmdebstrap", ok, False, "here" if ok else "missing; needed only where no image registry answers")


def _libvirt(settings: Settings) -> Finding:
    ok = connecting.host_answers()
    says = "the host's answers" if ok else "the host's does not answer; connect: auto uses the embedded hypervisor"
    return Finding("libvirt", ok, settings.connect.startswith("qemu"), says)


def _kvm(settings: Settings) -> Finding:
    if not Path("/dev/kvm").exists():
        return Finding("KVM", False, False, "no /dev/kvm; guests run under software emulation, many times slower")
    if not process.found("qemu-system-x86_64"):
        return Finding("KVM", False, False, "/dev/kvm is there; whether it works is tried when a guest is installed")
    works = kvm.works(Local())
    return Finding(
        "KVM", works, False, "works" if works else "/dev/kvm is there but refuses guests; software emulation is used"
    )


def _virtiofsd() -> Finding:
    places = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")
    found = next((place for place in places if Path(place).exists()), "")
    return Finding("virtiofsd", bool(found), False, found or "missing; the embedded hypervisor has its own")


def _sandbox() -> Finding:
    ok = process.found("bwrap")
    return Finding(
        "bubblewrap", ok, False, "here" if ok else "missing; verify of a root on this host's libvirt needs it"
    )

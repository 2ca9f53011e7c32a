"""The virtiofsd on libvirt's host: its implementation, version and options, according to its own output."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.libvirt import host_files
from pipelines.target.target import Target

#: The implementation in Rust is maintained; QEMU's own in C was removed in QEMU 8.0.
RUST, C = "Rust", "C"

#: Where distributions install it.
PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")

#: The options that matter, and the pattern for each in the help text of either implementation.
_ABILITIES = {
    "readonly": r"--readonly",
    "modcaps": r"--modcaps|\bmodcaps=",
    "sandbox": r"--sandbox|\bsandbox=",
    "inode-file-handles": r"--inode-file-handles",
    "posix-acl": r"--posix-acl|\bposix_acl\b",
}

_CACHES = ("auto", "always", "metadata", "never", "none")

#: Seconds that it may take to print its version or help.
_TIMEOUT = 30


@dataclass(frozen=True)
class Virtiofsd:
    """What a virtiofsd prints about itself; ``version`` may be empty, ``abilities`` are options, ``caches`` modes."""

    path: str
    family: str
    version: str
    abilities: tuple[str, ...]
    caches: tuple[str, ...]

    def __str__(self) -> str:
        """Return the description in one line."""
        known = ", ".join(self.abilities) or "none of the options that virtroot uses"
        family = f"{self.family}, {self.version or 'unknown version'}"
        return f"{self.path} ({family}): {known}; cache {', '.join(self.caches) or 'unknown'}"


def identify(target: Target, path: str) -> Virtiofsd:
    """Return what the virtiofsd ``path`` prints about itself; it serves nothing for that."""
    version, usage = (target.run([path, option], check=False, timeout=_TIMEOUT) for option in ("--version", "--help"))
    # QEMU's prints a part of it on standard error.
    said = [each.stdout.decode(errors="replace") + each.stderr.decode(errors="replace") for each in (version, usage)]
    return parse(path, *said)


@dataclass(frozen=True)
class Trial:
    """The result of a trial start: ``serves`` says whether it waited for a guest; ``output`` is what it printed."""

    serves: bool
    output: str


def try_start(target: Target, found: Virtiofsd, wrapper: str = "") -> Trial:
    """Start the daemon on an empty directory and end it; with ``wrapper``, by virtroot's wrapper under that name."""
    text, name = (host_files.wrapper().decode(), wrapper) if wrapper else ("", found.path)
    argv = ["sh", "-s", "--", text, name, "old" if found.family == C else "new"]
    done = target.run(argv, stdin=host_files.trial(), check=False, timeout=_TIMEOUT)
    return Trial(done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace"))


def parse(path: str, version: str, usage: str) -> Virtiofsd:
    """Parse the output of ``--version`` and ``--help``."""
    # The implementation in Rust also accepts the options of the other one, after one -o.
    family = RUST if "--shared-dir" in usage else C
    number = re.search(r"virtiofsd\D*(\d+(?:\.\d+)+)", version)
    abilities = tuple(name for name, words in _ABILITIES.items() if re.search(words, usage))
    said = re.search(r"(?:--cache|\bcache=).*?(?=\n\s*-|\Z)", usage, re.DOTALL)
    caches = tuple(mode for mode in _CACHES if said and re.search(rf"\b{mode}\b", said[0]))
    return Virtiofsd(path, family, number[1] if number else "", abilities, caches)

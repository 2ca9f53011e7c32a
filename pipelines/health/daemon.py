"""virtiofsd: which family it is of, its version, and what it can do, by what it says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.libvirt import host_files
from pipelines.target.target import Target

#: The one in Rust is developed; QEMU's own, in C, ended with QEMU 8.0.
RUST, C = "Rust", "C"

#: Where distributions put it.
PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")

#: What it can do, and what of its help says so in either family.
_ABILITIES = {
    "readonly": r"--readonly",
    "modcaps": r"--modcaps|\bmodcaps=",
    "sandbox": r"--sandbox|\bsandbox=",
    "inode-file-handles": r"--inode-file-handles",
    "posix-acl": r"--posix-acl|\bposix_acl\b",
}

_CACHES = ("auto", "always", "metadata", "never", "none")

#: Seconds that it may take to say what it is.
_TIMEOUT = 30


@dataclass(frozen=True)
class Virtiofsd:
    """What a virtiofsd says of itself: ``version`` may be empty, ``abilities`` are options, ``caches`` its modes."""

    path: str
    family: str
    version: str
    abilities: tuple[str, ...]
    caches: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a line."""
        known = ", ".join(self.abilities) or "none of the options that virtroot knows"
        family = f"{self.family}, {self.version or 'of a version that it does not say'}"
        return f"{self.path} ({family}): {known}; cache {', '.join(self.caches) or 'unknown'}"


def ask(target: Target, path: str) -> Virtiofsd:
    """Ask the virtiofsd ``path`` what it is; it serves nothing then."""
    version, usage = (target.run([path, option], check=False, timeout=_TIMEOUT) for option in ("--version", "--help"))
    # QEMU's says some of it on standard error.
    said = [each.stdout.decode(errors="replace") + each.stderr.decode(errors="replace") for each in (version, usage)]
    return read(path, *said)


@dataclass(frozen=True)
class Tried:
    """What became of a start: ``serves`` says that it waited for a guest, ``said`` is what was printed."""

    serves: bool
    said: str


def start(target: Target, found: Virtiofsd, wrapper: str = "") -> Tried:
    """Start the daemon on an empty directory, by virtroot's wrapper under the name ``wrapper`` if given, and end it."""
    text, name = (host_files.wrapper().decode(), wrapper) if wrapper else ("", found.path)
    argv = ["sh", "-s", "--", text, name, "old" if found.family == C else "new"]
    done = target.run(argv, stdin=host_files.trial(), check=False, timeout=_TIMEOUT)
    return Tried(done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace"))


def read(path: str, version: str, usage: str) -> Virtiofsd:
    """Return what the output of ``--version`` and ``--help`` says."""
    # The one in Rust takes the words of the other one as well, behind one -o.
    family = RUST if "--shared-dir" in usage else C
    number = re.search(r"virtiofsd\D*(\d+(?:\.\d+)+)", version)
    abilities = tuple(name for name, words in _ABILITIES.items() if re.search(words, usage))
    said = re.search(r"(?:--cache|\bcache=).*?(?=\n\s*-|\Z)", usage, re.DOTALL)
    caches = tuple(mode for mode in _CACHES if said and re.search(rf"\b{mode}\b", said[0]))
    return Virtiofsd(path, family, number[1] if number else "", abilities, caches)

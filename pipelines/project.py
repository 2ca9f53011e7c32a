"""The project directory: the settings, recipes, tests and output of a user or a team.

A project directory has a file `FILE`, or is the checkout that the program runs from. A guest can write such a file into
its root and its shares, and settings name commands to run. So a directory that is found from the current one has to be
known: `init` records it.
"""

from __future__ import annotations

import errno
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.errors import VirtrootError
from pipelines.text import one_line, plain, split_lines

#: The directory with the program's own files: containerfiles, skeletons, the acceptance suite, the book.
PROGRAM = Path(__file__).resolve().parent.parent

#: The project directory of the system.
SYSTEM = Path("/etc/virtroot")

#: The file with the settings, and another name that users may give it.
FILE, _OTHER_FILE = "virtroot.yaml", "virtroot.yml"

#: The format of project directories, and its key in the file.
FORMAT, _KEY = 1, "format"

#: The environment variable that names a project directory.
VARIABLE = "VIRTROOT_DIR"

#: The most bytes of the file that are read.
_MOST_BYTES = 1 << 20


def is_checkout(directory: Path) -> bool:
    """Return whether ``directory`` is a checkout of virtroot, which is a project directory without the file."""
    return (directory / "inv").is_file() and (directory / "pipelines" / "settings.py").is_file()


def find(given: str = "") -> Path:
    """Return the project directory.

    It is ``given`` (``-C``) or that of `VARIABLE`; else the current directory or its nearest parent with the file; else
    the checkout that the program runs from; else the system's. Raises `VirtrootError` if there is none.
    """
    for source, text in (("-C", given), (VARIABLE, os.environ.get(VARIABLE, ""))):
        if text:
            return _check_given(source, Path(text).resolve())
    own = PROGRAM if is_checkout(PROGRAM) else None
    nearest = next((each for each in _list_parents() if find_file(each) or each == own), None)
    if nearest and nearest not in (own, SYSTEM):
        _refuse_unknown(nearest)
    if nearest or own:
        return nearest or PROGRAM
    if find_file(SYSTEM):
        return SYSTEM
    raise VirtrootError("no project directory", "run ./inv init DIR to make one, then use it by cd or -C DIR")


def _refuse_unknown(directory: Path) -> None:
    """Raise `VirtrootError` for a directory that this user does not know, or whose file another user wrote since."""
    if str(directory) not in _read_known():
        raise VirtrootError(
            f"{directory} is a project directory that you did not make or use before",
            f"run ./inv init {directory} if you trust its settings; or use -C for another one",
        )
    file = find_file(directory)
    owner = file.lstat().st_uid if file else 0
    if owner not in {0, os.geteuid(), _get_sudo_user()}:
        raise VirtrootError(
            f"{file} belongs to the user {owner}", f"use -C {directory} if you trust that user; or change its owner"
        )


def _get_sudo_user() -> int | None:
    """Return the number of the user who became root by sudo, if any."""
    text = os.environ.get("SUDO_UID", "")
    return int(text) if os.geteuid() == 0 and text.isascii() and text.isdecimal() and len(text) < 10 else None


def _check_given(source: str, directory: Path) -> Path:
    if not directory.is_dir():
        what = "not a directory" if directory.exists() else "No such file or directory"
        raise VirtrootError(f"{source}: {directory}: {what}", "name a project directory; ./inv init DIR makes one")
    if not find_file(directory) and not is_checkout(directory):
        raise VirtrootError(f"{source}: {directory}: no {FILE} there", f"run ./inv init {directory} to make it one")
    return directory


def _list_parents() -> Iterator[Path]:
    """Yield the current directory and its parents; nothing if the current directory was deleted."""
    try:
        current = Path.cwd()
    except OSError:
        return
    yield from (current, *current.parents)


def find_file(directory: Path) -> Path | None:
    """Return the file with the settings of ``directory``; raises `VirtrootError` if it has two of them."""
    found = [path for path in (directory / FILE, directory / _OTHER_FILE) if os.path.lexists(path)]
    if len(found) > 1:
        raise VirtrootError(
            f"{directory} has both {FILE} and {_OTHER_FILE}", f"merge them into {FILE}, and delete the other one"
        )
    return found[0] if found else None


def read_settings(directory: Path) -> dict[str, Any]:
    """Return the settings in the file of ``directory``, not validated; empty if it has no file.

    Raises `VirtrootError` if the file cannot be read, has no mapping, or is of a newer format.
    """
    path = find_file(directory)
    if path is None:
        return {}
    # Most commands read no such file, and the import takes longer than some of them.
    import yaml

    try:
        if not path.is_file():
            # Opening a pipe would wait for a writer.
            raise OSError(errno.EINVAL, "Is a directory" if path.is_dir() else "Not a file")
        with path.open(encoding="utf-8") as file:
            content = file.read(_MOST_BYTES)
        found = yaml.safe_load(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(str(error))
        raise VirtrootError(
            f"cannot read {path}: {reason}", "fix it; ./inv help settings lists the settings"
        ) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise VirtrootError(f"{path}: not a mapping", "write one setting per line, like keep: 7")
    written = found.pop(_KEY, FORMAT)
    if isinstance(written, bool) or not isinstance(written, int) or written < 1:
        raise VirtrootError(f"{path}: {_KEY}: not a positive number: {written!r}", f"write {_KEY}: {FORMAT}")
    if written > FORMAT:
        raise VirtrootError(
            f"{path}: format {written} is of a newer version of virtroot, this one knows {FORMAT}",
            "install that version",
        )
    return {str(key): value for key, value in found.items()}


def record_known(directory: Path) -> None:
    """Record that this user trusts the settings of ``directory``; raises `VirtrootError` if that cannot be written."""
    # The current directory, which is compared with it, has no links in its path.
    directory = directory.resolve()
    if str(directory) in _read_known():
        return
    check_recordable(directory)
    path = _get_known_file(Path(_home()))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = _read_lines(path) if path.exists() else []
        content = "".join(f"{each}\n" for each in (*before, directory)).encode(errors="surrogateescape")
        # A file that is cut short would name another directory.
        handle, partial = tempfile.mkstemp(prefix=".projects-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(partial).replace(path)
    except OSError as error:
        raise VirtrootError(f"{path}: {error.strerror}", "fix its owner or mode") from error


def check_recordable(directory: Path) -> None:
    """Raise `VirtrootError` for a directory whose name has control characters, which a list of names cannot have."""
    if plain(str(directory)) != str(directory) or "\n" in str(directory) or "\t" in str(directory):
        raise VirtrootError(f"{str(directory)!r}: control characters in the name", "use another directory")


def _read_lines(path: Path) -> list[str]:
    return split_lines(path.read_bytes().decode(errors="surrogateescape"))


def _read_known() -> set[str]:
    """Return the directories that this user, or the user who became root by sudo, trusts."""
    homes = [_home()]
    user = _get_sudo_user()
    if user is not None:
        with suppress(KeyError):
            homes.append(pwd.getpwuid(user).pw_dir)
    known: set[str] = set()
    for home in homes:
        try:
            known |= {*_read_lines(_get_known_file(Path(home)))}
        except OSError:
            continue
    return known


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:
        # A user without a home knows no project directory.
        return "/nonexistent"


def _get_known_file(home: Path) -> Path:
    own = home == Path(_home())
    state = os.environ.get("XDG_STATE_HOME", "") if own else ""
    # Its specification says to ignore a relative path, which would be one below a guest's root or share.
    state = state if Path(state).is_absolute() else ""
    return Path(state or home / ".local" / "state") / "virtroot" / "projects"

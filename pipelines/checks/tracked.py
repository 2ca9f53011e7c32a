"""The files of the checkout, as git lists them."""

from __future__ import annotations

from pipelines.errors import VirtrootError
from pipelines.host import process
from pipelines.settings import CHECKOUT


def run_git(*arguments: str) -> str | None:
    """Run git in the checkout and return its output, or None where it fails."""
    done = process.run(["git", "-C", str(CHECKOUT), "-c", f"safe.directory={CHECKOUT}", *arguments], check=False)
    return None if done.returncode else done.stdout.decode(errors="surrogateescape")


def list_files() -> list[str]:
    """List the regular files that are tracked, or new and not ignored, relative to the checkout.

    Links are left out: what they lead to is a file of its own, or does not exist here.
    """
    listed = run_git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed is None:
        raise VirtrootError(f"{CHECKOUT}: git does not list the files", "run git status there")
    names = sorted({name for name in listed.split("\0") if name})
    return [name for name in names if (CHECKOUT / name).is_file() and not (CHECKOUT / name).is_symlink()]

"""Clean: what is kept only to save time goes."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.builder.cache import StageCache
from pipelines.errors import VirtrootError
from pipelines.settings import Settings


def clean_cache(settings: Settings, *, asking: Callable[[str], bool] | None) -> int:
    """Delete the kept roots and return how many bytes that freed; ``asking`` is asked first where it is given.

    Builds that are at work go on: what they read or write they have open.
    """
    cache = StageCache(settings.cache_home, settings.cache_bytes)
    size = cache.size()
    if size and asking and not asking(f"delete {size >> 20} MiB of roots that builds start from?"):
        raise VirtrootError("the stage cache was not deleted", "answer y, or give --yes")
    return cache.clear()

"""A browser for tests of pages: Debian's Chromium in a container, without rights, without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from pipelines.engine import engine as engines
from pipelines.engine import images
from pipelines.engine.engine import Container
from pipelines.host.trees import archive
from pipelines.recipe.distros import DISTROS

HERE = Path(__file__).parent

#: Where the pages are in the browser's container.
PAGES = "/home/browser/pages"


@dataclass(frozen=True)
class View:
    """A page as the browser shows it: see `look` for what is in ``facts``."""

    page: str
    width: int
    scheme: str
    facts: Mapping[str, Any]

    @property
    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.facts["picture"])

    def named(self, role: str) -> list[str]:
        """Return what a screen reader calls the elements of a role."""
        return [name for each, name in self.facts["tree"] if each == role]


@dataclass(frozen=True)
class Browser:
    """The browser's container."""

    container: Container

    def look(self, pages: Mapping[str, bytes], views: Sequence[tuple[str, int, str]]) -> list[View]:
        """Show ``pages`` (path to content), each view a page, a width in pixels and ``light`` or ``dark``."""
        self.container.run(["mkdir", "--parents", PAGES])
        self.container.run(["tar", "--extract", "--file=-", "--directory", PAGES], stdin=archive(pages))
        asked = [{"page": f"{PAGES}/{page}", "width": width, "scheme": scheme} for page, width, scheme in views]
        said = self.container.run(["look"], stdin=json.dumps(asked).encode(), timeout=120).stdout
        return [View(*view, facts) for view, facts in zip(views, json.loads(said), strict=True)]


@contextmanager
def chromium(base: str) -> Iterator[Browser]:
    """Make the browser's image, where it is not made yet, and run it."""
    engine = engines.connect()
    debian = DISTROS["debian"]
    base_tag = images.ensure_base(engine, base, debian.base_image, debian.base_suite)
    files = {name: (HERE / name).read_bytes() for name in ("Containerfile", "look")}
    digest = hashlib.sha256((engine.image_id(base_tag) or "").encode() + b"".join(files.values())).hexdigest()[:16]
    tag = f"virtroot/test-browser:{digest}"
    if not engine.image_id(tag):
        engine.build_image(archive(files), tag, {"BASE": base_tag})
    labels = {"virtroot.purpose": "test-browser"}
    container = engine.start(tag, labels=labels, argv=["sleep", "900"], transient=True)
    try:
        client = docker.from_env()
        for network in client.containers.get(container.id).attrs["NetworkSettings"]["Networks"]:
            client.networks.get(network).disconnect(container.id)
        yield Browser(container)
    finally:
        container.remove()

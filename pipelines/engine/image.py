"""An image on the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Image:
    """An image: its content digest, the time when it was built, imported or last pulled, and its labels."""

    id: str
    made: datetime
    labels: Mapping[str, str]


def read_image(inspected: Mapping[str, Any]) -> Image:
    """Make an Image from the engine's answer to an inspection."""
    # A pull without changes updates only the time of the tag.
    times = (inspected.get("Created"), (inspected.get("Metadata") or {}).get("LastTagTime"))
    made = max((datetime.fromisoformat(time) for time in times if time), default=datetime.min.replace(tzinfo=UTC))
    return Image(str(inspected["Id"]), made, (inspected.get("Config") or {}).get("Labels") or {})

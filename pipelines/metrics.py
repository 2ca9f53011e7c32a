"""The text format of Prometheus, for the node exporter's textfile collector.

See https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.text import plain


@dataclass
class Gauge:
    """A metric: its name without ``virtroot_``, what it means, and a value for each set of labels."""

    name: str
    help: str
    values: list[tuple[Mapping[str, str], float | None]] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> None:
        """Add a value; one that is not known is left out."""
        self.values.append((labels, value))


def render(gauges: Sequence[Gauge]) -> str:
    """Return the metrics as text. A gauge without values still has its name and meaning."""
    return "\n".join(line for gauge in gauges for line in _render(gauge))


def _render(gauge: Gauge) -> Iterable[str]:
    name = f"virtroot_{gauge.name}"
    yield f"# HELP {name} {gauge.help}"
    yield f"# TYPE {name} gauge"
    for labels, value in gauge.values:
        if value is not None:
            shown = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
            yield f"{name}{{{shown}}} {value:g}" if float(value) != int(value) else f"{name}{{{shown}}} {int(value)}"


def _escape(text: str) -> str:
    return plain(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

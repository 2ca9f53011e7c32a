"""Metrics as Prometheus' own parser reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import tasks
from pipelines import list as listing
from pipelines import metrics, status
from pipelines.artifact.build_id import BuildId
from pipelines.errors import VirtrootError
from pipelines.metrics import Gauge

ODD = 'a\\b"c\nd{e}=f,g\u2028h\x1b[0m'


def parse(text: str) -> dict[str, dict[str, float]]:
    """Return the values of each metric, by the label that tells them apart."""
    families = list(text_string_to_metric_families(text + "\n"))
    assert {family.type for family in families} == {"gauge"}
    assert all(family.documentation for family in families)
    return {
        family.name: {next(iter(sample.labels.values())): sample.value for sample in family.samples}
        for family in families
    }


def row(name: str, **fields: Any) -> listing.Row:
    known = dict.fromkeys((field for field in listing.Row.__dataclass_fields__ if field != "name"), "")
    return listing.Row(name=name, **{**known, "age": None, "size": None, "shared": None, "former": 0, **fields})


def test_guests_are_metrics() -> None:
    rows = [row("web", state="running", age=90, size=1 << 40, shared=0, recipe="debian"), row("db", state="shut off")]
    assert parse(listing.make_metrics(rows)) == {
        "virtroot_guest_running": {"web": 1, "db": 0},
        "virtroot_guest_age_seconds": {"web": 90},
        "virtroot_guest_size_bytes": {"web": 1 << 40},
        "virtroot_guest_shared_bytes": {"web": 0},
    }
    assert parse(listing.make_metrics([]))["virtroot_guest_running"] == {}


def test_recipes_are_metrics() -> None:
    rows = [
        status.Row("web", BuildId("web/1"), age=60, outcome="promoted", checked=61),
        status.Row("mail", BuildId(), outcome="failed"),
        status.Row("new", BuildId()),
    ]
    assert parse(status.make_metrics(rows)) == {
        "virtroot_recipe_golden_age_seconds": {"web": 60},
        "virtroot_recipe_last_good_run_age_seconds": {"web": 61},
        "virtroot_recipe_last_run_failed": {"web": 0, "mail": 1},
    }


def test_any_text_is_one_label() -> None:
    gauge = Gauge("odd", "What is odd.")
    gauge.add(0.25, name=ODD)
    (family,) = text_string_to_metric_families(metrics.render([gauge]) + "\n")
    (sample,) = family.samples
    assert sample.value == 0.25
    assert sample.labels["name"].startswith('a\\b"c\nd{e}=f,g')


def test_metrics_of_old_recipes_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INVOKE_VIRTROOT_OUTPUT", str(tmp_path))
    tasks.program.run(["inv", "status", "--prometheus"])
    assert parse(capsys.readouterr().out)["virtroot_recipe_golden_age_seconds"] == {}
    for line in (["status", "--prometheus", "--json"], ["list", "--prometheus", "--shares"]):
        with pytest.raises(VirtrootError, match="--prometheus excludes"):
            tasks.program.run(["inv", *line])

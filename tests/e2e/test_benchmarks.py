"""A model is measured on an instance of its own, kept with its figures, billed, and gone afterwards."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tests.infra.up import Up, wait_for

PROJECT = "lab"
MODEL = "all-minilm-l6-v2"


def test_a_run_is_kept_billed_and_leaves_nothing(up: Up, tmp_path: Path) -> None:
    """Its figures, its instance type and its core-hours; no deployment and no key that works stay."""
    up.run("project", "create", PROJECT)
    stored = up.json("benchmark", "run", MODEL, "-p", PROJECT, "--trials", "1", "--input-tokens", "50")
    assert stored["instance_type"] == "local-1"
    assert float(stored["metrics"]["latency_p50_s"]) > 0
    assert (stored["protocol"]["failed"], stored["shared"]) == (0, False)
    assert stored["id"] in {run["id"] for run in up.json("benchmark", "list", MODEL, "-p", PROJECT)}
    assert up.json("endpoints", "-p", PROJECT) == []
    wait_for(lambda: bool(up.json("bill", "-p", PROJECT)["lines"]))
    (line,) = up.json("bill", "-p", PROJECT)["lines"]
    assert (line["deployment"], line["rate"]["meter"]) == (stored["deployment"], "METER_CORE_MILLISECONDS")
    chart = tmp_path / "chart.svg"
    answer = up.json("compare", MODEL, "smollm2-135m-instruct", "--svg", str(chart))
    assert [model["input_price"] != "" for model in answer["models"]] == [True, True]
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")  # noqa: S314 - our own

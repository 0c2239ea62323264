"""The shipped content against the published facts it was taken from."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

SERVICES = Path(__file__).parents[3] / "services"
CONTENT = SERVICES / "catalog" / "content"
PRICES = SERVICES / "billing" / "content" / "price_lists" / "2026-06-18-azure-eastus.yaml"
REGION = "eastus"

pytestmark = pytest.mark.samples


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def shipped_types() -> list[dict[str, Any]]:
    """Instance types that are somebody else's facts."""
    listed = yaml.safe_load((CONTENT / "instance_types.yaml").read_text())["instance_types"]
    return [one for one in listed if "provider" not in one]


def test_instance_types_are_as_published(samples_dir: Path) -> None:
    """Cores, memory, accelerators, disk and source of every type."""
    published = {row["sku"]: row for row in rows(samples_dir / "azure_vm_shapes.csv")}
    assert {one["id"] for one in shipped_types()} == set(published)
    for one in shipped_types():
        row = published[one["id"]]
        assert (one["vcpus"], Decimal(str(one["memory_gib"])), one.get("gpu_count", 0), one.get("gpu_model", "")) == (
            int(row["vcpu"]),
            Decimal(row["ram_gb"]),
            int(row["gpu_count"] or 0),
            row["gpu_model"],
        )
        assert Decimal(str(one["disk_gib"])) == Decimal(row["disk_gb"])
        assert one["source"]["location"] in row["source"].split("; ")


def test_prices_are_as_published(samples_dir: Path) -> None:
    """Every hourly price, to the last digit, and for the cores that the catalog states."""
    published = {
        row["sku"]: Decimal(row["usd_per_hour"])
        for row in rows(samples_dir / "azure_vm_prices.csv")
        if row["region"] == REGION
    }
    cores = {one["id"]: one["vcpus"] for one in shipped_types()}
    prices = yaml.safe_load(PRICES.read_text())["prices"]
    assert {price["resource"].removeprefix("instanceTypes/") for price in prices} == set(published)
    for price in prices:
        sku = price["resource"].removeprefix("instanceTypes/")
        assert (Decimal(price["per_hour"]), price["vcpus"]) == (published[sku], cores[sku])


def test_context_windows_are_as_published(samples_dir: Path) -> None:
    """Of every shipped model that the published facts name."""
    lines = (samples_dir / "model_facts.jsonl").read_text().splitlines()
    published = {fact["id"].partition("/")[2]: fact for fact in map(json.loads, lines)}
    compared = 0
    for path in sorted((CONTENT / "models").glob("*.yaml")):
        for model in yaml.safe_load(path.read_text())["models"]:
            name = model["id"]
            if name in published and model.get("context_tokens"):
                compared += 1
                assert model["context_tokens"] == published[name]["limit"]["context"], name
    assert compared >= 3

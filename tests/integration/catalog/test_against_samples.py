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


def shipped_models() -> dict[str, dict[str, Any]]:
    """Models by what their first source calls them."""
    files = [
        yaml.load(path.read_text(), Loader=yaml.CSafeLoader) for path in sorted((CONTENT / "models").glob("*.yaml"))
    ]
    return {model["sources"][0]["location"]: model for file in files for model in file["models"]}


def test_every_published_fact_is_carried_over(samples_dir: Path) -> None:
    """Limits, modalities, dates and capabilities, under the publisher and the name that the fact has."""
    shipped = shipped_models()
    for line in (samples_dir / "model_facts.jsonl").read_text().splitlines():
        fact = json.loads(line)
        model = shipped[f"anomalyco/models.dev {fact['id']} (MIT)"]
        assert f"{model['publisher']}/{model['id']}" == fact["id"]
        assert model["display_name"] == fact["name"]
        assert model.get("context_tokens", 0) == fact["limit"]["context"]
        assert model["input_modalities"] == fact["modalities"]["input"]
        assert model.get("release_date") == fact.get("release_date")
        assert model.get("training_data_date") == fact.get("knowledge")
        assert (
            ("open-weights" in model.get("tags", ()))
            == ("MANAGED" in model["deployment_options"])
            == fact["open_weights"]
        )
        assert {
            "reasoning": fact["reasoning"],
            "tool-calling": fact["tool_call"],
            "structured-output": fact.get("structured_output") is True,
        } == {
            word: word in model.get("capabilities", ()) for word in ("reasoning", "tool-calling", "structured-output")
        }


def test_hardware_and_dates_are_those_of_published_assets(samples_dir: Path) -> None:
    """Of every shipped model whose facts come from one."""
    shipped, compared = shipped_models(), 0
    for line in (samples_dir / "azureml_models.jsonl").read_text().splitlines():
        asset = json.loads(line)
        model = shipped.get(f"Azure/azureml-assets {asset['_path']} (MIT)")
        if model is None:
            continue
        compared += 1
        (version,) = model["versions"]
        needs, said = version["inference_hardware"], asset["system_metadata"]
        spec = "|".join(str(needs.get(key, 0)) for key in ("vcpus", "gpus", "memory_gib", "disk_gib"))
        assert (version["version"], spec) == (str(asset["version"]), said["SKU"]["inferenceMinSkuSpec"])
        assert set(needs["allowed"]) == set(said["supportedComputes"]["inferenceComputes"])
        dates = {key: value[:10] for key, value in said.get("deprecation", {}).items()}
        lifecycle = version.get("lifecycle", {})
        assert str(lifecycle.get("retirement", "")) == dates.get("inferenceRetirementDate", "")
        assert str(lifecycle.get("fine_tune_retirement", "")) == dates.get("finetuneRetirementDate", "")
    assert compared >= 40


def test_no_published_sentence_is_copied(samples_dir: Path) -> None:
    """Facts carry over; cards are sentences of our own."""
    own = " ".join(" ".join(model["card"].split()) for model in shipped_models().values())
    for line in (samples_dir / "azureml_models.jsonl").read_text().splitlines():
        card = " ".join(json.loads(line)["_description_md"].split())
        copied = [sentence for sentence in card.split(". ") if len(sentence) > 50 and sentence in own]
        assert not copied

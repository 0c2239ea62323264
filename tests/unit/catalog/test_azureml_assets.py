"""Published assets are read strictly, and kept whole."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from services.catalog.sources.azureml.format import AssetRefused, parse_asset
from services.catalog.sources.azureml.records import publisher_name, record_of, slug
from tests.integration.catalog.assets import LIMITS, an_asset, metadata


def refusal(asset: Any) -> AssetRefused:
    with pytest.raises(AssetRefused) as caught:
        parse_asset(asset if isinstance(asset, bytes) else json.dumps(asset).encode(), LIMITS)
    return caught.value


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else "bottom"


def deprecated(**dates: str) -> dict[str, Any]:
    return an_asset(system_metadata=metadata(deprecation={name: f"{day}T00:00:00Z" for name, day in dates.items()}))


@pytest.mark.parametrize(
    ("asset", "field", "reason"),
    [
        (an_asset(version="three"), "version", "Expected `int`"),
        (an_asset(version=0), "version", ">= 1"),
        (an_asset(name=7), "name", "Expected `str`"),
        (an_asset(name="no spaces"), "name", "matching regex"),
        ({key: value for key, value in an_asset().items() if key != "name"}, "name", "is missing"),
        (an_asset(isArchived="yes"), "isArchived", "Expected `bool`"),
        (an_asset(system_metadata=[]), "system_metadata", "Expected `object`"),
        (
            an_asset(system_metadata=metadata(tasks={"inferenceTasks": "chat"})),
            "system_metadata.tasks.inferenceTasks",
            "",
        ),
        (
            an_asset(system_metadata=metadata(deploymentOptions=["MaaP", "Teleport"])),
            "system_metadata.deploymentOptions[1]",
            "Teleport",
        ),
        (an_asset(system_metadata=metadata(inputModalities=["smell"])), "system_metadata.inputModalities[0]", "smell"),
        (
            an_asset(system_metadata=metadata(SKU={"inferenceMinSkuSpec": "24|1|220"})),
            "system_metadata.SKU.inferenceMinSkuSpec",
            "matching regex",
        ),
        (an_asset(system_metadata=metadata(textContextWindow=-1)), "system_metadata.textContextWindow", ">= 0"),
        (
            an_asset(variantInfo={"variantMetadata": {"device": "abacus"}}),
            "variantInfo.variantMetadata.device",
            "abacus",
        ),
        (an_asset(_description_md="x" * 1001), "_description_md", "has 1,001 characters; 1,000 are allowed"),
        (an_asset(_notes_md="x" * 1001), "_notes_md", "1,000 are allowed"),
        (an_asset(_description_md="a\x00b"), "", "NUL"),
        (an_asset(properties={"x": "y" * 65536}), "", "65,536 are allowed"),
        (an_asset(properties={"x": nested(8)}), "", "nested deeper than 8 levels"),
        (b'{"properties": {"x": ' + b"[" * 60000, "", "nested deeper than 8 levels"),
        (b"\xff", "", ""),
        (b"[]", "", "Expected `object`"),
        (b'{"name": "a', "", "not JSON"),
        (
            deprecated(inferenceLegacyDate="2026-03-01", inferenceDeprecationDate="2026-02-01"),
            "system_metadata.deprecation.inferenceDeprecationDate",
            "2026-02-01 is before 2026-03-01",
        ),
        (
            deprecated(inferenceLegacyDate="2026-03-01", inferenceRetirementDate="2026-02-01"),
            "system_metadata.deprecation.inferenceRetirementDate",
            "before",
        ),
        (
            deprecated(finetuneDeprecationDate="2026-03-01", finetuneRetirementDate="2026-02-01"),
            "system_metadata.deprecation.finetuneRetirementDate",
            "before",
        ),
        (
            an_asset(system_metadata=metadata(deprecation={"inferenceLegacyDate": "soon"})),
            "system_metadata.deprecation.inferenceLegacyDate",
            "datetime",
        ),
    ],
)
def test_a_wrong_asset_is_refused_by_field(asset: Any, field: str, reason: str) -> None:
    """With the reason."""
    refused = refusal(asset)
    assert refused.field == field
    assert reason in refused.reason


def record(asset: dict[str, Any]) -> Any:
    parsed = parse_asset(json.dumps(asset).encode(), LIMITS)
    return record_of("acme", [parsed])


def test_an_asset_becomes_a_record() -> None:
    """What it says stands where filters look."""
    found = record(an_asset())
    assert (found.license.id, found.tasks, found.fine_tune_tasks) == (
        "Apache-2.0",
        ("CHAT_COMPLETION",),
        ("translation",),
    )
    assert (found.context_tokens, found.languages, found.deployment_options) == (4096, ("en", "de"), ("MANAGED",))
    (version,) = found.versions
    needs = version.inference_hardware
    assert (needs.vcpus, needs.gpus, needs.memory_bytes, needs.disk_bytes) == (24, 1, 220 << 30, 64 << 30)
    assert needs.allowed == needs.recommended == ("Standard_NC24ads_A100_v4",)


def test_an_asset_is_kept_whole() -> None:
    """Also what nobody here knows, in its order."""
    asset = an_asset()
    assert json.dumps(record(asset).versions[0].origin) == json.dumps(asset)


def test_a_stage_begins_on_the_day_of_its_moment() -> None:
    """In UTC, wherever the moment was written down."""
    dates = {"inferenceRetirementDate": "2026-02-01T01:00:00+02:00", "finetuneRetirementDate": "2026-01-01T00:00:00Z"}
    lifecycle = record(an_asset(system_metadata=metadata(deprecation=dates))).versions[0].lifecycle
    assert (lifecycle.retirement, lifecycle.fine_tune_retirement) == (date(2026, 1, 31), date(2026, 1, 1))


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({}, ("MANAGED",)),
        ({"deploymentOptions": ["UnifiedEndpointMaaS", "ServerlessMaaS"]}, ("SERVERLESS",)),
        ({"deploymentOptions": ["MaaP", "ServerlessMaaS"]}, ("MANAGED", "SERVERLESS")),
        ({"platformCapabilities": {"maasInference": True}}, ("MANAGED", "SERVERLESS")),
        ({"platformCapabilities": {"enableMaap": False}}, ()),
    ],
)
def test_ways_to_deploy_are_those_that_it_names(said: dict[str, Any], options: tuple[str, ...]) -> None:
    """Or that the publisher's platform has."""
    assert record(an_asset(system_metadata=metadata(**said))).deployment_options == options


def test_capabilities_come_from_everywhere() -> None:
    """Each once."""
    asset = an_asset(
        tags={"capabilities": "reasoning, tool-calling", "supportsReasoning": "true", "anything": [1]},
        system_metadata=metadata(supportsToolCalling=True),
    )
    assert record(asset).capabilities == ("reasoning", "tool-calling")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({}, "Acme"),
        ({"publisher": "", "huggingFaceModelId": "google/vit-base"}, "google"),
        ({"publisher": " ", "huggingFaceModelId": "bert-base-cased"}, "azureml"),
    ],
)
def test_a_publisher_is_named_or_read_from_the_hub(said: dict[str, Any], name: str) -> None:
    """Else the registry publishes it."""
    asset = parse_asset(json.dumps(an_asset(system_metadata=metadata(**said))).encode(), LIMITS).asset
    assert publisher_name(asset) == name


def test_an_id_is_made_of_a_name() -> None:
    """Case and punctuation make no difference; a name in another script gets an id of its own."""
    assert slug("Deci AI") == slug("deci-ai") == "deci-ai"
    assert slug("北京") != slug("上海")
    assert slug("北京").startswith("publisher-")

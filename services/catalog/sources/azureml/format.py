"""The public azureml-assets format, read strictly.

What is known of the format is checked; keys nobody here knows are kept, since the whole asset is stored as it came and
given back by the export.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

# Where the card and its companions stand in the JSON form; in a folder they are files of their own.
CARD, NOTES, EVALUATION = "_description_md", "_notes_md", "_evaluation_md"

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]+([ ._-][A-Za-z0-9]+)*$", max_length=64)]
Modality = Literal["text", "image", "audio", "video", "data", "embeddings"]
MinSku = Annotated[str, Meta(pattern=r"^[0-9]{1,6}\|[0-9]{1,6}\|[0-9]{1,6}\|[0-9]{1,6}$")]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class _Camel(Struct, frozen=True, rename="camel"):
    pass


class Tasks(_Camel, frozen=True):
    """What it does."""

    inference_tasks: tuple[Word, ...] = ()
    fine_tuning_tasks: tuple[Word, ...] = ()


class Sku(_Camel, frozen=True):
    """Least hardware, `vCPU|GPU|RAM GB|disk GB`, and recommended instance types."""

    inference_min_sku_spec: MinSku = ""
    inference_recommended_skus: tuple[Name, ...] = ()
    finetune_min_sku_spec: MinSku = ""
    finetune_recommended_skus: tuple[Name, ...] = ()


class Computes(_Camel, frozen=True):
    """The only instance types it takes."""

    inference_computes: tuple[Name, ...] = ()
    finetune_computes: tuple[Name, ...] = ()


class Deprecation(_Camel, frozen=True):
    """Moments at which its stages begin; the day counts."""

    inference_legacy_date: datetime | None = None
    inference_deprecation_date: datetime | None = None
    inference_retirement_date: datetime | None = None
    finetune_deprecation_date: datetime | None = None
    finetune_retirement_date: datetime | None = None
    # Name of the asset to move to, of the same publisher.
    replacement: Name | None = None


class Platform(_Camel, frozen=True):
    """What the publisher's platform does with it."""

    enable_maap: bool | None = None
    maas_inference: bool = False


class SystemMetadata(_Camel, frozen=True):
    """What the registry says of it."""

    publisher: Annotated[str, Meta(max_length=128)] = ""
    display_name: Annotated[str, Meta(max_length=256)] = ""
    summary: Annotated[str, Meta(max_length=2000)] = ""
    license: Annotated[str, Meta(max_length=128)] = ""
    license_description: Annotated[str, Meta(max_length=64 * 1024)] = ""
    preview: bool = False
    tasks: Tasks = Tasks()
    languages: tuple[Annotated[str, Meta(max_length=35)], ...] = ()
    input_modalities: tuple[Modality, ...] = ()
    output_modalities: tuple[Modality, ...] = ()
    keywords: tuple[Annotated[str, Meta(max_length=64)], ...] = ()
    industry: str | tuple[str, ...] = ()
    text_context_window: Count = 0
    max_output_tokens: Count = 0
    training_data_date: Annotated[str, Meta(max_length=64)] = ""
    deployment_options: tuple[Literal["MaaP", "ServerlessMaaS", "UnifiedEndpointMaaS"], ...] = ()
    platform_capabilities: Platform = Platform()
    sku: Sku = msgspec.field(default=Sku(), name="SKU")
    supported_computes: Computes = Computes()
    deprecation: Deprecation = Deprecation()
    hugging_face_model_id: Annotated[str, Meta(max_length=256)] = ""
    alias: Annotated[str, Meta(max_length=128)] = ""
    supports_tool_calling: bool = False


class Tags(_Camel, frozen=True):
    """Mutable words; what is not known here may have any form."""

    capabilities: Annotated[str, Meta(max_length=256)] = ""
    context_length: Count = 0
    supports_reasoning: Literal["", "true", "false"] = ""


class VariantMetadata(_Camel, frozen=True):
    """A build of another model for one kind of device."""

    device: Literal["", "cpu", "gpu", "npu"] = ""
    execution_provider: Annotated[str, Meta(max_length=64)] = ""
    file_size_bytes: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class VariantInfo(_Camel, frozen=True):
    """What it is a build of."""

    variant_metadata: VariantMetadata = VariantMetadata()


class Asset(Struct, frozen=True):
    """One version of one model, as its `spec.yaml` says it, with its texts."""

    name: Name
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    system_metadata: SystemMetadata = SystemMetadata()
    tags: Tags | None = None
    properties: dict[str, Any] | None = None
    path: str = ""
    isArchived: bool = False  # noqa: N815 - the format's own spelling
    variantInfo: VariantInfo | None = None  # noqa: N815
    folder: str = msgspec.field(default="", name="_path")
    card: str = msgspec.field(default="", name=CARD)
    notes: str = msgspec.field(default="", name=NOTES)
    evaluation: str = msgspec.field(default="", name=EVALUATION)


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest asset that is read."""

    asset_bytes: int
    text_characters: int
    depth: int


@dataclass(frozen=True, slots=True)
class ParsedAsset:
    """An asset, and the whole of it as it came."""

    asset: Asset
    document: dict[str, Any]


class AssetRefused(Exception):
    """What is wrong with an asset: the field, and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


_decode_asset = msgspec.json.Decoder(Asset).decode
_decode_any = msgspec.json.Decoder().decode
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]+)`")


def parse_asset(text: bytes, limits: Limits) -> ParsedAsset:
    """Read one asset from its JSON.

    Raises:
        AssetRefused: too large, too deep, not JSON, or a field with a wrong type or value.
    """
    if len(text) > limits.asset_bytes:
        raise AssetRefused("", f"the asset has {len(text):,} bytes; {limits.asset_bytes:,} are allowed")
    try:
        asset, document = _decode_asset(text), _decode_any(text)
    except msgspec.ValidationError as invalid:
        raise _refused(str(invalid)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
        raise AssetRefused("", f"not JSON: {malformed}") from None
    except RecursionError:
        raise AssetRefused("", f"nested deeper than {limits.depth} levels") from None
    for field, value in ((CARD, asset.card), (NOTES, asset.notes), (EVALUATION, asset.evaluation)):
        if len(value) > limits.text_characters:
            raise AssetRefused(field, f"has {len(value):,} characters; {limits.text_characters:,} are allowed")
    _check_tree(document, limits.depth)
    _check_dates(asset.system_metadata.deprecation)
    return ParsedAsset(asset, document)


def _refused(message: str) -> AssetRefused:
    """From `Expected `int`, got `str` - at `$.version``."""
    place = _PLACE.search(message)
    field = place[1] if place else ""
    reason = _PLACE.sub("", message)
    if missing := _MISSING.match(reason):
        return AssetRefused(f"{field}.{missing[1]}".lstrip("."), "is missing")
    return AssetRefused(field, reason)


def _check_tree(document: dict[str, Any], depth_max: int) -> None:
    """What databases cannot hold, and what nests without an end."""
    level: list[Any] = [document]
    for _ in range(depth_max):
        below: list[Any] = []
        for node in level:
            for value in node.values() if isinstance(node, dict) else node:
                if isinstance(value, (dict, list)):
                    below.append(value)
                elif isinstance(value, str) and "\x00" in value:
                    raise AssetRefused("", "holds the character NUL, which no text has")
        if not below:
            return
        level = below
    raise AssetRefused("", f"nested deeper than {depth_max} levels")


def _check_dates(dates: Deprecation) -> None:
    inference = {
        "inferenceLegacyDate": dates.inference_legacy_date,
        "inferenceDeprecationDate": dates.inference_deprecation_date,
        "inferenceRetirementDate": dates.inference_retirement_date,
    }
    fine_tuning = {
        "finetuneDeprecationDate": dates.finetune_deprecation_date,
        "finetuneRetirementDate": dates.finetune_retirement_date,
    }
    for named in (inference, fine_tuning):
        days = [(name, day) for name, moment in named.items() if (day := day_of(moment)) is not None]
        for (before, earlier), (name, later) in pairwise(days):
            if later < earlier:
                raise AssetRefused(
                    f"system_metadata.deprecation.{name}", f"{later} is before {earlier}, which is {before}"
                )


def day_of(moment: datetime | None) -> date | None:
    """The day of a moment, UTC; stages begin at its midnight."""
    if moment is None:
        return None
    return (moment.astimezone(UTC) if moment.tzinfo else moment).date()

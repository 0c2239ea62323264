"""What every source says of a model; the same form whether it comes from a file, a provider, a hub or an upload.

Structs of msgspec: typed, frozen, and turned into rows and back without a second form to keep in step.
"""

from __future__ import annotations

import hashlib
from datetime import date
from typing import Any

import msgspec


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all records."""


class Source(Struct, frozen=True):
    """Where a fact was read, and when."""

    location: str
    # `YYYY-MM-DD`; empty means the day of the model's last change here.
    date: str


class Support(Struct, frozen=True):
    """Who answers for a model, and what they promise."""

    supported_by: str = ""
    # Address of a page or a mailbox.
    contact: str = ""
    sla: str = ""


class License(Struct, frozen=True):
    """A licence; `text` is empty where it is not shipped."""

    id: str
    url: str = ""
    text: str = ""
    # The project has to accept the text before it quotes or deploys.
    acceptance_required: bool = False


class Sample(Struct, frozen=True):
    """One call that the card shows; both bodies are JSON texts."""

    title: str
    input: str
    # What came back; empty where it differs from call to call.
    output: str = ""


class ArtifactRecord(Struct, frozen=True):
    """One file of a version."""

    name: str
    # Lower-case hex of the whole file.
    sha256: str
    size_bytes: int
    # Where the bytes lie; empty while they are not here.
    uri: str = ""


class Hardware(Struct, frozen=True):
    """Least hardware of one instance, and the instance types its publisher names."""

    vcpus: int = 0
    gpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    # Only these fit; empty means any that is large enough.
    allowed: tuple[str, ...] = ()
    recommended: tuple[str, ...] = ()


class VerifiedConfiguration(Struct, frozen=True):
    """A way to run the version that was tried."""

    engine: str
    instance_type: str
    # `YYYY-MM-DD`.
    date: str
    parameters: dict[str, str] = {}


class Lifecycle(Struct, frozen=True):
    """When a version's stages begin, 00:00 UTC of each day; inference and fine-tuning apart."""

    preview: bool = False
    legacy: date | None = None
    deprecation: date | None = None
    retirement: date | None = None
    fine_tune_deprecation: date | None = None
    fine_tune_retirement: date | None = None
    # Resource name of the model to move to; empty where none is named.
    replacement: str = ""


class VersionRecord(Struct, frozen=True):
    """One version. Its files, how it is served, and `origin` never change under one name."""

    version: str
    # Orders the versions of a model, >= 1; the highest is the newest.
    position: int
    artifacts: tuple[ArtifactRecord, ...] = ()
    # Fields of `modelyard.catalog.v1.Serving`; None where no engine here runs it.
    serving: dict[str, Any] | None = None
    # Its architecture as its files name it, where that is why no engine here runs it; else empty.
    architecture: str = ""
    lifecycle: Lifecycle = Lifecycle()
    inference_hardware: Hardware | None = None
    fine_tune_hardware: Hardware | None = None
    verified: tuple[VerifiedConfiguration, ...] = ()
    # The record as its publisher wrote it, card included, for those who want it back; None where there is none.
    origin: dict[str, Any] | None = None


class ModelRecord(Struct, frozen=True):
    """One model with its versions, ordered by position."""

    publisher: str
    model: str
    collection: str
    display_name: str
    license: License
    # Names of `modelyard.catalog.v1.Task` that it answers here, without their prefix; may be empty.
    tasks: tuple[str, ...]
    # "MANAGED", "SERVERLESS".
    deployment_options: tuple[str, ...]
    # "RUNS_HERE", "NEEDS_INSTALL", "NEEDS_HARDWARE", "NEEDS_PROVIDER_CREDENTIAL".
    usability: str
    sources: tuple[Source, ...]
    versions: tuple[VersionRecord, ...]
    summary: str = ""
    # Markdown as it came; sanitised when it is shown.
    card: str = ""
    # Responsible use, Markdown.
    notes: str = ""
    # Published results in words, Markdown.
    evaluation: str = ""
    # Why it cannot be used here; empty where it can.
    usability_detail: str = ""
    # Words of discovery, such as "text-to-image"; wider than `tasks`.
    inference_tasks: tuple[str, ...] = ()
    fine_tune_tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    industries: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    # 0 where it is not published.
    parameter_count: int = 0
    context_tokens: int = 0
    output_tokens_max: int = 0
    size_bytes: int = 0
    # As published: "2024-04", "June 2024".
    training_data_date: str = ""
    release_date: str = ""
    # `ORG/NAME` at the hub.
    hub_id: str = ""
    featured: bool = False
    # Its publisher keeps it for those who have it: no new deployments.
    archived: bool = False
    support: Support = Support()
    samples: tuple[Sample, ...] = ()


_encode = msgspec.json.Encoder(order="deterministic").encode


def digest_of(record: Struct) -> str:
    """SHA-256 of everything a record says, lower-case hex; equal records have equal digests."""
    return hashlib.sha256(_encode(record)).hexdigest()


def identity_of(record: VersionRecord) -> str:
    """SHA-256 of what may never change under one version name.

    Where files lie may: a wheel that is installed elsewhere holds the same bytes. A serving fact with its default value
    counts as not said, so that a release which knows more of how to serve changes no version.
    """
    serving = None if record.serving is None else {key: value for key, value in record.serving.items() if value}
    files = sorted((file.name, file.sha256, file.size_bytes) for file in record.artifacts)
    # The third place is not used; what is stored has it.
    return hashlib.sha256(_encode([files, serving, None, record.origin])).hexdigest()

"""The form of the content's YAML: collections, publishers, models and instance types.

Parsed strictly: an unknown key, a missing fact or a wrong value is refused. docs/catalog.md lists every field.
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Inside the wheel: no way out of it.
WheelPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")]
Replacement = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
]
# A word of discovery: "text-to-image".
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Task = Literal["CHAT_COMPLETION", "TEXT_GENERATION", "EMBEDDINGS", "TRANSCRIPTION", "IMAGE_CLASSIFICATION"]
# Those of models that read tokens.
_TEXT_TASKS = {"CHAT_COMPLETION", "TEXT_GENERATION", "EMBEDDINGS"}
Option = Literal["MANAGED", "SERVERLESS"]
CARD_CHARACTERS_MAX = 256 * 1024


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Strict):
    """Where a fact was read, and when."""

    location: str
    date: date


class Support(_Strict):
    """Who answers for a model; what is not said comes from its collection."""

    supported_by: str = ""
    contact: str = ""
    sla: str = ""


class Sample(_Strict):
    """One call that the card shows; both bodies are JSON texts."""

    title: str
    input: str
    output: str = ""


class Collection(_Strict):
    id: Id
    display_name: str
    kind: Literal["CURATED", "PROVIDER", "HUB", "OWN", "IMPORTED"]
    description: str
    # Of its models that name none themselves.
    support: Support = Support()


class Publisher(_Strict):
    id: Id
    display_name: str
    website: str


class Artifact(_Strict):
    """A file inside an installed wheel."""

    name: Id
    wheel: str
    path: WheelPath
    sha256: Sha256
    size_bytes: int = Field(gt=0)


class Serving(_Strict):
    """How an engine serves the version."""

    engine: str
    parameters: dict[str, str] = {}
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    min_vcpus: int = Field(ge=1)
    min_memory_bytes: int = Field(gt=0)
    embedding_dimensions: int = 0
    # Longest text; 0 for models of audio and images.
    context_tokens: int = Field(default=0, ge=0)


class Install(_Strict):
    """Wheels that do not come with the first install: a file in `requirements/`, and about how much is fetched."""

    requirements: Id
    download_bytes: int = Field(gt=0)


class Lifecycle(_Strict):
    """Stage dates; each begins at 00:00 UTC."""

    preview: bool = False
    legacy: date | None = None
    deprecation: date | None = None
    retirement: date | None = None
    fine_tune_deprecation: date | None = None
    fine_tune_retirement: date | None = None
    # `PUBLISHER/MODEL` to move to.
    replacement: Replacement | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Lifecycle:
        dates = [day for day in (self.legacy, self.deprecation, self.retirement) if day is not None]
        if dates != sorted(dates):
            raise ValueError("legacy, deprecation and retirement come in this order")
        if (
            self.fine_tune_deprecation is not None
            and self.fine_tune_retirement is not None
            and self.fine_tune_deprecation > self.fine_tune_retirement
        ):
            raise ValueError("fine_tune_deprecation comes before fine_tune_retirement")
        return self


class Hardware(_Strict):
    """Least hardware of one instance, and the instance types its publisher names."""

    vcpus: int = Field(default=0, ge=0)
    gpus: int = Field(default=0, ge=0)
    memory_gib: float = Field(default=0, ge=0)
    disk_gib: float = Field(default=0, ge=0)
    # Only these fit; empty means any that is large enough.
    allowed: list[Id] = []
    recommended: list[Id] = []


class Verified(_Strict):
    """A way to run the version that was tried."""

    instance_type: Id
    date: date


class Version(_Strict):
    version: Id
    artifacts: list[Artifact] = []
    install: Install | None = None
    serving: Serving | None = None
    lifecycle: Lifecycle = Lifecycle()
    inference_hardware: Hardware | None = None
    fine_tune_hardware: Hardware | None = None
    verified: list[Verified] = []

    @field_validator("version")
    @classmethod
    def _not_an_alias(cls, version: str) -> str:
        if version == "latest":
            raise ValueError("'latest' names the newest version, whichever it is")
        return version

    @field_validator("artifacts")
    @classmethod
    def _once(cls, artifacts: list[Artifact]) -> list[Artifact]:
        _check_once("artifact", [artifact.name for artifact in artifacts])
        return artifacts


class Model(_Strict):
    publisher: Id
    id: Id
    display_name: str
    collection: Id
    summary: str
    # What it answers here; a model that is only listed may do what no call here asks for.
    tasks: list[Task] = []
    deployment_options: list[Option] = Field(min_length=1)
    languages: list[str] = []
    parameter_count: int = Field(default=0, ge=0)
    context_tokens: int = Field(default=0, ge=0)
    # SPDX identifier, or the licence's own name; the text of `licenses/ID.txt` is shown with it.
    license: str
    # Where its text is published.
    license_url: str = ""
    # Set where it cannot run here; a model with serving facts runs here when its artifacts are installed.
    usability: Literal["NEEDS_HARDWARE", "NEEDS_PROVIDER_CREDENTIAL"] | None = None
    usability_detail: str = ""
    tags: list[str] = []
    inference_tasks: list[Word] = []
    fine_tune_tasks: list[Word] = []
    input_modalities: list[Word] = []
    output_modalities: list[Word] = []
    capabilities: list[Word] = []
    industries: list[Word] = []
    output_tokens_max: int = Field(default=0, ge=0)
    size_bytes: int = Field(default=0, ge=0)
    training_data_date: str = ""
    release_date: str = ""
    hub_id: str = ""
    featured: bool = False
    license_acceptance_required: bool = False
    support: Support = Support()
    samples: list[Sample] = []
    notes: str = Field(default="", max_length=CARD_CHARACTERS_MAX)
    evaluation: str = Field(default="", max_length=CARD_CHARACTERS_MAX)
    sources: list[Source] = Field(min_length=1)
    card: str = Field(max_length=CARD_CHARACTERS_MAX)
    versions: list[Version] = Field(min_length=1)

    @field_validator("versions")
    @classmethod
    def _once(cls, versions: list[Version]) -> list[Version]:
        _check_once("version", [version.version for version in versions])
        return versions

    @model_validator(mode="after")
    def _served_or_said_why(self) -> Model:
        if (self.usability is None) != all(version.serving is not None for version in self.versions):
            raise ValueError("every version has serving facts, or usability says what is missing")
        if not self.tasks and (self.usability is None or not self.inference_tasks):
            raise ValueError("tasks names what it answers here, or inference_tasks what it does elsewhere")
        if (self.usability is None) == bool(self.usability_detail):
            raise ValueError("usability_detail says why it cannot be used, and stands beside usability only")
        texts = bool(_TEXT_TASKS.intersection(self.tasks))
        for version in self.versions:
            if version.serving is not None and bool(version.serving.context_tokens) != texts:
                raise ValueError("serving.context_tokens is said of models that read text, and of no others")
        return self


class InstanceType(_Strict):
    """A hardware shape; one without cores or memory is listed, but cannot be quoted."""

    id: Id
    vcpus: int = Field(default=0, ge=0)
    memory_gib: float = Field(default=0, ge=0)
    disk_gib: float = Field(default=0, ge=0)
    gpu_count: int = Field(default=0, ge=0)
    gpu_model: str = ""
    # Compute provider that offers it here; empty where none does.
    provider: str = ""
    source: Source

    @model_validator(mode="after")
    def _offered_with_a_shape(self) -> InstanceType:
        if self.provider and not (self.vcpus and self.memory_gib):
            raise ValueError("a type that is offered here has vcpus and memory_gib")
        if bool(self.gpu_count) != bool(self.gpu_model):
            raise ValueError("gpu_count and gpu_model come together")
        return self


class Collections(_Strict):
    collections: list[Collection]
    publishers: list[Publisher]


class Models(_Strict):
    models: list[Model]


class UncheckedModels(_Strict):
    """The same where a mistake is to keep out the model that it is in, and no other."""

    models: list[dict[str, Any]]


class Publishers(_Strict):
    publishers: list[Publisher]


class InstanceTypes(_Strict):
    instance_types: list[InstanceType]


def _check_once(what: str, names: list[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{what} {name!r} stands in the content twice")

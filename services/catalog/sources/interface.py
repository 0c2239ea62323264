"""What a configured source is asked for: its models, batch by batch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from modelyard.catalog.v1 import providers_pb2, sources_pb2

from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.records import ModelRecord


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a source's model cannot be taken: what the source calls it, the fact at fault, what is wrong with it."""

    model: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScore:
    """One result as a model's publisher reports it.

    Attributes:
        metric: Such as "acc_norm".
        dataset: What people call it.
        dataset_id: `ORG/NAME` at a hub, or what its publisher wrote.
        split: Part of the dataset; empty where none is named.
        value: Decimal digits.
        shots: Examples shown in the prompt, or "none" where a task shows none.
        source: Address that the result was taken from.
    """

    metric: str
    dataset: str
    dataset_id: str
    split: str
    shots: str
    value: str
    task: str
    source: str


@dataclass(frozen=True, slots=True)
class NewPublisher:
    """A publisher that the catalog may not know yet."""

    id: str
    display_name: str
    website: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Some of a source's models, stored in one transaction.

    Attributes:
        records: Each model once, at most a few hundred. The same source says the same of a model every time it is read.
        offers: Where a provider answers, by the resource name of a model among `records`.
        skipped: How many were left out: by a glob, or since they do nothing that can be used here.
        cursor: Where reading goes on after these; empty after the last ones.
        scores: Published results, by the resource name of a model among `records`; exactly those are known of it then.
        publishers: Publishers of `records`; those that are there already stay as they are.
        kept: Resource names of models that the source lists and that cannot be read now: they stay as they are.
        notice: The least that new dates of a version give to those who use it; None where the source decides.
        decided_here: How versions are served, and their place among the others, is this platform's choice and not the
            source's: what was stored first stands.
    """

    records: Sequence[ModelRecord]
    offers: Mapping[str, providers_pb2.ProviderTarget] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    skipped: int = 0
    cursor: str = ""
    scores: Mapping[str, Sequence[PublishedScore]] = field(default_factory=dict)
    publishers: Sequence[NewPublisher] = ()
    kept: Sequence[str] = ()
    notice: Notice | None = None
    decided_here: bool = False


class SourceAdapter(Protocol):
    """One kind of source."""

    def batches(self, cursor: str) -> AsyncGenerator[Batch, None]:
        """All models from a cursor on, which an earlier reading gave; empty for the beginning.

        Reading is bounded in time and size by the adapter. It may be closed after any batch.

        Raises:
            SourceUnavailable: the source cannot be read; says why and the way out, and no credential.
        """


# Makes the adapter of a source as it is configured. The date is today's, UTC: when facts that it reads were read.
AdapterFactory = Callable[[sources_pb2.ModelSource, date], SourceAdapter]

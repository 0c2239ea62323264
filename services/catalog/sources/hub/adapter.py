"""A hub as a configured source: what its list holds, model by model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import date

from modelyard.catalog.v1 import sources_pb2

from services.catalog.domain.errors import HubContentChanged, HubModelGated, HubModelNotEligible, HubModelNotFound
from services.catalog.domain.names import MODEL
from services.catalog.domain.sources import Selection
from services.catalog.sources.hub.hub import Hub, HubSource
from services.catalog.sources.hub.hubs import Hubs
from services.catalog.sources.hub.records import Described, with_support
from services.catalog.sources.interface import AdapterFactory, Batch, Failure, NewPublisher

# Models of one batch, and those that are read at once.
_BATCH_MODELS, _AT_ONCE = 16, 4
_GLOB_CHARACTERS = frozenset("*?[")
# What is wrong with one model and does not keep the others from being read.
_OF_ONE_MODEL = (HubContentChanged, HubModelGated, HubModelNotEligible, HubModelNotFound)


class HubAdapter:
    """Reads a hub in the order of its models' names, so that reading goes on behind the last one that was stored.

    Args:
        models_max: Models that the hub is asked to list.
    """

    def __init__(self, hub: Hub, spec: sources_pb2.ModelSource, *, models_max: int) -> None:
        self._hub = hub
        self._spec = spec
        self._selection = Selection(tuple(spec.include), tuple(spec.exclude))
        self._models_max = models_max

    async def batches(self, cursor: str) -> AsyncGenerator[Batch, None]:
        """As `SourceAdapter.batches`; the cursor is the name of the last model.

        Raises:
            HubUnavailable, HubCredentialUnusable: the hub cannot be read.
        """
        names, skipped, failures = await self._names()
        left = [name for name in names if name > cursor]
        if cursor:
            # Counted before reading was interrupted.
            skipped, failures = 0, []
        for start in range(0, max(len(left), 1), _BATCH_MODELS):
            part = left[start : start + _BATCH_MODELS]
            more = start + _BATCH_MODELS < len(left)
            yield await self._batch(part, skipped, failures, cursor=part[-1] if more else "")
            skipped, failures = 0, []

    async def _names(self) -> tuple[list[str], int, list[Failure]]:
        """Models to read, in order; how many of the list are left out; and what is wrong with the list."""
        include = list(self._spec.include)
        if include and not any(_GLOB_CHARACTERS & set(glob) for glob in include):
            return sorted({name for name in include if self._selection.takes(name)}), 0, []
        listed = await self._hub.list()
        taken = sorted(one.id for one in listed if self._selection.takes(one.id) and not one.obstacles)
        failures = []
        if len(listed) >= self._models_max:
            failures.append(
                Failure(
                    "-",
                    "list",
                    f"the hub's list was cut at {len(listed)} models; narrow it by author, task, tags or search, or raise "
                    "MODELYARD_CATALOG_HUB_MODELS_MAX",
                )
            )
        return taken, len(listed) - len(taken), failures

    async def _batch(self, names: Sequence[str], skipped: int, failures: Sequence[Failure], *, cursor: str) -> Batch:
        places = asyncio.Semaphore(_AT_ONCE)

        async def describe(name: str) -> Described | Failure:
            async with places:
                try:
                    return await self._hub.describe(name)
                except _OF_ONE_MODEL as problem:
                    return Failure(name, problem.reason.lower(), problem.message)

        found = await asyncio.gather(*map(describe, names))
        described = [with_support(one, self._spec.support) for one in found if isinstance(one, Described)]
        return batch_of(
            self._hub,
            described,
            failures=[*failures, *(one for one in found if isinstance(one, Failure))],
            skipped=skipped,
            cursor=cursor,
        )


def batch_of(
    hub: Hub, described: Sequence[Described], *, failures: Sequence[Failure] = (), skipped: int = 0, cursor: str = ""
) -> Batch:
    """Models of a hub as one batch."""
    records = [one.record for one in described]
    return Batch(
        records,
        scores={MODEL.format(publisher=one.record.publisher, model=one.record.model): one.scores for one in described},
        publishers=[
            NewPublisher(publisher, publisher, f"{hub.source.endpoint}/{publisher}")
            for publisher in sorted({record.publisher for record in records})
        ],
        decided_here=True,
        failures=failures,
        skipped=skipped,
        cursor=cursor,
    )


def hub_adapters(hubs: Hubs, default_endpoint: str, *, models_max: int) -> AdapterFactory:
    """Makes the adapter of a source of kind `hub`.

    Args:
        default_endpoint: Hub of sources that name none.
    """

    def make(spec: sources_pb2.ModelSource, _today: date) -> HubAdapter:
        source = HubSource(
            endpoint=spec.hub.endpoint or default_endpoint,
            credential=spec.key_reference,
            collection=spec.collection.removeprefix("collections/"),
            author=spec.hub.author,
            search=spec.hub.search,
            task=spec.hub.task,
            tags=tuple(spec.hub.tags),
        )
        return HubAdapter(hubs.open(source), spec, models_max=models_max)

    return make

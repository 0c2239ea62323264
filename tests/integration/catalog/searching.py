"""A catalog that can be searched: rows of any source, this replica's index, the service over both."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from modelyard.catalog.v1 import search_pb2

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from services.catalog.domain.records import License, Lifecycle, ModelRecord, Source, VersionRecord
from services.catalog.domain.search import Limits
from services.catalog.rpc.search import SearchServicer
from services.catalog.storage.tables import CollectionRow
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.project_search import ProjectionLimits, SearchProjection
from services.catalog.usecases.put_models import put_models
from services.catalog.usecases.search_models import NearLimits
from tests.clock import ManualClock

LIMITS = ProjectionLimits(poll_s=0.01, batch_models=50, heap_bytes=15_000_000)
_OPERATORS = {
    "=": search_pb2.FILTER_OPERATOR_EQ,
    "!=": search_pb2.FILTER_OPERATOR_NE,
    ">": search_pb2.FILTER_OPERATOR_GT,
    "<": search_pb2.FILTER_OPERATOR_LT,
    "in": search_pb2.FILTER_OPERATOR_IN,
}
_RECORD = ModelRecord(
    publisher="acme",
    model="talker",
    collection="curated",
    display_name="Talker",
    license=License(id="MIT"),
    tasks=(),
    deployment_options=("MANAGED",),
    usability="NEEDS_HARDWARE",
    sources=(Source(location="a test", date="2026-01-01"),),
    versions=(VersionRecord(version="1", position=1),),
)


def record(model: str, publisher: str = "acme", *, lifecycle: Lifecycle | None = None, **facts: Any) -> ModelRecord:
    """A model whose display name is its id with blanks."""
    if lifecycle is not None:
        facts["versions"] = (VersionRecord(version="1", position=1, lifecycle=lifecycle),)
    values = {"display_name": model.replace("-", " ").title(), **facts}
    return msgspec.structs.replace(_RECORD, model=model, publisher=publisher, **values)


def where(field: str, operator: str, *values: str) -> search_pb2.Filter:
    """A filter as people write it."""
    return search_pb2.Filter(field=field, operator=_OPERATORS[operator], values=values)


ANN = Caller("user:ann", CallerKind.USER)


@dataclass
class Searched:
    """One replica."""

    database: Database
    clock: ManualClock
    projection: SearchProjection
    servicer: SearchServicer
    caller: Caller = ANN

    async def put(self, *records: ModelRecord, source: str = "import") -> None:
        async with self.database.unit_of_work() as uow:
            result = await put_models(uow, self.database, self.clock.now(), source, prepare_models(records))
        assert not result.refused

    async def catch_up(self) -> None:
        while not await self.projection.step():
            pass

    async def ask(self, query: str = "", *filters: search_pb2.Filter, **fields: Any) -> search_pb2.SearchModelsResponse:
        request = search_pb2.SearchModelsRequest(query=query, filters=filters, **fields)
        set_current_caller(self.caller)
        return await self.servicer.SearchModels(request, None)

    async def names(self, query: str = "", *filters: search_pb2.Filter, **fields: Any) -> list[str]:
        """Ids of the models on the first page."""
        return ids_of(await self.ask(query, *filters, **fields))

    async def all_pages(self, query: str = "", *filters: search_pb2.Filter, page_size: int, **fields: Any) -> list[str]:
        """Ids over all pages."""
        found: list[str] = []
        token = ""
        while True:
            page = await self.ask(query, *filters, page_size=page_size, page_token=token, **fields)
            assert len(page.results) <= page_size
            found += ids_of(page)
            token = page.next_page_token
            if not token:
                return found


def ids_of(response: search_pb2.SearchModelsResponse) -> list[str]:
    return [found.model.name.rpartition("/")[2] for found in response.results]


async def add_collections(database: Database) -> None:
    """A reviewed one and a hub's."""
    async with database.unit_of_work() as uow:
        for name, kind in (("curated", "CURATED"), ("hub", "HUB")):
            uow.session.add(CollectionRow(id=name, display_name=name.title(), kind=kind, description="…"))


@asynccontextmanager
async def searched(
    database: Database, folder: Path, *, memberships: dict[str, Collection[str]] | None = None, **limits: Any
) -> AsyncIterator[Searched]:
    """A replica whose index lies in `folder`."""
    clock = ManualClock()
    projection = SearchProjection(database, clock, folder, dataclasses.replace(LIMITS, **limits))
    await projection.open()
    await projection.catch_up(60)
    servicer = SearchServicer(
        database, clock, projection, lambda principal: (memberships or {}).get(principal, ()), Limits(), NearLimits()
    )
    try:
        yield Searched(database, clock, projection, servicer)
    finally:
        await projection.close()

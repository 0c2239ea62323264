"""CatalogService."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from modelyard.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from chassis.access import current_caller
from chassis.access.caller import CallerKind
from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import InvalidArgument
from chassis.paging import page_size, page_token_decode, page_token_encode, split_page
from services.catalog.domain.errors import InstanceTypeNotFound
from services.catalog.domain.names import COLLECTION, INSTANCE_TYPE, PUBLISHER
from services.catalog.rpc.convert import (
    collection_to_proto,
    instance_type_to_proto,
    model_to_proto,
    publisher_to_proto,
    version_to_proto,
    whole_model_to_proto,
)
from services.catalog.rpc.naming import Naming
from services.catalog.storage.queries import models as stored
from services.catalog.storage.queries import pages
from services.catalog.storage.tables import CollectionRow, PublisherRow
from services.catalog.usecases.find import find_model, find_version, find_whole_model

# What a position of a version may be.
POSITION_MAX = 2**31 - 1
Context = Any


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Reads; lists go by name, and a page token is bound to the list and its filters."""

    def __init__(self, database: Database, clock: Clock, naming: Naming) -> None:
        self._database = database
        self._clock = clock
        self._naming = naming

    async def ListCollections(
        self, request: catalog_pb2.ListCollectionsRequest, context: Context
    ) -> catalog_pb2.ListCollectionsResponse:
        scope = "ListCollections"
        after, limit = _after(request.page_token, scope), page_size(request.page_size)
        async with self._database.reader() as session:
            found = await pages.page_by_key(session, CollectionRow, "id", after, limit + 1)
            counts = await pages.models_per_collection(session)
        rows, more = split_page(found, limit)
        return catalog_pb2.ListCollectionsResponse(
            collections=[collection_to_proto(row, counts.get(row.id, 0)) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].id]) if more else "",
        )

    async def ListPublishers(
        self, request: catalog_pb2.ListPublishersRequest, context: Context
    ) -> catalog_pb2.ListPublishersResponse:
        scope = "ListPublishers"
        after, limit = _after(request.page_token, scope), page_size(request.page_size)
        async with self._database.reader() as session:
            found = await pages.page_by_key(session, PublisherRow, "id", after, limit + 1)
        rows, more = split_page(found, limit)
        return catalog_pb2.ListPublishersResponse(
            publishers=[publisher_to_proto(row) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].id]) if more else "",
        )

    async def ListModels(
        self, request: catalog_pb2.ListModelsRequest, context: Context
    ) -> catalog_pb2.ListModelsResponse:
        publisher = PUBLISHER.parse(request.parent or "publishers/-", "parent")["publisher"]
        collection = COLLECTION.parse(request.collection, "collection")["collection"] if request.collection else ""
        task = _enum_name(catalog_pb2.Task.DESCRIPTOR, request.task, "task")
        usability = _enum_name(catalog_pb2.Usability.DESCRIPTOR, request.usability, "usability")
        scope = f"ListModels/{publisher}/{collection}/{task}/{usability}"
        after, limit = _after(request.page_token, scope), page_size(request.page_size)
        narrowed = stored.Narrowed("" if publisher == "-" else publisher, collection, usability, task)
        async with self._database.reader() as session:
            found = await stored.listed_models(session, narrowed, after, limit + 1)
            page, more = split_page(found, limit)
            newest = await stored.versions(session, [row.latest_version for row in page])
        now = self._clock.now()
        return catalog_pb2.ListModelsResponse(
            models=[model_to_proto(row, newest.get(row.latest_version), now) for row in page],
            next_page_token=page_token_encode(scope, [page[-1].name]) if more else "",
        )

    async def GetModel(self, request: catalog_pb2.GetModelRequest, context: Context) -> catalog_pb2.Model:
        asked = await self._naming.model(request)
        _enum_name(catalog_pb2.TextFormat.DESCRIPTOR, request.text_format, "text_format")
        async with self._database.reader() as session:
            whole = await find_whole_model(session, asked.name, asked.project_uid)
        now = self._clock.now()
        if request.text_format == catalog_pb2.TEXT_FORMAT_UNSPECIFIED:
            return whole_model_to_proto(whole, now, request.text_format)
        # Rendering a long card takes a while, so other calls go on meanwhile.
        return await asyncio.to_thread(whole_model_to_proto, whole, now, request.text_format)

    async def ListModelVersions(
        self, request: catalog_pb2.ListModelVersionsRequest, context: Context
    ) -> catalog_pb2.ListModelVersionsResponse:
        asked = await self._naming.model(request, "parent")
        scope = f"ListModelVersions/{asked.name}"
        (before,) = page_token_decode(request.page_token, scope, (POSITION_MAX,))
        limit = page_size(request.page_size)
        async with self._database.reader() as session:
            model = await find_model(session, asked.name, asked.project_uid)
            found = await stored.versions_page(session, asked.name, min(before, POSITION_MAX), limit + 1)
        rows, more = split_page(found, limit)
        now = self._clock.now()
        return catalog_pb2.ListModelVersionsResponse(
            model_versions=[version_to_proto(row, model, now, with_location=_asks_as_service()) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].position]) if more else "",
        )

    async def GetModelVersion(
        self, request: catalog_pb2.GetModelVersionRequest, context: Context
    ) -> catalog_pb2.ModelVersion:
        asked = await self._naming.version(request)
        async with self._database.reader() as session:
            named = await find_version(session, asked.name, asked.project_uid)
        return version_to_proto(named.version, named.model, self._clock.now(), with_location=_asks_as_service())

    async def ListInstanceTypes(
        self, request: catalog_pb2.ListInstanceTypesRequest, context: Context
    ) -> catalog_pb2.ListInstanceTypesResponse:
        scope = f"ListInstanceTypes/{request.available_only}"
        after, limit = _after(request.page_token, scope), page_size(request.page_size)
        async with self._database.reader() as session:
            found = await pages.instance_types_page(session, after, limit + 1, request.available_only)
        rows, more = split_page(found, limit)
        return catalog_pb2.ListInstanceTypesResponse(
            instance_types=[instance_type_to_proto(row) for row in rows],
            next_page_token=page_token_encode(scope, [rows[-1].id]) if more else "",
        )

    async def GetInstanceType(
        self, request: catalog_pb2.GetInstanceTypeRequest, context: Context
    ) -> catalog_pb2.InstanceType:
        type_id = INSTANCE_TYPE.parse(request.name)["instance_type"]
        async with self._database.reader() as session:
            row = await pages.instance_type(session, type_id)
        if row is None:
            raise InstanceTypeNotFound(
                f"instance type {request.name!r} does not exist; `modelyard instance-types` shows those that do",
                field="name",
            )
        return instance_type_to_proto(row)


def _after(token: str, scope: str) -> str:
    return page_token_decode(token, scope, ("",))[0]


def _enum_name(enum: EnumDescriptor, value: int, field: str) -> str:
    """The last part of an enum value's name, as rows hold it; empty for the unspecified one.

    Raises:
        InvalidArgument: no such value.
    """
    known = enum.values_by_number
    if value not in known:
        raise InvalidArgument(f"{field} {value} is not known here; 0 to {max(known)} are", field=field)
    return known[value].name.removeprefix(f"{field.upper()}_") if value else ""


def _asks_as_service() -> bool:
    return current_caller().kind is CallerKind.SERVICE

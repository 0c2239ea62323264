"""ImportService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from modelyard.catalog.v1 import imports_pb2, imports_pb2_grpc

from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import InvalidArgument
from services.catalog.domain.names import MODEL
from services.catalog.settings import CatalogSettings
from services.catalog.sources.azureml.format import Limits
from services.catalog.usecases.import_assets import Incoming, export_assets, import_assets

Context = Any
_PATH_CHARACTERS_MAX = 1024


class ImportServicer(imports_pb2_grpc.ImportServiceServicer):
    """One call, one transaction."""

    def __init__(self, database: Database, clock: Clock, settings: CatalogSettings) -> None:
        self._database = database
        self._clock = clock
        self._assets_max = settings.import_assets_max
        self._limits = Limits(
            asset_bytes=settings.import_asset_bytes_max,
            text_characters=settings.import_card_characters_max,
            depth=settings.import_depth_max,
        )

    async def ImportAssets(
        self, request: imports_pb2.ImportAssetsRequest, context: Context
    ) -> imports_pb2.ImportAssetsResponse:
        if len(request.assets) > self._assets_max:
            raise InvalidArgument(
                f"{len(request.assets)} assets in one call; {self._assets_max} are allowed: send the rest in another",
                field="assets",
            )
        incoming = [Incoming(asset.path[:_PATH_CHARACTERS_MAX], asset.document) for asset in request.assets]
        result = await import_assets(self._database, self._clock, incoming, self._limits)
        return imports_pb2.ImportAssetsResponse(
            imported=result.imported,
            unchanged=result.unchanged,
            failed=[
                imports_pb2.ImportFailure(path=failure.path, field=failure.field, reason=failure.reason)
                for failure in result.failed
            ],
        )

    async def ExportAssets(
        self, request: imports_pb2.ExportAssetsRequest, context: Context
    ) -> AsyncIterator[imports_pb2.ExportAssetsResponse]:
        if request.model:
            MODEL.parse(request.model, "model")
        async for page in export_assets(self._database, request.model):
            for part in _within_a_message(page):
                yield imports_pb2.ExportAssetsResponse(assets=part)


def _within_a_message(page: list[tuple[str, bytes]]) -> Any:
    """Split a page so that each part fits into a message, whatever the size of its cards."""
    part: list[imports_pb2.Asset] = []
    size = 0
    for name, document in page:
        if part and size + len(document) > _MESSAGE_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(imports_pb2.Asset(path=name, document=document))
        size += len(document)
    if part:
        yield part


_MESSAGE_BYTES_MAX = 4 * 1024 * 1024

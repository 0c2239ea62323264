"""Bring the rows in line with the content files; a second run changes nothing and says nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.errors import ContentInvalid
from services.catalog.sources.content_files import read_content
from services.catalog.sources.shipped import records_of
from services.catalog.storage.tables import CollectionRow, InstanceTypeRow, PublisherRow
from services.catalog.usecases.benchmarks import put_benchmarks
from services.catalog.usecases.put_models import put_models

SOURCE = "content"
_GIB = 1 << 30


async def sync_content(database: Database, clock: Clock, folder: Path) -> int:
    """Load the content folder, wholly or not at all; return how many versions were added.

    Weights are read once to check their digest, off the event loop and before the transaction.

    Raises:
        ContentInvalid: naming the file, the field and the value; nothing is changed.
    """
    content = read_content(folder)
    records = await asyncio.to_thread(records_of, folder, content)
    async with database.unit_of_work() as uow:
        result = await put_models(uow, database, clock.now(), SOURCE, records)
        if result.refused:
            raise ContentInvalid("; ".join(refusal.reason for refusal in result.refused), field=result.refused[0].field)
        for collection in content.collections:
            await uow.session.merge(CollectionRow(**collection.model_dump(exclude={"support"})))
        for publisher in content.publishers:
            await uow.session.merge(PublisherRow(**publisher.model_dump()))
        for shape in content.instance_types:
            row = InstanceTypeRow(
                id=shape.id,
                vcpus=shape.vcpus,
                memory_bytes=round(shape.memory_gib * _GIB),
                gpu_count=shape.gpu_count,
                gpu_model=shape.gpu_model,
                disk_bytes=round(shape.disk_gib * _GIB),
                provider=shape.provider,
                source=shape.source.model_dump(mode="json"),
            )
            await uow.session.merge(row)
        await put_benchmarks(uow, SOURCE, content.benchmarks)
    return result.version_count

"""Bring the rows in line with the content files; a second run changes nothing and says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.telemetry import get_logger
from services.catalog.domain.errors import ContentInvalid
from services.catalog.domain.lifecycle import Notice
from services.catalog.sources.content import InstanceType
from services.catalog.sources.content_files import read_content
from services.catalog.sources.packages import PackageStore
from services.catalog.sources.shipped import records_of
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import CollectionRow, InstanceTypeRow, PublisherRow
from services.catalog.usecases.benchmarks import put_benchmarks
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.put_models import NOTICE_FIELD, put_models

log = get_logger(__name__)

SOURCE = "content"
_GIB = 1 << 30


async def sync_content(
    database: Database,
    clock: Clock,
    folder: Path,
    packages: PackageStore | None = None,
    notice: Notice | None = None,
) -> int:
    """Load the content folder; return how many versions were added.

    A model whose versions would end with less notice than is promised stays as it was until the content or an override
    says otherwise; everything else is loaded wholly or not at all. Weights are read once to check their digest, off the
    event loop and before the transaction.

    Args:
        packages: Where wheels lie that are installed on demand; None: there is no such place.
        notice: What is promised; None takes every date.

    Raises:
        ContentInvalid: naming the file, the field and the value; nothing is changed.
    """
    content = read_content(folder)
    prepared = prepare_models(await asyncio.to_thread(records_of, folder, content, packages or PackageStore(None)))
    async with database.unit_of_work() as uow:
        result = await put_models(uow, database, clock.now(), SOURCE, prepared, notice=notice)
        if wrong := [refusal for refusal in result.refused if refusal.field != NOTICE_FIELD]:
            raise ContentInvalid("; ".join(refusal.reason for refusal in wrong), field=wrong[0].field)
        for refusal in result.refused:
            log.error("a model stays as it was", model=refusal.model, why=refusal.reason)
        await _merge(uow, [CollectionRow(**one.model_dump(exclude={"support"})) for one in content.collections])
        await _merge(uow, [PublisherRow(**one.model_dump()) for one in content.publishers])
        await _merge(uow, [_instance_type_row(shape) for shape in content.instance_types])
        await put_benchmarks(uow, SOURCE, content.benchmarks)
    return result.version_count


def _instance_type_row(shape: InstanceType) -> InstanceTypeRow:
    return InstanceTypeRow(
        id=shape.id,
        vcpus=shape.vcpus,
        memory_bytes=round(shape.memory_gib * _GIB),
        gpu_count=shape.gpu_count,
        gpu_model=shape.gpu_model,
        disk_bytes=round(shape.disk_gib * _GIB),
        provider=shape.provider,
        source=shape.source.model_dump(mode="json"),
    )


async def _merge(uow: UnitOfWork, rows: Sequence[CollectionRow | PublisherRow | InstanceTypeRow]) -> None:
    """Store rows of one table by their id."""
    if not rows:
        return
    row_class = type(rows[0])
    by_id = table(row_class).c.id.in_([row.id for row in rows])
    # Held while they are merged: the session then knows them and does not ask for each.
    known = (await uow.session.execute(select(row_class).where(by_id))).scalars().all()
    for row in rows:
        await uow.session.merge(row)
    del known

"""Store what a source said in one batch, in the transaction of whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

import msgspec

from chassis.database import Database, UnitOfWork
from services.catalog.domain.names import MODEL
from services.catalog.domain.records import ModelRecord, Source, digest_of
from services.catalog.domain.sources import RESERVED_IDS
from services.catalog.sources.interface import Batch, Failure, NewPublisher
from services.catalog.storage.queries.models import models as stored_models
from services.catalog.storage.queries.pages import table, take_turns
from services.catalog.storage.queries.sources import existing_sources
from services.catalog.storage.tables import ModelRow, PublisherRow
from services.catalog.usecases.known_versions import as_known
from services.catalog.usecases.offers import put_offers
from services.catalog.usecases.prepare_models import prepare_models
from services.catalog.usecases.published_scores import put_scores
from services.catalog.usecases.put_models import put_models


@dataclass(slots=True)
class BatchResult:
    """What became of a batch, by resource names of models; `refused` ones stay as they were."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    # Published results that were left out, by model and reason.
    dropped_scores: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def taken(self) -> list[str]:
        return [*self.added, *self.changed, *self.unchanged]


async def take_batch(uow: UnitOfWork, database: Database, now: datetime, source: str, batch: Batch) -> BatchResult:
    """Store a batch's models and offers; each model wholly or not at all.

    A model that another source brought is not changed; where the batch offers a provider for it, it gets the offer alone.
    """
    await take_turns(uow, database)
    records = {MODEL.format(publisher=record.publisher, model=record.model): record for record in batch.records}
    known = await stored_models(uow.session, list(records))
    await _adopt(uow, source, list(known.values()))
    foreign = {name for name, row in known.items() if row.source != source and name in batch.offers}
    own = {name: record for name, record in records.items() if name not in foreign}
    if batch.decided_here:
        own = {name: await as_known(uow.session, record) for name, record in own.items()}
    await _put_publishers(uow, database, batch.publishers)
    said = [_with_known_dates(record, known.get(name)) for name, record in own.items()]
    put = await put_models(uow, database, now, source, prepare_models(said), notice=batch.notice)
    result = BatchResult(
        added=list(put.added),
        changed=list(put.changed),
        refused=[*batch.kept, *(refusal.model for refusal in put.refused)],
        failures=[*batch.failures, *(Failure(one.model, one.field, one.reason) for one in put.refused)],
    )
    for name, scores in batch.scores.items():
        if name not in result.refused:
            day = records[name].sources[0].date
            result.dropped_scores[name] = await put_scores(uow, source, name, day, scores)
    targets = {name: target for name, target in batch.offers.items() if name not in result.refused}
    offered, failures = await put_offers(uow, now, source, targets)
    result.failures += failures
    refused = {failure.model for failure in failures}
    result.refused += sorted(refused)
    result.changed += [name for name in offered if name not in put.added and name not in put.changed]
    same = {*put.unchanged, *foreign} - refused - set(result.changed)
    result.unchanged = sorted(same)
    return result


async def _put_publishers(uow: UnitOfWork, database: Database, wanted: Sequence[NewPublisher]) -> None:
    publishers = table(PublisherRow)
    rows = [asdict(one) for one in wanted]
    if rows:
        await database.insert_ignoring(uow, publishers, rows, returning=[publishers.c.id])


async def _adopt(uow: UnitOfWork, source: str, rows: Sequence[ModelRow]) -> None:
    """Let a source have the models that were left behind by one that was deleted."""
    left = [row for row in rows if row.withdrawn and row.source not in (source, *RESERVED_IDS)]
    if not left:
        return
    existing = await existing_sources(uow.session, sorted({row.source for row in left}))
    for row in left:
        if row.source not in existing:
            row.source = source
            uow.session.add(row)


def _with_known_dates(record: ModelRecord, row: ModelRow | None) -> ModelRecord:
    """The record with the day on which its facts were first read, where they are the same facts."""
    if row is None:
        return record
    before = tuple(Source(**source) for source in row.facts["sources"])
    same = msgspec.structs.replace(record, sources=before)
    return same if digest_of(same) == row.digest else record

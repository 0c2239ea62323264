"""What a sync would change, found out by doing it in transactions that are rolled back."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.sources import FAILURES_KEPT_MAX
from services.catalog.sources.interface import Batch, Failure, SourceAdapter
from services.catalog.storage.queries import sources as queries
from services.catalog.usecases.take_batch import BatchResult, take_batch

CHANGES_MAX = 1000


@dataclass(slots=True)
class Preview:
    """What would become of a source's models.

    Attributes:
        counts: Fields of `modelyard.catalog.v1.SyncCounts`.
        changes: (resource name, "added" | "changed" | "withdrawn"), the first ones.
        truncated: There are more models than were looked at, so nothing is said of withdrawn ones.
    """

    counts: dict[str, int] = field(default_factory=dict)
    changes: list[tuple[str, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    truncated: bool = False

    def count(self, name: str, more: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + more

    def change(self, kind: str, names: list[str]) -> None:
        self.count(kind, len(names))
        self.changes += [(name, kind) for name in names[: CHANGES_MAX - len(self.changes)]]


class _RollBack(Exception):
    """Ends a transaction that was only tried."""


async def preview_source(
    database: Database, clock: Clock, source: str, adapter: SourceAdapter, *, models_max: int
) -> Preview:
    """Read a source and say what a sync would change. Nothing is changed, and nothing is announced.

    Args:
        models_max: Models that are looked at; others write to the catalog between batches only.

    Raises:
        SourceUnavailable: it cannot be read.
    """
    preview, seen = Preview(), set[str]()
    async with aclosing(adapter.batches("")) as batches:
        async for batch in batches:
            result = await _tried(database, clock, source, batch)
            seen.update(result.taken, result.refused)
            preview.count("listed", len(result.taken))
            preview.count("unchanged", len(result.unchanged))
            preview.count("skipped", batch.skipped)
            preview.count("failed", len(result.failures))
            preview.change("added", result.added)
            preview.change("changed", result.changed)
            preview.failures += result.failures[: FAILURES_KEPT_MAX - len(preview.failures)]
            if len(seen) >= models_max:
                preview.truncated = bool(batch.cursor)
                break
    if not preview.truncated:
        async with database.reader() as session:
            held = await queries.listed_models(session, source, models_max)
        preview.change("withdrawn", [name for name in held if name not in seen])
    return preview


async def _tried(database: Database, clock: Clock, source: str, batch: Batch) -> BatchResult:
    result = BatchResult()
    try:
        async with database.unit_of_work() as uow:
            result = await take_batch(uow, database, clock.now(), source, batch)
            raise _RollBack
    except _RollBack:
        return result

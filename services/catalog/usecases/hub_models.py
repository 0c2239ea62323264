"""Take single models of a hub into the catalog."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.errors import HubContentChanged, ModelOfOtherSource
from services.catalog.domain.names import MODEL
from services.catalog.sources.hub.adapter import batch_of
from services.catalog.sources.hub.hub import Hub
from services.catalog.usecases.published_scores import counted
from services.catalog.usecases.take_batch import take_batch

# Who brings models that were imported one by one.
SOURCE = "hub"


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a model: "ADDED", "CHANGED" or "UNCHANGED".

    Attributes:
        score_count: Results of its card that are stored.
        dropped_scores: How many were left out, by reason.
    """

    model: str
    version: str
    revision: str
    outcome: str
    score_count: int
    dropped_scores: dict[str, int]


async def import_hub_model(
    database: Database, clock: Clock, hub: Hub, model: str, revision: str = "", file: str = ""
) -> Imported:
    """Take one model in at one commit; the hub is read before the transaction.

    Raises:
        HubModelNotEligible, HubModelNotFound, HubUnavailable: see `Hub.describe`.
        HubContentChanged: the hub gives other files for a commit than it did before.
        ModelOfOtherSource: the name is taken.
    """
    described = await hub.describe(model, revision, file)
    async with database.unit_of_work() as uow:
        result = await take_batch(uow, database, clock.now(), SOURCE, batch_of(hub, [described]))
    for failure in result.failures:
        if failure.field == "publisher":
            raise ModelOfOtherSource(failure.reason)
        raise HubContentChanged(failure.reason)
    record = described.record
    name = MODEL.format(publisher=record.publisher, model=record.model)
    unknown = result.dropped_scores.get(name, {})
    return Imported(
        model=name,
        version=f"{name}/versions/{record.versions[0].version}",
        revision=described.revision,
        outcome="ADDED" if result.added else "CHANGED" if result.changed else "UNCHANGED",
        score_count=len(described.scores) - sum(unknown.values()),
        dropped_scores=counted(described.dropped, unknown),
    )

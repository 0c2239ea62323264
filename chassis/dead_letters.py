"""Dead letters: what a consumer could not take is handed to its handler again when an operator asks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from sqlalchemy import select, update

from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import PASSING, Code, Problem
from chassis.events import event_from_parts
from chassis.inbox import BatchHandler, EventHandler
from chassis.telemetry import get_logger

log = get_logger(__name__)


class DeadLetterNotFound(Problem):
    """No dead letter of this service has the id."""

    code = Code.NOT_FOUND
    reason = "DEAD_LETTER_NOT_FOUND"


@dataclass(frozen=True)
class Handlers:
    """What takes the events of each consumer, by durable name.

    Attributes:
        single: Called with a unit of work and one event.
        batch: Called with a list of one event; transactions and dedupe are its own.
    """

    single: Mapping[str, EventHandler] = field(default_factory=dict)
    batch: Mapping[str, BatchHandler] = field(default_factory=dict)


@dataclass
class Replay:
    """What became of dead letters.

    Attributes:
        replayed: Ids of those that took effect now.
        still_dead: Id of each that did not, and why.
    """

    replayed: list[str] = field(default_factory=list)
    still_dead: dict[str, str] = field(default_factory=dict)


async def replay_dead_letters(database: Database, clock: Clock, handlers: Handlers, ids: Sequence[str]) -> Replay:
    """Hand dead letters to their handlers again, in the given order, each in a transaction of its own.

    Raises:
        DeadLetterNotFound: an id is not known; nothing was replayed.
        Problem: something the handler needs is away; those before it are replayed.
    """
    dead = database.tables.dead_letter
    async with database.reader() as session:
        rows = {row.id: row for row in await session.execute(select(dead).where(dead.c.id.in_(ids)))}
    for wanted in ids:
        if wanted not in rows:
            raise DeadLetterNotFound(
                f"no dead letter {wanted[:64]!r} is here; `modelyard events dead-letters` lists them", field="ids"
            )
    replay = Replay()
    for row in (rows[wanted] for wanted in dict.fromkeys(ids)):
        try:
            why_not = await _replay_one(database, clock, handlers, row)
        except (Problem, DecodeError) as problem:
            if isinstance(problem, Problem) and problem.code in PASSING:
                raise
            why_not = str(problem)
        if why_not:
            replay.still_dead[row.id] = why_not
        else:
            replay.replayed.append(row.id)
            log.info("dead letter was replayed", consumer=row.consumer, subject=row.subject, id=row.id)
    return replay


async def _replay_one(database: Database, clock: Clock, handlers: Handlers, row: Any) -> str:
    """Why it had no effect; empty where it had one."""
    single, batch = handlers.single.get(row.consumer), handlers.batch.get(row.consumer)
    if single is None and batch is None:
        return f"this service has no consumer {row.consumer!r} any more"
    if row.replay_time is not None:
        return f"it took effect already, at {row.replay_time.isoformat()}"
    event = event_from_parts(row.subject, json.loads(row.headers), row.data)
    if batch is not None:
        # Its transaction is its own and comes first: what is handed over twice has one effect.
        await batch([event])
    dead = database.tables.dead_letter
    claim = update(dead).where(dead.c.id == row.id, dead.c.replay_time.is_(None)).values(replay_time=clock.now())
    async with database.unit_of_work() as uow:
        claimed = (await uow.session.execute(claim.returning(dead.c.id))).all()
        if claimed and single is not None:
            await single(uow, event)
    return ""

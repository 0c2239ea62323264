"""Keep this replica's search index in step with the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import tantivy
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database
from chassis.memory import release_free_memory
from chassis.telemetry import get_logger, observe
from services.catalog.search.documents import Names, document_of
from services.catalog.search.generations import Generations
from services.catalog.search.index import IndexDamaged, SearchIndex
from services.catalog.search.reader import Position, Reader
from services.catalog.storage.queries.changes import (
    ChangedModel,
    changed_models,
    collection_rows,
    first_uid,
    listed_count,
    publisher_names,
)
from services.catalog.storage.queries.models import newest_change

log = get_logger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ProjectionLimits:
    """How an index follows; times in seconds.

    Attributes:
        poll_s: Between two looks at the database.
        batch_models: Models read at once.
        commit_models: Models after which a long catch-up is made visible and durable.
        commit_s: At most so long after the first of them, and at least so long after the commit before.
        commit_few_models: As many are made visible at once.
        commit_quiet_s: Without new ones for so long, more are too.
        card_length_max: Characters of a card that can be found.
        rebuild_s_min: Between two times that it is built anew.
        rest_s: Without work, before the memory that it took is given back.
        retry_s: After the database or the index failed.
        threads: Searches at once; more wait. Each may have another thread to help it.
        heap_bytes: Memory of the writer.
    """

    poll_s: float = 0.5
    batch_models: int = 500
    commit_models: int = 20_000
    commit_s: float = 10.0
    commit_few_models: int = 100
    commit_quiet_s: float = 2.0
    card_length_max: int = 65_536
    rebuild_s_min: float = 600.0
    rest_s: float = 3.0
    retry_s: float = 5.0
    threads: int = 2
    heap_bytes: int = 30_000_000


class SearchProjection:
    """The index as a projection of the rows: the database is the truth, each replica has an index of its own.

    It reads models in the order of their changes and never waits for a writer. While it is built anew the old one
    answers. What it holds is said with every answer: `index_time`, before which every commit is in it.

    Args:
        folder: Of this process alone.
    """

    def __init__(self, database: Database, clock: Clock, folder: Path, limits: ProjectionLimits) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._generations = Generations(folder, limits.heap_bytes)
        # Writing is one thread's; it waits for disks and merges while the event loop goes on.
        self._writer = ThreadPoolExecutor(1, "search-writer")
        self._searchers = ThreadPoolExecutor(limits.threads, "search")
        self._helpers = ThreadPoolExecutor(limits.threads, "search-helper")
        self._serving: SearchIndex | None = None
        self._building: SearchIndex | None = None
        self._position = 0
        self._fresh_until = 0
        self._commit_due_at = 0.0
        self._commit_again_at = 0.0
        self._rebuild_not_before = 0.0
        self._rebuild_wanted = False
        self._is_counted = False
        # Whether more memory was taken since it was last given back, and when the last work ended.
        self._may_release = False
        self._put_count = 0
        self._taken_at = 0.0
        self._worked_at = 0.0
        self.index_time: datetime | None = None
        # Changes that the index did not hold when it was last looked at, at most.
        self.pending = 0

    async def open(self) -> None:
        """Open the index of before, or begin an empty one."""
        observe(
            "modelyard.catalog.search.behind",
            self._behind_s,
            unit="s",
            description="How long ago the search index held all that was committed.",
        )
        observe(
            "modelyard.catalog.search.documents",
            lambda: self._serving.document_count if self._serving else 0,
            unit="{model}",
            description="Models in the search index.",
        )
        index = await self._write(self._generations.open_current)
        if index is None:
            index = await self._write(self._new_generation)
        self._serving = index
        await self._build_on(index)
        if not await self._agrees(index):
            log.warning("the search index is not of this database; building another", position=index.position.change)
            await self._begin_anew()

    async def catch_up(self, wait_s: float) -> None:
        """Take in what there is, for so long at most; `run` goes on with the rest."""
        give_up_at = time.monotonic() + wait_s
        while not await self.step() and time.monotonic() < give_up_at:
            pass

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                await asyncio.sleep(self._limits.poll_s if await self.step() else 0)
            except DATABASE_ERRORS as error:
                log.warning("the search index waits for the database", error=str(error), retry_s=self._limits.retry_s)
                await asyncio.sleep(self._limits.retry_s)
            except IndexDamaged as error:
                log.warning("the search index is damaged; building another", error=str(error))
                await self._begin_anew_soon()

    async def step(self) -> bool:
        """Take in the next changes; return whether there were none left.

        Raises:
            IndexDamaged: it cannot be written; the changes are read again by the next one.
        """
        if self._rebuild_wanted:
            await self._begin_anew_soon()
        building = self._building
        assert building is not None  # noqa: S101 - opened before it is stepped
        looked_at = self._clock.now()
        caught_up = await self._take_in(building) < self._limits.batch_models
        if building.uncommitted and self._is_commit_due(building, caught_up):
            await self._commit(building)
        elif building.uncommitted and caught_up:
            await asyncio.sleep(self._limits.poll_s)
            return False
        may_rebuild = time.monotonic() >= self._rebuild_not_before
        if caught_up and not self._is_counted and not await self._count_agrees(building) and may_rebuild:
            log.warning("the search index holds models that are gone; building another", position=self._position)
            await self._begin_anew()
            return False
        await self._rest()
        if caught_up:
            await self._take_over(building)
            self.index_time, self.pending = looked_at, 0
        return caught_up

    async def _take_in(self, building: SearchIndex) -> int:
        """Read the next changes; return how many."""
        async with self._database.reader() as session:
            models = await changed_models(session, self._position, self._limits.batch_models)
            if not models:
                return 0
            names = await _names_for(session, models)
            self.pending = await newest_change(session) - building.position.change
        await self._write(lambda: self._put(building, models, names))
        self._commit_due_at = self._commit_due_at or time.monotonic() + self._limits.commit_s
        self._position = models[-1].change_sequence
        self._put_count += len(models)
        self._may_release |= self._put_count >= self._limits.commit_models
        self._taken_at = self._worked_at = time.monotonic()
        return len(models)

    def _is_commit_due(self, building: SearchIndex, caught_up: bool) -> bool:
        """Few changes are made visible at once, and many when no more have come for a while. Until then an import goes on:
        a commit of each of its calls would leave an index in pieces."""
        now = time.monotonic()
        if building.uncommitted >= self._limits.commit_models or now >= self._commit_due_at:
            return True
        is_few = building.uncommitted <= self._limits.commit_few_models
        is_quiet = now >= self._taken_at + self._limits.commit_quiet_s
        return caught_up and (is_few or is_quiet or now >= self._commit_again_at)

    async def _commit(self, building: SearchIndex) -> None:
        async with self._database.reader() as session:
            position = Position(self._position, await first_uid(session))
        await self._write(lambda: building.commit(position))
        self._commit_due_at = 0.0
        self._commit_again_at = time.monotonic() + self._limits.commit_s

    async def _rest(self) -> None:
        """Give memory back when searches, or many models at once, have taken it and no more come."""
        if self._may_release and time.monotonic() >= self._worked_at + self._limits.rest_s:
            self._may_release, self._put_count = False, 0
            await self._database.release_memory()
            await self._write(release_free_memory)

    async def search(self, work: Callable[[Reader], Result]) -> Result:
        """Read the index that answers, off the event loop.

        Raises:
            IndexDamaged: it cannot be read; another one is being built.
        """
        serving = self._serving
        assert serving is not None  # noqa: S101 - opened before it is asked
        self._may_release, self._worked_at = True, time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._searchers, serving.read, work, self._helpers)
        except IndexDamaged as error:
            log.warning("the search index cannot be read; building another", error=str(error))
            self._rebuild_wanted = True
            raise

    async def close(self) -> None:
        """Let the folder go; what was read and not committed is read again at the next start."""
        for index in {self._serving, self._building} - {None}:
            try:
                await self._write(index.close)  # type: ignore[union-attr]
            except IndexDamaged as error:
                log.warning("the search index was not closed", error=str(error))
        self._generations.release()
        self._writer.shutdown()
        self._searchers.shutdown()
        self._helpers.shutdown()

    def _behind_s(self) -> float:
        return (self._clock.now() - self.index_time).total_seconds() if self.index_time else float("inf")

    def _put(self, index: SearchIndex, models: Sequence[ChangedModel], names: Names) -> None:
        new: list[tuple[str, tantivy.Document | None]] = []
        known: list[tuple[str, tantivy.Document | None]] = []
        for model in models:
            document = None if model.withdrawn else document_of(model, names, self._limits.card_length_max)
            (new if self._is_new(model) else known).append((model.name, document))
        index.put(new, replace=False)
        index.put(known)

    def _is_new(self, model: ChangedModel) -> bool:
        """Whether the index cannot have the model yet, so that no document has to be looked for to be replaced: this is
        its first change, or the index is built from the beginning and the model was there when that began."""
        return model.change_sequence == model.first_sequence or model.change_sequence <= self._fresh_until

    async def _agrees(self, index: SearchIndex) -> bool:
        """Whether the index can be one of this database: it may have been put in another one's place."""
        position = index.position
        if not position.change:
            return True
        async with self._database.reader() as session:
            if position.origin != await first_uid(session) or position.change > await newest_change(session):
                return False
            # Models that have changed since were counted before; fewer than the others there must not be.
            return await listed_count(session, position.change) <= index.document_count

    async def _count_agrees(self, index: SearchIndex) -> bool:
        """Whether the index holds as many models as the database shows; looked at once, when it is in step.

        A model that left its source is taken out when that is read, and later removed. A replica that was away all that
        time has not read it.
        """
        async with self._database.reader() as session:
            listed = await listed_count(session, index.position.change)
            # Counted before: whatever has changed meanwhile would have been left out of the count.
            self._is_counted = await newest_change(session) == index.position.change
        return not self._is_counted or listed == index.document_count

    def _new_generation(self) -> SearchIndex:
        index = self._generations.create()
        self._generations.make_current(index)
        return index

    async def _build_on(self, index: SearchIndex) -> None:
        self._building = index
        self._position = index.position.change
        self._commit_due_at = 0.0
        self._is_counted = False
        async with self._database.reader() as session:
            self._fresh_until = 0 if index.position.change else await newest_change(session)

    async def _begin_anew(self) -> None:
        """Build another generation; the one that answers goes on until it is in step."""
        abandoned = self._building
        await self._build_on(await self._write(self._generations.create))
        self._rebuild_not_before = time.monotonic() + self._limits.rebuild_s_min
        self._rebuild_wanted = False
        if abandoned is not None and abandoned is not self._serving:
            await self._write(lambda: self._generations.remove(abandoned))

    async def _begin_anew_soon(self) -> None:
        """The same, not too often: a mistake of ours must not build it for ever."""
        if (wait_s := self._rebuild_not_before - time.monotonic()) > 0:
            log.warning("the search index was built anew a moment ago; it waits", wait_s=round(wait_s))
            await asyncio.sleep(min(wait_s, self._limits.retry_s))
            return
        await self._begin_anew()

    async def _take_over(self, building: SearchIndex) -> None:
        """Let a generation that is in step answer in place of the one before."""
        before = self._serving
        if before is building:
            return
        await self._write(lambda: self._generations.make_current(building))
        self._serving = building
        if before is not None:
            await self._write(lambda: self._generations.remove(before))

    async def _write(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)


async def _names_for(session: AsyncSession, models: Sequence[ChangedModel]) -> Names:
    collections = await collection_rows(session)
    return Names(
        collection_kinds={row.id: row.kind for row in collections},
        collections={row.id: row.display_name for row in collections},
        publishers=await publisher_names(session, {model.publisher for model in models}),
    )

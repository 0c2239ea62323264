"""Sync sources: one process at a time each, batch by batch, resumed after a crash."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard.catalog.v1 import sources_pb2

from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database, UnitOfWork
from chassis.errors import Problem
from chassis.ids import new_uid
from chassis.telemetry import get_logger
from chassis.telemetry.metrics import meter
from services.catalog.domain.errors import SourceUnavailable
from services.catalog.domain.sources import FAILURES_KEPT_MAX, SyncState
from services.catalog.sources.interface import AdapterFactory, Batch
from services.catalog.storage.queries import sources as queries
from services.catalog.storage.queries.pages import take_turns
from services.catalog.storage.tables import SourceRow, SyncRunRow
from services.catalog.usecases.offers import withdraw_models
from services.catalog.usecases.take_batch import BatchResult, take_batch

log = get_logger(__name__)

_SYNCS = meter.create_counter("modelyard.syncs", unit="{sync}", description="Syncs that ended, by source and state.")
BY_SCHEDULE = "schedule"
# A run whose process died this often is given up: it may be what kills them.
RESUMES_MAX = 5
_DIED = f"the process that read it died {RESUMES_MAX + 1} times; the log of the catalog says more"
# Models withdrawn or removed in one transaction.
_PART = 500
_TIDY_S = 60.0


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """How sources are synced.

    `check_s`: how often it is looked for sources whose time has come, seconds. `syncs_max`: sources that one process
    syncs at once. `lease_s`: without a sign of life for this long, another process goes on with a run. `run_s_max`:
    longest run. `runs_kept`: runs of a source that stay readable. `withdrawn_keep_s`: how long a model that left its
    source stays before it may be removed.
    """

    check_s: float = 2.0
    syncs_max: int = 2
    lease_s: float = 60.0
    run_s_max: float = 21_600.0
    runs_kept: int = 100
    withdrawn_keep_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this process may read, as long as the source is as it was then."""

    source: str
    spec: sources_pb2.ModelSource
    revision: int
    run_uid: str
    cursor: str


class ClaimLost(Exception):
    """Another process has the source, or it was changed or deleted."""


class Syncer:
    """Syncs what is due.

    Args:
        adapters: By kind of source, as the contract names it.
    """

    def __init__(
        self, database: Database, clock: Clock, adapters: Mapping[str, AdapterFactory], limits: SyncLimits
    ) -> None:
        self._database = database
        self._clock = clock
        self._adapters = adapters
        self._limits = limits
        self._owner = new_uid()
        self._running: set[asyncio.Task[None]] = set()
        # Set when a source was created or changed, or when somebody asked for a sync.
        self.wanted = asyncio.Event()

    async def run(self) -> None:
        """Sync for ever; while the database is away nothing is, and runs go on when it is back."""
        tidying = asyncio.create_task(self._tidy())
        try:
            while True:
                self.wanted.clear()
                try:
                    while len(self._running) < self._limits.syncs_max and (claim := await self.claim()) is not None:
                        self._start(claim)
                except DATABASE_ERRORS as error:
                    log.warning("syncs wait", error=str(error), retry_s=self._limits.check_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.check_s):
                        await self.wanted.wait()
        finally:
            await self._stop(tidying)

    def _start(self, claim: Claim) -> None:
        task = asyncio.create_task(self.sync(claim), name=f"sync {claim.source}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _stop(self, tidying: asyncio.Task[None]) -> None:
        """Leave runs to the next process, which need not wait for the leases to end."""
        tasks = [*self._running, tidying]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(*DATABASE_ERRORS):
            async with self._database.unit_of_work() as uow:
                for source in await queries.leased_by(uow.session, self._owner):
                    _release(source)
                    uow.session.add(source)

    async def _tidy(self) -> None:
        while True:
            try:
                await remove_withdrawn(self._database, self._clock, self._limits.withdrawn_keep_s)
            except DATABASE_ERRORS as error:
                log.warning("removing models waits", error=str(error), retry_s=_TIDY_S)
            await asyncio.sleep(_TIDY_S)

    async def claim(self) -> Claim | None:
        """Take a source that is due, where there is one; a run that a crash left open goes on."""
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            source = await queries.due_source_locked(uow.session, self._database, now)
            if source is None:
                return None
            run = await queries.open_run(uow.session, source.id) or new_run(source, BY_SCHEDULE, now)
            if run.state == SyncState.RUNNING:
                if run.resume_count >= RESUMES_MAX:
                    self._end(uow, source, run, SyncState.FAILED, _DIED)
                    return None
                run.resume_count += 1
            run.state = int(SyncState.RUNNING)
            run.start_time = run.start_time or now
            if not run.cursor:
                # It is read from its beginning, again where it was read before.
                run.counts, run.failures = {}, []
            source.lease_owner, source.lease_until = self._owner, self._lease_end(now)
            uow.session.add_all([source, run])
            spec = sources_pb2.ModelSource.FromString(source.spec)
            spec.name = f"sources/{source.id}"
            return Claim(source.id, spec, source.revision, run.uid, run.cursor)

    async def sync(self, claim: Claim) -> None:
        """Read a source to its end and store what it says; a run that fails is ended with the reason."""
        renewing = asyncio.create_task(self._renew(claim))
        try:
            async with asyncio.timeout(self._limits.run_s_max):
                await self._read(claim)
        except ClaimLost:
            log.info("a sync was taken away", source=claim.source)
        except TimeoutError:
            await self._fail(
                claim, f"it took longer than {self._limits.run_s_max:g} s; take fewer models, or raise the limit"
            )
        except Problem as problem:
            await self._fail(claim, problem.message)
        except DATABASE_ERRORS as error:
            # Its lease ends, and the run goes on where it was.
            log.warning("a sync waits for the database", source=claim.source, error=str(error))
        except Exception as error:
            log.exception("a sync broke", source=claim.source)
            await self._fail(claim, f"it broke with {type(error).__name__}; the log of the catalog says more")
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _read(self, claim: Claim) -> None:
        factory = self._adapters[claim.spec.WhichOneof("kind") or ""]
        adapter = factory(claim.spec, self._clock.now().date())
        async with aclosing(adapter.batches(claim.cursor)) as batches:
            async for batch in batches:
                await self._store(claim, batch)
        await self._withdraw_missing(claim)
        async with self._database.unit_of_work() as uow:
            source, run = await self._held(uow, claim)
            self._end(uow, source, run, SyncState.SUCCEEDED, "")
            await queries.forget_runs(uow, source.id, run.number - self._limits.runs_kept)

    async def _store(self, claim: Claim, batch: Batch) -> None:
        """A batch, the place where reading goes on after it, and the sign of life, in one transaction."""
        async with self._database.unit_of_work() as uow:
            source, run = await self._held(uow, claim)
            now = self._clock.now()
            result = await take_batch(uow, self._database, now, source.id, batch)
            await queries.mark_listed(uow, self._database, source.id, result.taken, result.refused, run.number)
            _count(run, batch, result)
            run.cursor = batch.cursor
            source.lease_until = self._lease_end(now)
            uow.session.add_all([source, run])

    async def _withdraw_missing(self, claim: Claim) -> None:
        """Close what the source does not list any more to new deployments.

        Raises:
            Problem: nothing was listed at all: more likely the source or its globs are wrong than that all is gone.
        """
        while True:
            async with self._database.unit_of_work() as uow:
                source, run = await self._held(uow, claim)
                # Before anything is read that decides: others may bring the same models.
                await take_turns(uow, self._database)
                names = await queries.missing_models(uow.session, source.id, run.number, _PART)
                if names and not run.counts.get("listed"):
                    raise _nothing_listed(len(names))
                if not names:
                    return
                await withdraw_models(uow, self._clock.now(), source.id, names)
                run.counts = {**run.counts, "withdrawn": run.counts.get("withdrawn", 0) + len(names)}
                uow.session.add(run)

    async def _fail(self, claim: Claim, why: str) -> None:
        log.warning("a sync failed", source=claim.source, why=why)
        with contextlib.suppress(ClaimLost, *DATABASE_ERRORS):
            async with self._database.unit_of_work() as uow:
                source, run = await self._held(uow, claim)
                self._end(uow, source, run, SyncState.FAILED, why)

    def _end(self, uow: UnitOfWork, source: SourceRow, run: SyncRunRow, state: SyncState, detail: str) -> None:
        now = self._clock.now()
        end_run(run, state, detail, now)
        _SYNCS.add(1, {"modelyard.source": source.id, "modelyard.state": state.name})
        spec = sources_pb2.ModelSource.FromString(source.spec)
        source.next_sync_time = next_sync_time(spec, now)
        _release(source)
        uow.session.add_all([source, run])

    async def _renew(self, claim: Claim) -> None:
        """Give signs of life while a batch takes long."""
        while True:
            await asyncio.sleep(self._limits.lease_s / 3)
            try:
                async with self._database.unit_of_work() as uow:
                    source, _ = await self._held(uow, claim)
                    source.lease_until = self._lease_end(self._clock.now())
                    uow.session.add(source)
            except ClaimLost:
                return
            except DATABASE_ERRORS as error:
                log.warning("a lease is not renewed", source=claim.source, error=str(error))

    async def _held(self, uow: UnitOfWork, claim: Claim) -> tuple[SourceRow, SyncRunRow]:
        """The source, locked, and the run.

        Raises:
            ClaimLost: they are not this process's any more.
        """
        source = await queries.source_locked(uow.session, self._database, claim.source)
        if source is None or source.lease_owner != self._owner or source.revision != claim.revision:
            raise ClaimLost(claim.source)
        run = await queries.run(uow.session, claim.source, claim.run_uid)
        if run is None or SyncState(run.state).ended:
            raise ClaimLost(claim.source)
        return source, run

    def _lease_end(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._limits.lease_s)


def new_run(source: SourceRow, trigger: str, now: datetime) -> SyncRunRow:
    """A run that waits; its source counts it."""
    source.run_count += 1
    return SyncRunRow(
        uid=new_uid(),
        source=source.id,
        number=source.run_count,
        state=int(SyncState.PENDING),
        trigger=trigger,
        cursor="",
        counts={},
        failures=[],
        detail="",
        resume_count=0,
        create_time=now,
        start_time=None,
        end_time=None,
    )


def end_run(run: SyncRunRow, state: SyncState, detail: str, now: datetime) -> None:
    """Nothing is read by it any more."""
    run.state, run.detail, run.end_time, run.cursor = int(state), detail, now, ""


def next_sync_time(spec: sources_pb2.ModelSource, now: datetime) -> datetime | None:
    """When a source is synced next by itself."""
    return now + timedelta(seconds=spec.interval_s) if spec.interval_s and not spec.paused else None


async def remove_withdrawn(database: Database, clock: Clock, keep_s: float) -> int:
    """Remove models that left their source long enough ago and that no deployment serves; return how many.

    The time between is what keeps this from racing a deployment that was accepted just before the model left.
    """
    before = clock.now() - timedelta(seconds=keep_s)
    async with database.reader() as session:
        if not await queries.removable_models(session, before, 1):
            return 0
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        names = await queries.removable_models(uow.session, before, _PART)
        await queries.remove_models(uow, names)
    log.info("models that left their sources are removed", count=len(names))
    return len(names)


def _release(source: SourceRow) -> None:
    source.lease_owner, source.lease_until = "", None


def _count(run: SyncRunRow, batch: Batch, result: BatchResult) -> None:
    more = {
        "listed": len(result.taken),
        "added": len(result.added),
        "changed": len(result.changed),
        "unchanged": len(result.unchanged),
        "skipped": batch.skipped,
        "failed": len(result.failures),
    }
    run.counts = {**run.counts, **{name: run.counts.get(name, 0) + count for name, count in more.items()}}
    room = FAILURES_KEPT_MAX - len(run.failures)
    run.failures = [
        *run.failures,
        *({"model": one.model, "field": one.field, "reason": one.reason} for one in result.failures[:room]),
    ]


def _nothing_listed(known: int) -> Problem:
    return SourceUnavailable(
        f"it lists no model that is taken, and {known} are known of it: they stay as they are; correct its globs, or delete "
        "the source"
    )

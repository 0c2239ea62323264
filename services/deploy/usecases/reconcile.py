"""Bring what is observed to what is wanted, again and again; every pass may be the first after a crash."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from modelyard.catalog.v1 import catalog_pb2

from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database, UnitOfWork
from chassis.ids import new_uid
from chassis.telemetry import get_logger
from chassis.telemetry.metrics import meter
from services.deploy.compute.interface import ComputeProvider, InstanceView, LaunchRefused
from services.deploy.compute.interface import InstanceState as Observed
from services.deploy.domain.deployments import DeploymentState, InstanceState, derive_state, size
from services.deploy.events.published import instance_allocated, instance_observed, instance_released
from services.deploy.storage import queries
from services.deploy.storage.tables import DeploymentRow, InstanceRow, PoolRow
from services.deploy.usecases.changes import Changes
from services.deploy.usecases.launch import Launcher, digests
from services.deploy.usecases.routes import project_routes
from services.deploy.usecases.states import move
from services.deploy.weights.interface import WeightsInterrupted, WeightsRefused

log = get_logger(__name__)

_INSTANCES = meter.create_gauge("modelyard.instances", unit="{instance}", description="Instances by state.")
_DEPLOYMENTS = meter.create_gauge("modelyard.deployments", unit="{deployment}", description="Deployments by state.")


@dataclass(frozen=True, slots=True)
class ReconcileLimits:
    """How the loop behaves.

    `observe_s`: how often a living instance is published as seen, seconds. `pool_idle_s`: how long an unneeded pool
    stays warm. `failed_starts_max`: instances that may end by themselves in a row before a deployment is FAILED.
    `records_keep_s`: how long the provider's records and logs of an ended instance are kept, seconds.
    """

    observe_s: float = 60.0
    pool_idle_s: float = 300.0
    failed_starts_max: int = 3
    records_keep_s: float = 86_400.0


def _measure(living: Iterable[InstanceRow], deployments: Iterable[DeploymentRow]) -> None:
    """How many there are in each state; none is said too, so that a series falls to 0 instead of staying."""
    instances, wanted = Counter(row.state for row in living), Counter(row.state for row in deployments)
    for instance_state in InstanceState:
        _INSTANCES.set(instances[instance_state], {"modelyard.state": instance_state.name})
    for deployment_state in DeploymentState:
        _DEPLOYMENTS.set(wanted[deployment_state], {"modelyard.state": deployment_state.name})


class Reconciler:
    """Compares rows with the provider's instances and acts on the difference."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        provider: ComputeProvider,
        launcher: Launcher,
        limits: ReconcileLimits,
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._database = database
        self._clock = clock
        self._provider = provider
        self._launcher = launcher
        self._limits = limits
        self._interval_s = interval_s
        # Launches and terminations take seconds; one at a time per instance, beside the loop.
        self._acting: dict[str, asyncio.Task[None]] = {}
        # Launches that failed, and why, until a pass has recorded it.
        self._refused: dict[str, str] = {}
        self.wanted = Changes()
        self.observed = Changes()

    async def run(self) -> None:
        """Reconcile for ever: at once when something else is wanted, and every `interval_s`.

        While the database or the provider is away a pass is tried again; any other error is a bug and ends the service.
        """
        while True:
            wanted = self.wanted.count
            try:
                if await self.reconcile_once():
                    self.observed.signal()
            except DATABASE_ERRORS as error:
                log.warning("reconciling waits", error=f"{type(error).__name__}: {error}", retry_s=self._interval_s)
            await self.wanted.wait(self._interval_s, after=wanted)

    async def reconcile_once(self) -> bool:
        """One pass; True when a deployment changed.

        The time is read before the provider is: an instance is never said to have lived longer than it was seen.
        """
        # Read before the provider too: what is under way now may not be in its list.
        acting, refused = frozenset(self._acting), dict(self._refused)
        seen_ms = self._clock.now_ms()
        views = {view.instance_uid: view for view in await self._provider.list()}
        async with self._database.unit_of_work() as uow:
            endpoints = await queries.endpoints_with_routes(uow.session, self._database)
            deployments = {row.uid: row for row in await queries.living_deployments_locked(uow.session, self._database)}
            pools = {row.uid: row for row in await queries.pools_locked(uow.session, self._database)}
            # Nobody else changes instances.
            rows = await queries.living_instances(uow.session)
            owners: Mapping[str, DeploymentRow | PoolRow] = {**deployments, **pools}
            failures: dict[str, str] = {}
            for row in rows:
                why = self._observe(uow, row, views.get(row.uid), seen_ms, owners, acting=acting, refused=refused)
                if why is not None:
                    failures[row.owner_uid] = why
            living = [row for row in rows if row.state != InstanceState.RELEASED]
            living += self._size(uow, living, deployments, pools)
            changed = self._derive_states(uow, living, deployments, pools, failures)
            changed = bool(await project_routes(uow, endpoints, living)) or changed
        _measure(living, deployments.values())
        for uid in refused:
            del self._refused[uid]
        self._act(living, views, seen_ms, owners)
        return changed

    def _observe(
        self,
        uow: UnitOfWork,
        row: InstanceRow,
        view: InstanceView | None,
        seen_ms: int,
        owners: Mapping[str, DeploymentRow | PoolRow],
        *,
        acting: Collection[str],
        refused: Mapping[str, str],
    ) -> str | None:
        """Take over what was seen of one instance; return why its start failed, where it did."""
        uow.session.add(row)
        # Whatever ends one that never answered, its start failed, unless it was asked to end.
        starting = row.state == InstanceState.ALLOCATED
        if view is None:
            row.state_detail = self._launcher.progress(row.uid)
            why = refused.get(row.uid, "it vanished before it answered" if starting and row.seen else "")
            # One that was never seen is launched by `_act`, unless it was asked to end before that.
            if why or (row.uid not in acting and (row.seen or row.state == InstanceState.RELEASING)):
                self._release(uow, row, row.through_ms, "last-observed")
            return _count_failure(row, why, owners) if why else None
        row.limits = view.limits
        row.state_detail = view.detail
        if view.state.ended:
            broke = starting or (view.state is Observed.FAILED and row.state != InstanceState.RELEASING)
            self._release(uow, row, view.exited_at_ms or row.through_ms, "exit")
            return _count_failure(row, view.detail, owners) if broke else None
        row.through_ms = max(row.through_ms, seen_ms)
        row.address = view.address
        if row.state != InstanceState.RELEASING:
            state = _state_of(row, view)
            if starting and state is InstanceState.READY:
                _forget_failures(row, owners)
            row.state = int(state)
        if row.billable and row.through_ms - row.observed_ms >= self._limits.observe_s * 1000:
            row.observed_ms = row.through_ms
            uow.emit(instance_observed(row))
        return None

    def _release(self, uow: UnitOfWork, row: InstanceRow, at_ms: int, witness: str) -> None:
        """The life ends, never before what was published of it: its allocation and its last observation."""
        row.release_ms = max(at_ms, row.observed_ms, row.allocate_ms)
        row.through_ms = row.release_ms
        row.state = int(InstanceState.RELEASED)
        if row.billable:
            uow.emit(instance_released(row, row.release_ms, witness))
        log.info("instance released", instance=row.uid, witness=witness, detail=row.state_detail)

    def _size(
        self,
        uow: UnitOfWork,
        living: Sequence[InstanceRow],
        deployments: Mapping[str, DeploymentRow],
        pools: Mapping[str, PoolRow],
    ) -> list[InstanceRow]:
        """Make rows for what is missing and mark what is too many; return the new rows."""
        added: list[InstanceRow] = []
        by_owner: dict[str, list[str]] = {}
        by_uid = {row.uid: row for row in living}
        # Those that answer are kept before those that do not.
        for row in sorted(living, key=lambda row: row.state != InstanceState.READY):
            if row.state != InstanceState.RELEASING:
                by_owner.setdefault(row.owner_uid, []).append(row.uid)
        needed_pools = {row.pool_uid for row in deployments.values() if not row.deleting}
        wanted: list[tuple[str, int, int]] = [
            (row.uid, 0 if row.deleting else row.instance_count, row.failed_starts)
            for row in deployments.values()
            if not row.pool_uid
        ]
        for pool in pools.values():
            wanted.append((pool.uid, self._wanted_of_pool(uow, pool, needed_pools), pool.failed_starts))
        for owner_uid, count, failed_starts in wanted:
            sizing = size(by_owner.get(owner_uid, []), count)
            for uid in sizing.release:
                by_uid[uid].state = int(InstanceState.RELEASING)
                uow.session.add(by_uid[uid])
            if failed_starts < self._limits.failed_starts_max:
                for _ in range(sizing.allocate):
                    added.append(self._allocate(uow, deployments.get(owner_uid), pools.get(owner_uid)))
        return added

    def _wanted_of_pool(self, uow: UnitOfWork, pool: PoolRow, needed: set[str]) -> int:
        """One instance while a deployment needs it, and a while longer so that the next one finds it warm."""
        now = self._clock.now()
        if pool.uid in needed:
            if pool.idle_since is not None:
                pool.idle_since = None
                pool.failed_starts = 0
                uow.session.add(pool)
            return 1
        if pool.idle_since is None:
            pool.idle_since = now
            uow.session.add(pool)
        return int(now - pool.idle_since < timedelta(seconds=self._limits.pool_idle_s))

    def _allocate(self, uow: UnitOfWork, deployment: DeploymentRow | None, pool: PoolRow | None) -> InstanceRow:
        """Commit an instance's row, and the start of its billing, before it is launched."""
        owner = deployment or pool
        if owner is None:
            raise ValueError("an instance belongs to a deployment or to a pool")
        now_ms = self._clock.now_ms()
        row = InstanceRow(
            uid=new_uid(now_ms),
            deployment_uid=deployment.uid if deployment else "",
            pool_uid="" if deployment else owner.uid,
            project_uid=deployment.project_uid if deployment else "",
            vcpus=owner.vcpus,
            memory_bytes=owner.memory_bytes,
            state=int(InstanceState.ALLOCATED),
            state_detail="",
            address="",
            limits="",
            allocate_ms=now_ms,
            through_ms=now_ms,
            observed_ms=now_ms,
            release_ms=None,
            event_sequence=0,
        )
        uow.session.add(row)
        if deployment is not None:
            uow.emit(instance_allocated(row, deployment))
        return row

    def _derive_states(
        self,
        uow: UnitOfWork,
        living: Sequence[InstanceRow],
        deployments: Mapping[str, DeploymentRow],
        pools: Mapping[str, PoolRow],
        failures: Mapping[str, str],
    ) -> bool:
        """Move every deployment to where it is; True when one moved. `failures`: why starts failed in this pass."""
        by_owner: dict[str, list[InstanceRow]] = {}
        for row in living:
            by_owner.setdefault(row.owner_uid, []).append(row)
        changed = False
        for deployment in deployments.values():
            pool = pools.get(deployment.pool_uid)
            owner_uid = deployment.pool_uid or deployment.uid
            instances = by_owner.get(owner_uid, [])
            ready = sum(1 for row in instances if row.state == InstanceState.READY)
            failed_starts = pool.failed_starts if pool else deployment.failed_starts
            state = derive_state(
                DeploymentState(deployment.state),
                wanted=1 if pool else deployment.instance_count,
                # A serverless deployment goes when it is deleted, whatever the pool does.
                living=0 if pool and deployment.deleting else len(instances),
                ready=ready,
                deleting=deployment.deleting,
                gave_up=failed_starts >= self._limits.failed_starts_max,
            )
            # Why the last start failed stays until one succeeds.
            known = failures.get(owner_uid, deployment.state_detail if failed_starts else "")
            detail = _detail(state, instances, known)
            if (state, detail) == (deployment.state, deployment.state_detail):
                continue
            move(uow, self._clock, deployment, state, detail)
            changed = True
        return changed

    def _act(
        self,
        living: Sequence[InstanceRow],
        views: Mapping[str, InstanceView],
        seen_ms: int,
        owners: Mapping[str, DeploymentRow | PoolRow],
    ) -> None:
        """Launch what is allocated and not there, end what is releasing, end orphans, and forget the long gone."""
        known = {row.uid for row in living}
        for row in living:
            view = views.get(row.uid)
            if row.state == InstanceState.RELEASING and view is not None and not view.state.ended:
                self._start(row.uid, partial(self._provider.terminate, row.uid))
            elif row.state == InstanceState.RELEASING and self._launcher.is_pulling(row.uid):
                self._acting[row.uid].cancel()
            elif row.state == InstanceState.ALLOCATED and view is None and row.uid not in self._acting:
                self._start(row.uid, partial(self._launch, row, owners[row.owner_uid], self._in_use(living, owners)))
        for uid, view in views.items():
            if uid in known:
                continue
            if view.state.ended:
                if seen_ms - (view.exited_at_ms or 0) > self._limits.records_keep_s * 1000:
                    self._start(uid, partial(self._provider.forget, uid))
            else:
                log.warning("an instance that nobody wants is ended", instance=uid)
                self._start(uid, partial(self._provider.terminate, uid))

    def _start(self, uid: str, action: Callable[[], Awaitable[object]]) -> None:
        if uid in self._acting:
            return

        async def act() -> None:
            try:
                await action()
            except Exception:
                # A later pass tries again; not at once, since haste does not help what fails.
                log.exception("action on an instance failed", instance=uid)
            else:
                self.wanted.signal()
            finally:
                self._acting.pop(uid, None)

        self._acting[uid] = asyncio.create_task(act(), name=f"instance {uid}")

    async def _launch(self, row: InstanceRow, owner: DeploymentRow | PoolRow, in_use: Collection[str]) -> None:
        """Launch, or leave word why that cannot be: the next pass ends the row and counts a failed start."""
        try:
            version = catalog_pb2.ModelVersion.FromString(owner.version_facts)
            await self._launcher.launch(row, version, in_use=in_use)
        except (LaunchRefused, WeightsRefused, WeightsInterrupted) as refused:
            log.error("launch refused", instance=row.uid, why=str(refused))
            self._refused[row.uid] = str(refused)
        except Exception as error:
            log.exception("launch failed", instance=row.uid)
            self._refused[row.uid] = f"its launch failed with {type(error).__name__}; the log of deploy says more"

    def _in_use(self, living: Sequence[InstanceRow], owners: Mapping[str, DeploymentRow | PoolRow]) -> set[str]:
        """Digests of files that living instances need."""
        facts = {owners[row.owner_uid].version_facts for row in living if row.owner_uid in owners}
        return set().union(*(digests(catalog_pb2.ModelVersion.FromString(version)) for version in facts))

    async def release_all(self) -> None:
        """A clean stop of the platform: end every instance and record its end; the next start allocates anew.

        One that cannot be ended now stays in its row as releasing, and the next start ends it.
        """
        async with self._database.unit_of_work() as uow:
            endpoints = await queries.endpoints_with_routes(uow.session, self._database)
            rows = await queries.living_instances(uow.session)
            for row in rows:
                row.state = int(InstanceState.RELEASING)
                uow.session.add(row)
            await project_routes(uow, endpoints, rows)
        await asyncio.gather(*self._acting.values(), return_exceptions=True)
        alive = [view.instance_uid for view in await self._provider.list() if not view.state.ended]
        ends = await asyncio.gather(*map(self._provider.terminate, alive), return_exceptions=True)
        for uid, end in zip(alive, ends, strict=True):
            if isinstance(end, BaseException):
                log.error("instance not ended", instance=uid, error=f"{type(end).__name__}: {end}")
        seen_ms = self._clock.now_ms()
        views = {view.instance_uid: view for view in await self._provider.list()}
        async with self._database.unit_of_work() as uow:
            for row in await queries.living_instances(uow.session):
                self._observe(uow, row, views.get(row.uid), seen_ms, {}, acting=(), refused={})

    async def close(self) -> None:
        """Leave what is under way to the next process: launch and terminate may be repeated."""
        for task in list(self._acting.values()):
            task.cancel()
        await asyncio.gather(*self._acting.values(), return_exceptions=True)


def _state_of(row: InstanceRow, view: InstanceView) -> InstanceState:
    if view.state is Observed.READY:
        return InstanceState.READY
    # One that answered before and does not now is unhealthy; one that never did is still starting.
    return InstanceState.ALLOCATED if row.state == InstanceState.ALLOCATED else InstanceState.UNHEALTHY


def _count_failure(row: InstanceRow, why: str, owners: Mapping[str, DeploymentRow | PoolRow]) -> str:
    row.state_detail = why
    if (owner := owners.get(row.owner_uid)) is not None:
        owner.failed_starts += 1
    return why


def _forget_failures(row: InstanceRow, owners: Mapping[str, DeploymentRow | PoolRow]) -> None:
    """A start succeeded."""
    owner = owners.get(row.owner_uid)
    if owner is not None and owner.failed_starts:
        owner.failed_starts = 0


def _detail(state: DeploymentState, instances: Sequence[InstanceRow], failure: str) -> str:
    if state in (DeploymentState.ACTIVE, DeploymentState.DELETED):
        return ""
    return next((row.state_detail for row in instances if row.state_detail), failure)

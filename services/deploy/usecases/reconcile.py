"""Bring what is observed to what is wanted, again and again; every pass may be the first after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote, urlparse

from modelyard.catalog.v1 import catalog_pb2

from chassis.clock import Clock
from chassis.database import Database, UnitOfWork
from chassis.ids import new_uid
from chassis.telemetry import get_logger
from services.deploy.compute.interface import ComputeProvider, InstanceSpec, InstanceView, LaunchRefused
from services.deploy.compute.interface import InstanceState as Observed
from services.deploy.domain.deployments import DeploymentState, InstanceState, derive_state, size
from services.deploy.events.published import (
    deployment_changed,
    instance_allocated,
    instance_observed,
    instance_released,
)
from services.deploy.storage import queries
from services.deploy.storage.tables import DeploymentRow, InstanceRow, PoolRow
from services.deploy.usecases.routes import MODEL_NAME, project_routes

log = get_logger(__name__)


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


class Changes:
    """Wakes whoever waits for a change: the loop when something else is wanted, watchers when something is observed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def signal(self) -> None:
        """Wake everyone who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the next signal, or that long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return


class Reconciler:
    """Compares rows with the provider's instances and acts on the difference."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        provider: ComputeProvider,
        limits: ReconcileLimits,
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._database = database
        self._clock = clock
        self._provider = provider
        self._limits = limits
        self._interval_s = interval_s
        # Launches and terminations take seconds; one at a time per instance, beside the loop.
        self._acting: dict[str, asyncio.Task[None]] = {}
        self.wanted = Changes()
        self.observed = Changes()

    async def run(self) -> None:
        """Reconcile for ever: at once when something else is wanted, and every `interval_s`."""
        while True:
            if await self.reconcile_once():
                self.observed.signal()
            await self.wanted.wait(self._interval_s)

    async def reconcile_once(self) -> bool:
        """One pass; True when a deployment changed.

        The time is read before the provider is: an instance is never said to have lived longer than it was seen.
        """
        seen_ms = self._clock.now_ms()
        views = {view.instance_uid: view for view in await self._provider.list()}
        async with self._database.unit_of_work() as uow:
            rows = await queries.living_instances(uow.session)
            deployments = {row.uid: row for row in await queries.living_deployments(uow.session)}
            pools = {row.uid: row for row in await queries.pools(uow.session)}
            for row in rows:
                self._observe(uow, row, views.get(row.uid), seen_ms, deployments, pools)
            living = [row for row in rows if row.state != InstanceState.RELEASED]
            living += await self._size(uow, living, deployments, pools)
            changed = self._derive_states(uow, living, deployments, pools)
            changed = bool(await project_routes(uow, living)) or changed
        self._act(living, views, seen_ms, deployments, pools)
        return changed

    def _observe(
        self,
        uow: UnitOfWork,
        row: InstanceRow,
        view: InstanceView | None,
        seen_ms: int,
        deployments: Mapping[str, DeploymentRow],
        pools: Mapping[str, PoolRow],
    ) -> None:
        """Take over what was seen of one instance."""
        uow.session.add(row)
        if view is None:
            if row.state not in (InstanceState.ALLOCATED, InstanceState.RELEASING) or row.address:
                self._release(uow, row, row.through_ms, "last-observed")
            elif row.state == InstanceState.RELEASING and row.uid not in self._acting:
                # Asked to end before it was launched: it lived until now.
                self._release(uow, row, seen_ms, "exit")
            return
        if view.state.ended:
            if view.state is Observed.FAILED:
                _count_failure(row, view, deployments, pools)
            self._release(uow, row, view.exited_at_ms or row.through_ms, "exit")
            return
        row.through_ms = max(row.through_ms, seen_ms)
        row.limits = view.limits
        row.address = view.address
        row.state_detail = view.detail
        if row.state != InstanceState.RELEASING:
            row.state = int(_state_of(row, view))
        if row.state == InstanceState.READY:
            _forget_failures(row, deployments, pools)
        if row.billable and row.through_ms - row.observed_ms >= self._limits.observe_s * 1000:
            row.observed_ms = row.through_ms
            uow.emit(instance_observed(row))

    def _release(self, uow: UnitOfWork, row: InstanceRow, at_ms: int, witness: str) -> None:
        """The life ends, never before it was last seen and never before it began."""
        row.release_ms = max(at_ms, row.observed_ms, row.allocate_ms)
        row.through_ms = row.release_ms
        row.state = int(InstanceState.RELEASED)
        if row.billable:
            uow.emit(instance_released(row, row.release_ms, witness))
        log.info("instance released", instance=row.uid, witness=witness, detail=row.state_detail)

    async def _size(
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
        for row in living:
            if row.state != InstanceState.RELEASING:
                by_owner.setdefault(row.deployment_uid or row.pool_uid, []).append(row.uid)
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
    ) -> bool:
        """Move every deployment to where it is; True when one moved."""
        by_owner: dict[str, list[InstanceRow]] = {}
        for row in living:
            by_owner.setdefault(row.deployment_uid or row.pool_uid, []).append(row)
        changed = False
        for deployment in deployments.values():
            pool = pools.get(deployment.pool_uid)
            instances = by_owner.get(deployment.pool_uid or deployment.uid, [])
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
            detail = _detail(state, instances, deployment)
            if (state, detail) == (deployment.state, deployment.state_detail):
                continue
            deployment.state, deployment.state_detail = int(state), detail
            deployment.revision += 1
            uow.session.add(deployment)
            uow.emit(deployment_changed(deployment, self._clock.now()))
            log.info("deployment changed", deployment=deployment.resource, state=state.name, detail=detail)
            changed = True
        return changed

    def _act(
        self,
        living: Sequence[InstanceRow],
        views: Mapping[str, InstanceView],
        seen_ms: int,
        deployments: Mapping[str, DeploymentRow],
        pools: Mapping[str, PoolRow],
    ) -> None:
        """Launch what is allocated and not there, end what is releasing, end orphans, and forget the long gone."""
        known = {row.uid for row in living}
        for row in living:
            view = views.get(row.uid)
            if row.state == InstanceState.RELEASING and view is not None and not view.state.ended:
                self._start(row.uid, self._terminate(row.uid))
            elif row.state == InstanceState.ALLOCATED and view is None:
                owner = deployments.get(row.deployment_uid) or pools[row.pool_uid]
                self._start(row.uid, self._launch(row, owner.version_facts))
        for uid, view in views.items():
            if uid in known:
                continue
            if view.state.ended:
                if seen_ms - (view.exited_at_ms or 0) > self._limits.records_keep_s * 1000:
                    self._start(uid, self._provider.forget(uid))
            else:
                log.warning("an instance that nobody wants is ended", instance=uid)
                self._start(uid, self._terminate(uid))

    def _start(self, uid: str, action: object) -> None:
        if uid in self._acting:
            if asyncio.iscoroutine(action):
                action.close()
            return

        async def act() -> None:
            try:
                await action  # type: ignore[misc]
            except LaunchRefused as refused:
                log.error("launch refused", instance=uid, why=str(refused))
                await self._give_up(uid, str(refused))
            except Exception:
                log.exception("action on an instance failed", instance=uid)
            finally:
                self._acting.pop(uid, None)
                self.wanted.signal()

        self._acting[uid] = asyncio.create_task(act(), name=f"instance {uid}")

    async def _launch(self, row: InstanceRow, version_facts: bytes) -> None:
        version = catalog_pb2.ModelVersion.FromString(version_facts)
        spec = InstanceSpec(
            instance_uid=row.uid,
            engine=version.serving.engine,
            model_name=MODEL_NAME,
            artifacts={artifact.name: unquote(urlparse(artifact.uri).path) for artifact in version.artifacts},
            parameters=dict(version.serving.parameters),
            vcpus=row.vcpus,
            memory_bytes=row.memory_bytes,
        )
        await self._provider.launch(spec)

    async def _terminate(self, uid: str) -> None:
        await self._provider.terminate(uid)

    async def _give_up(self, uid: str, why: str) -> None:
        """A launch that can never work: release the row and count it as a failure."""
        async with self._database.unit_of_work() as uow:
            for row in await queries.living_instances(uow.session):
                if row.uid != uid:
                    continue
                row.state_detail = why
                owner = (
                    await queries.deployment_by_uid(uow.session, row.deployment_uid)
                    if row.deployment_uid
                    else next(pool for pool in await queries.pools(uow.session) if pool.uid == row.pool_uid)
                )
                if owner is not None:
                    owner.failed_starts += 1
                    uow.session.add(owner)
                self._release(uow, row, self._clock.now_ms(), "exit")
                uow.session.add(row)

    async def release_all(self) -> None:
        """A clean stop of the platform: end every instance and record its end; the next start allocates anew."""
        async with self._database.unit_of_work() as uow:
            for row in await queries.living_instances(uow.session):
                row.state = int(InstanceState.RELEASING)
                uow.session.add(row)
        await asyncio.gather(*self._acting.values(), return_exceptions=True)
        alive = [view.instance_uid for view in await self._provider.list() if not view.state.ended]
        await asyncio.gather(*map(self._provider.terminate, alive))
        seen_ms = self._clock.now_ms()
        views = {view.instance_uid: view for view in await self._provider.list()}
        async with self._database.unit_of_work() as uow:
            deployments = {row.uid: row for row in await queries.living_deployments(uow.session)}
            for row in await queries.living_instances(uow.session):
                self._observe(uow, row, views.get(row.uid), seen_ms, deployments, {})
            await project_routes(uow, await queries.living_instances(uow.session))

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


def _count_failure(
    row: InstanceRow,
    view: InstanceView,
    deployments: Mapping[str, DeploymentRow],
    pools: Mapping[str, PoolRow],
) -> None:
    row.state_detail = view.detail
    owner = deployments.get(row.deployment_uid) or pools.get(row.pool_uid)
    if owner is not None:
        owner.failed_starts += 1


def _forget_failures(row: InstanceRow, deployments: Mapping[str, DeploymentRow], pools: Mapping[str, PoolRow]) -> None:
    owner = deployments.get(row.deployment_uid) or pools.get(row.pool_uid)
    if owner is not None and owner.failed_starts:
        owner.failed_starts = 0


def _detail(state: DeploymentState, instances: Sequence[InstanceRow], deployment: DeploymentRow) -> str:
    if state in (DeploymentState.ACTIVE, DeploymentState.DELETED):
        return ""
    reported = next((row.state_detail for row in instances if row.state_detail), "")
    return reported or (deployment.state_detail if state is DeploymentState.FAILED else "")

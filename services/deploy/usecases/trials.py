"""Models that are tried without a deployment: endpoints of the platform's own project, kept while they are used."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from modelyard.deploy.v1 import deploy_pb2, trials_pb2

from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database, UnitOfWork
from chassis.ids import new_uid
from chassis.telemetry import get_logger
from services.deploy.domain.errors import TrialsExhausted
from services.deploy.events.published import project_access, project_created
from services.deploy.storage import queries
from services.deploy.storage.tables import EndpointRow, ProjectRow, TrialRow
from services.deploy.usecases.acceptance import Answers, Limits
from services.deploy.usecases.changes import Changes
from services.deploy.usecases.deployments import put_serverless, refuse_failed
from services.deploy.usecases.endpoints import SERVERLESS, end_endpoint
from services.deploy.usecases.projects import PLATFORM_PROJECT
from services.deploy.usecases.versions import caught_up

log = get_logger(__name__)
DEPLOYMENT_NAME = "trial"
# One that was used this short a time ago is not ended for another.
IN_USE_S = 60.0


@dataclass(frozen=True)
class TrialLimits:
    """`trials_max`: models that are tried at once. `idle_s`: how long an unused one stays, seconds."""

    trials_max: int = 4
    idle_s: float = 600.0


async def ensure_trial(
    database: Database, clock: Clock, answers: Answers, limits: Limits, trial_limits: TrialLimits
) -> trials_pb2.Trial:
    """Make a version callable for trials, or keep it so.

    Its calls are recorded under the platform's project, without a rate: nobody pays, and no token is lost.

    Args:
        answers: What the catalog says to the project that asks: its policy and accepted licences count.

    Raises:
        Problem: the catalog's refusal, such as POLICY_REFUSED.
        VersionRetired, VersionDeprecated: the catalog announced it after it was asked.
        TrialsExhausted: too many others are in use.
        CapacityExceeded: the platform has no room.
    """
    refuse_failed(answers)
    version, now = answers.version, clock.now()
    async with database.unit_of_work() as uow:
        project = await _platform_project(uow, database, now)
        name = endpoint_name(version.name)
        endpoint = await queries.endpoint_locked(uow.session, database, project.uid, name)
        if endpoint is None:
            await _make_room(uow, database, clock, trial_limits)
            endpoint = _endpoint(project, name, now)
            uow.session.add(endpoint)
            request = deploy_pb2.CreateDeploymentRequest(deployment_id=DEPLOYMENT_NAME)
            answers = replace(answers, version=await caught_up(uow, database, version))
            deployment = await put_serverless(uow, database, endpoint, request, answers, now, limits)
            uow.session.add(TrialRow(endpoint_uid=endpoint.uid, model_version=version.name, use_time=now))
        else:
            (deployment,) = await queries.deployments_of(uow.session, [endpoint.uid])
            trial = await queries.trial(uow.session, endpoint.uid)
            trial.use_time = now
            uow.session.add(trial)
        return trials_pb2.Trial(
            project_uid=project.uid,
            endpoint=name,
            model_version=version.name,
            state=deploy_pb2.DeploymentState.ValueType(deployment.state),
            state_detail=deployment.state_detail,
        )


async def end_idle_trials(database: Database, clock: Clock, idle_s: float) -> int:
    """End every trial that nobody kept; return how many."""
    before = clock.now() - timedelta(seconds=idle_s)
    async with database.unit_of_work() as uow:
        project = await queries.project(uow.session, PLATFORM_PROJECT)
        if project is None:
            return 0
        # Nobody keeps one while it is ended.
        await queries.project_locked(uow.session, database, project.uid)
        idle = await queries.trials_unused_since(uow.session, before)
        for trial in idle:
            await _end(uow, database, clock, trial)
    return len(idle)


async def watch_trials(database: Database, clock: Clock, wanted: Changes, idle_s: float) -> None:
    """End idle trials for ever; while the database is away they stay."""
    while True:
        try:
            if await end_idle_trials(database, clock, idle_s):
                wanted.signal()
        except DATABASE_ERRORS as error:
            log.warning("idle trials wait", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(min(idle_s / 4, 30.0))


def endpoint_name(version: str) -> str:
    """The endpoint a version is tried behind."""
    return f"trial-{hashlib.sha256(version.encode()).hexdigest()[:24]}"


async def _platform_project(uow: UnitOfWork, database: Database, now: datetime) -> ProjectRow:
    """The platform's own project, made when it is first needed; its row orders what happens to trials."""
    row = ProjectRow(uid=new_uid(), name=PLATFORM_PROJECT, members={}, revision=1, create_time=now)
    table = queries.table(ProjectRow)
    if await database.insert_ignoring(uow, table, [row.model_dump()], returning=[table.c.uid]):
        uow.emit(project_created(row))
        uow.project(project_access(row))
    found = await queries.project(uow.session, PLATFORM_PROJECT)
    if found is None:
        raise LookupError(f"project {PLATFORM_PROJECT!r} was made and is not there")
    return await queries.project_locked(uow.session, database, found.uid)


def _endpoint(project: ProjectRow, name: str, now: datetime) -> EndpointRow:
    return EndpointRow(
        uid=new_uid(),
        project_uid=project.uid,
        project=project.name,
        name=name,
        kind=SERVERLESS,
        traffic={DEPLOYMENT_NAME: 100},
        deleted=False,
        revision=1,
        route_sequence=0,
        route_digest="",
        create_time=now,
    )


async def _make_room(uow: UnitOfWork, database: Database, clock: Clock, limits: TrialLimits) -> None:
    """End the trial that was unused longest where there are as many as may be."""
    trials = await queries.trials(uow.session)
    if len(trials) < limits.trials_max:
        return
    oldest = min(trials, key=lambda trial: trial.use_time)
    unused_s = (clock.now() - oldest.use_time).total_seconds()
    if unused_s < IN_USE_S:
        raise TrialsExhausted(
            f"{len(trials)} models are being tried and {limits.trials_max} are allowed at once "
            "(MODELYARD_DEPLOY_TRIALS_MAX); try again in a minute, or deploy the model",
            retry_after_s=IN_USE_S - unused_s,
        )
    await _end(uow, database, clock, oldest)


async def _end(uow: UnitOfWork, database: Database, clock: Clock, trial: TrialRow) -> None:
    endpoint = await queries.endpoint_by_uid_locked(uow.session, database, trial.endpoint_uid)
    if endpoint is not None:
        await end_endpoint(uow, database, clock, endpoint)
    await uow.session.delete(trial)

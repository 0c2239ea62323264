"""TrialService."""

from __future__ import annotations

from typing import Any

from modelyard.deploy.v1 import trials_pb2, trials_pb2_grpc

from chassis.clock import Clock
from chassis.database import Database
from services.deploy.rpc.neighbours import Neighbours
from services.deploy.storage.convert import PROJECT
from services.deploy.usecases.acceptance import Limits
from services.deploy.usecases.changes import Changes
from services.deploy.usecases.trials import TrialLimits, ensure_trial

Context = Any


class TrialServicer(trials_pb2_grpc.TrialServiceServicer):
    """Makes models callable for trials."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        neighbours: Neighbours,
        wanted: Changes,
        limits: Limits,
        trial_limits: TrialLimits,
    ) -> None:
        self._database = database
        self._clock = clock
        self._neighbours = neighbours
        self._wanted = wanted
        self._limits = limits
        self._trial_limits = trial_limits

    async def EnsureTrial(self, request: trials_pb2.EnsureTrialRequest, context: Context) -> trials_pb2.Trial:
        project = PROJECT.parse(request.parent, "parent")["project"]
        answers = await self._neighbours.check(project, request.model)
        trial = await ensure_trial(self._database, self._clock, answers, self._limits, self._trial_limits)
        self._wanted.signal()
        return trial

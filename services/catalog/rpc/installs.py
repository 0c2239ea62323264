"""InstallService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from modelyard.catalog.v1 import installs_pb2, installs_pb2_grpc

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.names import MODEL
from services.catalog.sources.packages import PackageStore
from services.catalog.usecases.install_model import install_model

Context = Any


class InstallServicer(installs_pb2_grpc.InstallServiceServicer):
    """Installs models of the content folder."""

    def __init__(self, database: Database, clock: Clock, folder: Path, packages: PackageStore, notice: Notice) -> None:
        self._database = database
        self._clock = clock
        self._folder = folder
        self._packages = packages
        self._notice = notice

    async def InstallModel(
        self, request: installs_pb2.InstallModelRequest, context: Context
    ) -> AsyncIterator[installs_pb2.InstallModelResponse]:
        MODEL.parse(request.name)
        steps = install_model(self._database, self._clock, self._folder, self._packages, self._notice, request.name)
        async with aclosing(steps):
            async for installing in steps:
                yield installs_pb2.InstallModelResponse(
                    step=installs_pb2.InstallStep.Value(f"INSTALL_STEP_{installing.step.name}"),
                    bytes_done=installing.bytes_done,
                    bytes_total=installing.bytes_total,
                )

"""Install what a model needs, and read the content again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.errors import InstallFailed, InstallNotOffered, ModelNotFound
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.names import MODEL
from services.catalog.sources.content import Model
from services.catalog.sources.content_files import read_content
from services.catalog.sources.packages import PackageStore
from services.catalog.sources.shipped import pins_of
from services.catalog.storage.queries.models import model as stored_model
from services.catalog.usecases.sync_content import sync_content


class InstallStep(Enum):
    """The names are those of `modelyard.catalog.v1.InstallStep`."""

    FETCHING = "FETCHING"
    UNPACKING = "UNPACKING"
    READING = "READING"
    DONE = "DONE"


@dataclass(frozen=True, slots=True)
class Installing:
    """How far it is; `bytes_total` is about the size of all wheels, 0 where nothing is fetched."""

    step: InstallStep
    bytes_done: int
    bytes_total: int


async def install_model(
    database: Database, clock: Clock, folder: Path, packages: PackageStore, notice: Notice, name: str
) -> AsyncGenerator[Installing, None]:
    """Install a model of the content folder; at the end it runs here.

    What is here already is not fetched again. Closing the iterator ends the work.

    Args:
        notice: What is promised before a version ends; the content is read anew.

    Raises:
        ModelNotFound: no such model.
        InstallNotOffered: nothing of it is installed on demand.
        InstallFailed, InstallRunning: see `PackageStore.install`; or its files are not those the catalog describes.
    """
    model = await _installable(database, folder, name)
    pins = [pin for version in model.versions for pin in pins_of(folder, version)]
    total = sum(version.install.download_bytes for version in model.versions if version.install)
    total = total if packages.missing(pins) else 0
    async with aclosing(packages.install(pins)) as steps:
        async for progress in steps:
            yield Installing(InstallStep[progress.step.name], min(progress.bytes_done, total), total)
    yield Installing(InstallStep.READING, total, total)
    await sync_content(database, clock, folder, packages, notice)
    async with database.reader() as session:
        row = await stored_model(session, name)
    if row is None or row.usability != "RUNS_HERE":
        raise InstallFailed(f"{name!r} is installed and still does not run here: {row.usability_detail if row else ''}")
    yield Installing(InstallStep.DONE, total, total)


async def _installable(database: Database, folder: Path, name: str) -> Model:
    content = await asyncio.to_thread(read_content, folder)
    for model in content.models:
        if MODEL.format(publisher=model.publisher, model=model.id) == name:
            if any(version.install for version in model.versions):
                return model
            break
    async with database.reader() as session:
        row = await stored_model(session, name)
    if row is None:
        raise ModelNotFound(f"model {name!r} does not exist; `modelyard models` shows those that do", field="name")
    why = "it runs here already" if row.usability == "RUNS_HERE" else row.usability_detail
    raise InstallNotOffered(f"nothing of {name!r} is installed on demand: {why}", field="name")

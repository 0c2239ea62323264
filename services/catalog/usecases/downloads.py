"""Give out the files of versions: found, allowed, and read in order with a bound on how many are read at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing

from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.telemetry import observe
from services.catalog.artifacts.sources import ByteSources
from services.catalog.domain.checks import short_model
from services.catalog.domain.downloads import Download
from services.catalog.domain.errors import (
    ArtifactNotFound,
    DownloadsBusy,
    LicenseNotAccepted,
    WeightsNotHere,
    WeightsNotOffered,
)
from services.catalog.storage.queries import governance
from services.catalog.storage.tables import ModelRow, VersionRow

_NAMES_SHOWN_MAX = 10
_BUSY_RETRY_S = 2.0


def find_file(model: ModelRow, version: VersionRow, artifact: str, *, for_service: bool) -> Download:
    """A file of a version that may be given out.

    Args:
        for_service: Deploy needs weights of serverless models too; users get those of managed ones only.

    Raises:
        WeightsNotOffered: the model is serverless only.
        WeightsNotHere: nothing of it is on this platform.
        ArtifactNotFound: the version has other files.
    """
    if "MANAGED" not in model.facts.get("deployment_options", ()) and not for_service:
        raise WeightsNotOffered(
            f"{version.name} is offered as a serverless API only, so its weights are not given out; "
            "`modelyard models --help` says how to find those that are"
        )
    by_name = {stored["name"]: stored for stored in version.artifacts}
    if not by_name:
        why = model.usability_detail or "its files are not part of this platform"
        raise WeightsNotHere(f"the weights of {version.name} are not here: {why}")
    found = by_name.get(artifact)
    if found is None:
        shown = ", ".join(sorted(by_name)[:_NAMES_SHOWN_MAX])
        raise ArtifactNotFound(f"{version.name} has no file {artifact[:200]!r}; it has {shown}", field="artifact")
    if not found["uri"]:
        why = model.usability_detail or "its file is missing"
        raise WeightsNotHere(f"{artifact!r} of {version.name} is not here: {why}")
    return Download(
        model_version=version.name,
        version_uid=version.uid,
        project_uid=model.project_uid,
        artifact=artifact,
        sha256=found["sha256"],
        size_bytes=found["size_bytes"],
        uri=found["uri"],
    )


async def check_license(session: AsyncSession, model: ModelRow, project_uids: Collection[str]) -> None:
    """Whether one of some projects has accepted the licence of a model that asks for it.

    Raises:
        LicenseNotAccepted: none has.
    """
    if not model.facts.get("acceptance_required") or await governance.is_accepted(
        session, project_uids, model.license_digest
    ):
        return
    raise LicenseNotAccepted(
        f"licence {model.license_id} of {model.name} asks for the acceptance of its text, and none of your projects has "
        f"given it; `modelyard licenses accept {short_model(model.name)} --project PROJECT` shows the text and accepts it",
        metadata={"digest": model.license_digest},
    )


class DownloadReader:
    """Reads files, at most `running_max` at once: each holds a piece of 2 MiB while its client is slow."""

    def __init__(self, sources: ByteSources, *, running_max: int) -> None:
        self._sources = sources
        self._places = asyncio.Semaphore(running_max)
        self._running_max = running_max
        self.running = 0
        observe(
            "modelyard.downloads.running",
            lambda: float(self.running),
            unit="{download}",
            description="Downloads that run.",
        )

    async def read(self, file: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The file's bytes from `start` up to, not including, `stop`.

        Raises:
            DownloadsBusy: as many run as may.
            Problem: they cannot be read, see `ByteSource.read`.
        """
        if self._places.locked():
            raise DownloadsBusy(
                f"{self._running_max} downloads run, as many as may; try again, or raise "
                "MODELYARD_CATALOG_DOWNLOADS_MAX",
                retry_after_s=_BUSY_RETRY_S,
            )
        async with self._places:
            self.running += 1
            try:
                async with aclosing(self._sources.read(file, start, stop)) as pieces:
                    async for piece in pieces:
                        yield piece
            finally:
                self.running -= 1

"""Check uploads that came whole, and let their files into the store; sweep what was left behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from chassis.clock import Clock
from chassis.database import DATABASE_ERRORS, Database
from chassis.telemetry import get_logger
from services.catalog.artifacts.scanning.process import scan_apart
from services.catalog.artifacts.scanning.refusal import Refusal
from services.catalog.artifacts.scanning.scan import Scanned
from services.catalog.artifacts.store import ArtifactStore
from services.catalog.domain.errors import StoreUnavailable
from services.catalog.domain.uploads import ContentState, UploadLimits, UploadState
from services.catalog.storage.queries import registry
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import ContentRow, ProjectContentRow, UploadRow

log = get_logger(__name__)

# How long a process has an upload to itself before it says again that it does, seconds.
_CLAIM_S = 60.0
_BATCH = 20
# Uploads with parts in the store that are looked at in one sweep.
_STRAYS = 500


class UploadChecker:
    """Works off uploads that are whole, a few at a time; each may be the first one after a crash.

    Args:
        folder: Of this process alone; files are put together there to be looked at.
        scan_s_max: Longest look at one file, seconds.
        checks_max: Files at once.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        store: ArtifactStore,
        limits: UploadLimits,
        folder: Path,
        *,
        scan_s_max: float = 300.0,
        checks_max: int = 2,
    ) -> None:
        self._database = database
        self._clock = clock
        self._store = store
        self._limits = limits
        self._folder = folder
        self._scan_s_max = scan_s_max
        self._checks_max = checks_max
        self.wanted = asyncio.Event()

    async def run(self, *, idle_s: float = 5.0, sweep_s: float = 60.0) -> None:
        """Check and sweep for ever; while the database or the store is away, what waits is tried again."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What a process that died had put together.
        for left in self._folder.iterdir():
            left.unlink()
        swept_at = self._clock.now()
        while True:
            self.wanted.clear()
            try:
                while await self.check_some():
                    pass
                if self._clock.now() >= swept_at:
                    await self.sweep()
                    swept_at = self._clock.now() + timedelta(seconds=sweep_s)
            except (*DATABASE_ERRORS, StoreUnavailable) as error:
                log.warning("uploads wait", error=f"{type(error).__name__}: {error}", retry_s=idle_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(idle_s):
                    await self.wanted.wait()

    async def check_some(self) -> int:
        """Check uploads that wait, as many as go at once; how many were decided."""
        async with self._database.reader() as session:
            waiting = await registry.uploads_to_check(session, self._clock.now(), self._checks_max)
        decided = await asyncio.gather(*(self._check(row.uid) for row in waiting))
        return sum(decided)

    async def _check(self, upload_uid: str) -> bool:
        async with self._claimed(upload_uid) as row:
            if row is None:
                return False
            path = self._folder / row.uid
            try:
                decided = await self._decide(row, path)
            except (StoreUnavailable, OSError) as away:
                # Also where this machine's disk is full: the file is looked at again when there is room.
                log.warning("an upload waits", upload=upload_uid, why=f"{type(away).__name__}: {away}")
                return False
            finally:
                path.unlink(missing_ok=True)
            if decided:
                # What this leaves behind goes with the upload's row.
                with contextlib.suppress(StoreUnavailable):
                    await self._store.remove_parts(row.uid)
        return decided

    async def _decide(self, row: UploadRow, path: Path) -> bool:
        """Whether the file was taken or refused; it waits while its content is on its way out."""
        found = await self._assemble(row, path)
        if found != row.sha256:
            await self._refuse(row, f"what came has digest {found}; {row.sha256} was announced: upload it again")
            return True
        try:
            scanned = await scan_apart(path, timeout_s=self._scan_s_max)
        except Refusal as refusal:
            await self._refuse(row, f"the file is not taken: {refusal}")
            return True
        return await self._take_in(row, path, scanned)

    async def _assemble(self, row: UploadRow, path: Path) -> str:
        """Put the parts together in a file; its digest."""
        async with self._database.reader() as session:
            parts = await registry.parts(session, row.uid)
        digest = hashlib.sha256()

        def append(data: bytes) -> None:
            digest.update(data)
            with path.open("ab") as file:
                file.write(data)

        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        for part in parts:
            data = await self._store.read_part(row.uid, part.part)
            await asyncio.to_thread(append, data)
        return digest.hexdigest()

    async def _take_in(self, row: UploadRow, path: Path, scanned: Scanned) -> bool:
        """The content enters the store, and only then does anybody have it; False while it is on its way out."""
        if await self._enters(row, scanned):
            await self._store.put(path, row.sha256)
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            content = await registry.content_locked(uow.session, self._database, row.sha256)
            upload = await registry.upload_locked(uow.session, self._database, row.uid)
            if content is None or content.state == ContentState.LEAVING:
                return False
            content.state = int(ContentState.STORED)
            uow.session.add(content)
            if upload is None or upload.state != UploadState.CHECKING:
                return True
            owned = table(ProjectContentRow)
            values = {"project_uid": row.project_uid, "sha256": row.sha256, "upload_time": now}
            await self._database.insert_ignoring(uow, owned, [values], returning=[owned.c.sha256])
            await registry.touch_owned(uow.session, row.project_uid, [row.sha256], now)
            upload.state, upload.update_time = int(UploadState.STORED), now
            uow.session.add(upload)
        log.info("upload stored", upload=row.uid, sha256=row.sha256, format=scanned.format)
        return True

    async def _enters(self, row: UploadRow, scanned: Scanned) -> bool:
        """Whether the content has to be put: it is not in the store, or whoever put it may have died on the way.

        One that is on its way out is waited for: its upload is checked again later.
        """
        async with self._database.unit_of_work() as uow:
            content = await registry.content_locked(uow.session, self._database, row.sha256)
            if content is not None:
                return content.state == ContentState.ENTERING
            contents = table(ContentRow)
            values = {
                "sha256": row.sha256,
                "size_bytes": row.size_bytes,
                "format": scanned.format,
                "facts": scanned.facts,
                "state": int(ContentState.ENTERING),
                "create_time": self._clock.now(),
            }
            await self._database.insert_ignoring(uow, contents, [values], returning=[contents.c.sha256])
            return True

    async def _refuse(self, row: UploadRow, why: str) -> None:
        async with self._database.unit_of_work() as uow:
            upload = await registry.upload_locked(uow.session, self._database, row.uid)
            if upload is not None and upload.state == UploadState.CHECKING:
                upload.state, upload.detail = int(UploadState.REFUSED), why
                upload.update_time = self._clock.now()
                uow.session.add(upload)
        log.info("upload refused", upload=row.uid, why=why)

    @contextlib.asynccontextmanager
    async def _claimed(self, upload_uid: str) -> AsyncIterator[UploadRow | None]:
        """An upload that no other process checks meanwhile; None where one does, or where it is decided."""
        row = await self._claim(upload_uid, first=True)
        if row is None:
            yield None
            return
        renewing = asyncio.create_task(self._renew(upload_uid))
        try:
            yield row
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._release(upload_uid)

    async def _renew(self, upload_uid: str) -> None:
        while True:
            await asyncio.sleep(_CLAIM_S / 3)
            with contextlib.suppress(*DATABASE_ERRORS):
                await self._claim(upload_uid, first=False)

    async def _claim(self, upload_uid: str, *, first: bool) -> UploadRow | None:
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            row = await registry.upload_locked(uow.session, self._database, upload_uid)
            if row is None or row.state != UploadState.CHECKING:
                return None
            if first and row.claimed_until is not None and row.claimed_until >= now:
                return None
            row.claimed_until = now + timedelta(seconds=_CLAIM_S)
            uow.session.add(row)
            return row

    async def _release(self, upload_uid: str) -> None:
        async with self._database.unit_of_work() as uow:
            row = await registry.upload_locked(uow.session, self._database, upload_uid)
            if row is not None:
                row.claimed_until = None
                uow.session.add(row)

    async def sweep(self) -> int:
        """Drop uploads that were given up and contents that nobody has; how many of both went.

        Each goes in steps that may be done again: marked, then out of the store, then out of the database.
        """
        gone = 0
        now = self._clock.now()
        async with self._database.reader() as session:
            idle = await registry.idle_uploads(session, now - timedelta(seconds=self._limits.idle_s), now, _BATCH)
        for row in idle:
            gone += await self._drop_upload(row)
        await self._drop_strays()
        unused = now - timedelta(seconds=self._limits.unused_s)
        async with self._database.unit_of_work() as uow:
            await registry.drop_unused(uow.session, unused)
            leaving = await registry.leaving_contents(uow.session, _BATCH)
        for content in leaving:
            gone += await self._drop_content(content.sha256)
        return gone

    async def _drop_upload(self, row: UploadRow) -> bool:
        async with self._database.unit_of_work() as uow:
            upload = await registry.upload_locked(uow.session, self._database, row.uid)
            if upload is None or (upload.update_time, upload.claimed_until) != (row.update_time, row.claimed_until):
                return False
            upload.state = int(UploadState.DROPPED)
            uow.session.add(upload)
        await self._store.remove_parts(row.uid)
        async with self._database.unit_of_work() as uow:
            await registry.forget_upload(uow.session, row.uid)
        return True

    async def _drop_strays(self) -> None:
        """Parts that came while their upload was dropped: no row knows of them any more."""
        stored = (await self._store.uploads())[:_STRAYS]
        async with self._database.reader() as session:
            known = await registry.known_uploads(session, stored)
        for uid in stored:
            if uid not in known:
                await self._store.remove_parts(uid)

    async def _drop_content(self, sha256: str) -> bool:
        async with self._database.unit_of_work() as uow:
            content = await registry.content_locked(uow.session, self._database, sha256)
            if content is None or await registry.is_owned(uow.session, sha256):
                return False
            content.state = int(ContentState.LEAVING)
            uow.session.add(content)
        await self._store.remove(sha256)
        async with self._database.unit_of_work() as uow:
            await registry.forget_content(uow.session, sha256)
        log.info("content dropped", sha256=sha256)
        return True

"""Uploads, contents, and which versions hold them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import Database
from services.catalog.domain.uploads import ContentState, UploadState
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import (
    ContentRow,
    ModelRow,
    ProjectContentRow,
    UploadPartRow,
    UploadRow,
    VersionContentRow,
)

_UPLOAD, _PART, _CONTENT = table(UploadRow), table(UploadPartRow), table(ContentRow)
_OWNED, _HELD, _MODEL = table(ProjectContentRow), table(VersionContentRow), table(ModelRow)
_OPEN = (int(UploadState.RECEIVING), int(UploadState.CHECKING))


async def upload(session: AsyncSession, project_uid: str, uid: str) -> UploadRow | None:
    """An upload of a project that was not given up."""
    query = select(UploadRow).where(
        _UPLOAD.c.uid == uid, _UPLOAD.c.project_uid == project_uid, _UPLOAD.c.state != int(UploadState.DROPPED)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def upload_locked(session: AsyncSession, database: Database, uid: str) -> UploadRow | None:
    """An upload that is about to change."""
    query = database.locking(select(UploadRow).where(_UPLOAD.c.uid == uid))
    return (await session.execute(query)).scalar_one_or_none()


async def uploads_page(session: AsyncSession, project_uid: str, before: str, limit: int) -> list[UploadRow]:
    """Uploads of a project, newest first, older than a uid; empty begins with the newest."""
    query = (
        select(UploadRow)
        .where(_UPLOAD.c.project_uid == project_uid, _UPLOAD.c.state != int(UploadState.DROPPED))
        .order_by(_UPLOAD.c.uid.desc())
        .limit(limit)
    )
    if before:
        query = query.where(_UPLOAD.c.uid < before)
    return list((await session.execute(query)).scalars())


async def open_uploads(session: AsyncSession, project_uid: str) -> tuple[int, int]:
    """How many uploads of a project are not done, and how many bytes they announced."""
    query = select(func.count(), func.coalesce(func.sum(_UPLOAD.c.size_bytes), 0)).where(
        _UPLOAD.c.project_uid == project_uid, _UPLOAD.c.state.in_(_OPEN)
    )
    count, size_bytes = (await session.execute(query)).one()
    return int(count), int(size_bytes)


async def project_bytes(session: AsyncSession, project_uid: str) -> int:
    """How much a project has in the store."""
    query = (
        select(func.coalesce(func.sum(_CONTENT.c.size_bytes), 0))
        .select_from(_OWNED.join(_CONTENT, _CONTENT.c.sha256 == _OWNED.c.sha256))
        .where(_OWNED.c.project_uid == project_uid)
    )
    return int((await session.execute(query)).scalar_one())


async def uploads_to_check(session: AsyncSession, now: datetime, limit: int) -> list[UploadRow]:
    """Uploads that are whole and that no process checks now, oldest first."""
    query = (
        select(UploadRow)
        .where(
            _UPLOAD.c.state == int(UploadState.CHECKING),
            _UPLOAD.c.claimed_until.is_(None) | (_UPLOAD.c.claimed_until < now),
        )
        .order_by(_UPLOAD.c.uid)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def idle_uploads(session: AsyncSession, before: datetime, now: datetime, limit: int) -> list[UploadRow]:
    """Uploads that nothing happened to since a moment, and those that are given up; none that a process checks now."""
    query = (
        select(UploadRow)
        .where(
            (_UPLOAD.c.state == int(UploadState.DROPPED)) | (_UPLOAD.c.update_time < before),
            _UPLOAD.c.claimed_until.is_(None) | (_UPLOAD.c.claimed_until < now),
        )
        .order_by(_UPLOAD.c.uid)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def known_uploads(session: AsyncSession, uids: Sequence[str]) -> set[str]:
    """Those of some uids that are of uploads, also of ones that are given up."""
    return set((await session.execute(select(_UPLOAD.c.uid).where(_UPLOAD.c.uid.in_(uids)))).scalars())


async def forget_upload(session: AsyncSession, uid: str) -> None:
    """Drop an upload's rows; its parts have left the store."""
    await session.execute(delete(_PART).where(_PART.c.upload_uid == uid))
    await session.execute(delete(_UPLOAD).where(_UPLOAD.c.uid == uid))


async def parts(session: AsyncSession, upload_uid: str) -> list[UploadPartRow]:
    """The parts of an upload in their order."""
    query = select(UploadPartRow).where(_PART.c.upload_uid == upload_uid).order_by(_PART.c.start_bytes)
    return list((await session.execute(query)).scalars())


async def content(session: AsyncSession, sha256: str) -> ContentRow | None:
    """A content, wherever it is on its way."""
    return (await session.execute(select(ContentRow).where(_CONTENT.c.sha256 == sha256))).scalar_one_or_none()


async def content_locked(session: AsyncSession, database: Database, sha256: str) -> ContentRow | None:
    """A content that is about to change."""
    query = database.locking(select(ContentRow).where(_CONTENT.c.sha256 == sha256))
    return (await session.execute(query)).scalar_one_or_none()


async def owned_content(session: AsyncSession, project_uid: str, sha256: str) -> ContentRow | None:
    """A content that a project has, in the store."""
    found = await owned_contents(session, project_uid, [sha256])
    return found.get(sha256)


async def owned_contents(session: AsyncSession, project_uid: str, digests: Sequence[str]) -> dict[str, ContentRow]:
    """Those of some contents that a project has, by digest."""
    query = (
        select(ContentRow)
        .join(_OWNED, _OWNED.c.sha256 == _CONTENT.c.sha256)
        .where(
            _OWNED.c.project_uid == project_uid,
            _CONTENT.c.sha256.in_(digests),
            _CONTENT.c.state == int(ContentState.STORED),
        )
    )
    return {row.sha256: row for row in (await session.execute(query)).scalars()}


async def touch_owned(session: AsyncSession, project_uid: str, digests: Sequence[str], now: datetime) -> None:
    """These contents of a project were used now."""
    await session.execute(
        update(_OWNED).where(_OWNED.c.project_uid == project_uid, _OWNED.c.sha256.in_(digests)).values(upload_time=now)
    )


async def drop_unused(session: AsyncSession, before: datetime) -> None:
    """Projects lose contents that none of their versions holds and that they uploaded before a moment."""
    held = select(_HELD.c.sha256).where(_HELD.c.sha256 == _OWNED.c.sha256, _HELD.c.project_uid == _OWNED.c.project_uid)
    await session.execute(delete(_OWNED).where(_OWNED.c.upload_time < before, ~held.exists()))


async def leaving_contents(session: AsyncSession, limit: int) -> list[ContentRow]:
    """Contents that nobody has and nobody is about to have, and those that were on their way out already."""
    owned = select(_OWNED.c.sha256).where(_OWNED.c.sha256 == _CONTENT.c.sha256)
    coming = select(_UPLOAD.c.uid).where(
        _UPLOAD.c.sha256 == _CONTENT.c.sha256, _UPLOAD.c.state == int(UploadState.CHECKING)
    )
    query = (
        select(ContentRow)
        .where((_CONTENT.c.state == int(ContentState.LEAVING)) | (~owned.exists() & ~coming.exists()))
        .order_by(_CONTENT.c.sha256)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def is_owned(session: AsyncSession, sha256: str) -> bool:
    """Whether any project has a content."""
    query = select(_OWNED.c.sha256).where(_OWNED.c.sha256 == sha256).limit(1)
    return (await session.execute(query)).first() is not None


async def forget_content(session: AsyncSession, sha256: str) -> None:
    """Drop a content's row; it has left the store."""
    await session.execute(delete(_CONTENT).where(_CONTENT.c.sha256 == sha256))


async def own_models_page(
    session: AsyncSession, project_uid: str, after: str, limit: int, *, show_archived: bool
) -> list[ModelRow]:
    """A project's own models after a name, by name."""
    query = select(ModelRow).where(_MODEL.c.project_uid == project_uid, _MODEL.c.name > after).order_by(_MODEL.c.name)
    # A project has a few hundred at most; what is archived stands in their facts.
    rows = (await session.execute(query)).scalars()
    return [row for row in rows if show_archived or "archived_ms" not in row.facts][:limit]


async def own_model_count(session: AsyncSession, project_uid: str) -> int:
    """How many models of its own a project has."""
    query = select(func.count()).select_from(_MODEL).where(_MODEL.c.project_uid == project_uid)
    return int((await session.execute(query)).scalar_one())

"""The session of a unit of work: SQLModel's, for rows as objects and for Core statements alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy.ext.asyncio
import sqlalchemy.orm
import sqlmodel
import sqlmodel.ext.asyncio.session


class _SyncSession(sqlmodel.Session):
    execute: Callable[..., Any] = sqlalchemy.orm.Session.execute


class Session(sqlmodel.ext.asyncio.session.AsyncSession):
    """SQLModel deprecates `execute` in favour of `exec`; Core statements on the chassis' tables need it."""

    sync_session_class = _SyncSession
    execute = sqlalchemy.ext.asyncio.AsyncSession.execute

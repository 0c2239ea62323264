"""Roles from deploy's own rows."""

from __future__ import annotations

from chassis.access import ProjectRoles
from chassis.database import Database
from services.deploy.storage import queries


class DatabaseRoleDirectory:
    """Deploy owns role bindings, so it never asks a copy."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_project(self, project: str, principal: str = "", role: int = 0) -> ProjectRoles | None:
        async with self._database.reader() as session:
            row = await queries.project(session, project)
        return None if row is None else ProjectRoles(row.uid, row.name, row.members)

"""Which principal has which role in which project."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from modelyard.type.v1 import access_pb2

from chassis.bus import BucketWatch, Bus


@dataclass(frozen=True, slots=True)
class ProjectRoles:
    """Roles in one project, by principal, as numbers of `modelyard.type.v1.Role`."""

    project_uid: str
    project: str
    roles: Mapping[str, int]


class RoleDirectory(Protocol):
    """Where a service looks roles up."""

    async def find_project(self, project: str, principal: str = "", role: int = 0) -> ProjectRoles | None:
        """By name or uid.

        A directory that learns from another service waits a moment for what may be on its way: the project, and that
        `principal` has at least `role` in it. So it takes a stranger as long to hear of a project that exists as of
        one that does not.
        """
        ...


class BucketRoleDirectory:
    """Roles from the `projects` bucket; for every service but the one that owns them.

    Args:
        arrive_s: How long an unknown project or member is waited for: one that was made a moment ago may be on its way.
    """

    BUCKET = "projects"

    def __init__(self, bus: Bus, *, arrive_s: float = 1.0) -> None:
        self._arrive_s = arrive_s
        self._change = asyncio.Event()
        self._by_uid: dict[str, ProjectRoles] = {}
        self._by_name: dict[str, ProjectRoles] = {}
        self._uids_by_principal: dict[str, set[str]] = {}
        self.watch: BucketWatch = bus.watch_bucket(self.BUCKET, self._changed)

    async def find_project(self, project: str, principal: str = "", role: int = 0) -> ProjectRoles | None:
        try:
            async with asyncio.timeout(self._arrive_s):
                while (found := self._known(project)) is None or found.roles.get(principal, 0) < role:
                    await self._change.wait()
        except TimeoutError:
            return self._known(project)
        return found

    def projects_of(self, principal: str) -> frozenset[str]:
        """Uids of the projects that a principal is known to be a member of; nothing is waited for."""
        return frozenset(self._uids_by_principal.get(principal, ()))

    def _known(self, project: str) -> ProjectRoles | None:
        return self._by_name.get(project) or self._by_uid.get(project)

    def _changed(self, key: str, value: bytes | None, _sequence: int) -> None:
        known = self._by_uid.pop(key, None)
        if known is not None and self._by_name.get(known.project) is known:
            del self._by_name[known.project]
        for principal in known.roles if known is not None else ():
            uids = self._uids_by_principal[principal]
            uids.discard(key)
            if not uids:
                del self._uids_by_principal[principal]
        if value is None:
            return
        access = access_pb2.ProjectAccess.FromString(value)
        roles = ProjectRoles(
            access.project_uid, access.project, {member.principal: member.role for member in access.members}
        )
        self._by_uid[roles.project_uid] = roles
        self._by_name[roles.project] = roles
        for principal in roles.roles:
            self._uids_by_principal.setdefault(principal, set()).add(key)
        self._change.set()
        self._change = asyncio.Event()

"""Names that requests give: a project's own models are there for its members only."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message
from modelyard.type.v1 import access_pb2

from chassis.access import AccessPolicy, Caller, current_caller
from services.catalog.domain.names import MODEL, OWN_MODEL, OWN_VERSION, VERSION
from services.catalog.usecases.find import no_model

# Services ask for what a project wants to quote or deploy.
_SERVICES = ("deploy", "billing", "inference")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request names, as it is stored, and the project whose own it is; empty where everybody sees it."""

    name: str
    project_uid: str = ""


class Naming:
    """Reads names of models and versions for whoever may see what they name."""

    def __init__(self, access: AccessPolicy) -> None:
        self._access = access

    async def model(self, request: Message, field: str = "name") -> Asked:
        """The model that a request's field names.

        Raises:
            InvalidArgument: it names no model.
            PermissionDenied: it is a project's own, and the caller is no reader there.
        """
        given: str = getattr(request, field)
        if given.startswith("projects/"):
            ids = OWN_MODEL.parse(given, field)
            reader = await self._reader(request, field)
            return Asked(OWN_MODEL.format(project=reader.project, model=ids["model"]), reader.project_uid)
        MODEL.parse(given, field)
        return Asked(given)

    async def version(self, request: Message, field: str = "name") -> Asked:
        """The version that a request's field names; `latest` and labels stay as they are."""
        given: str = getattr(request, field)
        if given.startswith("projects/"):
            ids = OWN_VERSION.parse(given, field)
            reader = await self._reader(request, field)
            name = OWN_VERSION.format(project=reader.project, model=ids["model"], version=ids["version"])
            return Asked(name, reader.project_uid)
        VERSION.parse(given, field)
        return Asked(given)

    async def either(self, request: Message, field: str) -> Asked:
        """A model, which means its newest version, or a version."""
        is_version = "/versions/" in getattr(request, field)
        return await (self.version(request, field) if is_version else self.model(request, field))

    async def _reader(self, request: Message, field: str) -> Caller:
        """The caller within the project that a field names, by name or uid; checked like a rule of a proto."""
        rule = access_pb2.AccessRule(role=access_pb2.ROLE_READER, project=field, services=_SERVICES)
        return await self._access.authorize(rule, current_caller(), request)


def asked_within(caller: Caller, name: str, field: str) -> Asked:
    """What a name means to the project of a request: everybody's, or its own; another project's does not exist.

    Args:
        caller: Within the project.
        name: Of a model or a version.

    Raises:
        InvalidArgument: it names neither.
        ModelNotFound: it is another project's.
    """
    if not name.startswith("projects/"):
        if not MODEL.matches(name):
            VERSION.parse(name, field)
        return Asked(name)
    ids = OWN_MODEL.parse(name, field) if OWN_MODEL.matches(name) else OWN_VERSION.parse(name, field)
    if ids["project"] not in (caller.project, caller.project_uid):
        raise no_model(name, field)
    pattern = OWN_VERSION if "version" in ids else OWN_MODEL
    return Asked(pattern.format(**{**ids, "project": caller.project}), caller.project_uid)

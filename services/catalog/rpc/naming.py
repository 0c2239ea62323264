"""Names that requests give, resolved: a project's own models are there for its members only, `latest` is a version."""

from __future__ import annotations

from google.protobuf.message import Message
from modelyard.type.v1 import access_pb2
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.access import AccessPolicy, current_caller
from services.catalog.domain.errors import ModelNotFound
from services.catalog.domain.names import MODEL, OWN_MODEL, OWN_VERSION, VERSION
from services.catalog.storage.queries import models as stored
from services.catalog.storage.tables import ModelRow, VersionRow

# Services ask for what a project wants to quote or deploy; they compare the projects themselves.
_SERVICES = ("deploy", "billing", "inference")


class Naming:
    """Looks models and versions up for whoever may see them."""

    def __init__(self, access: AccessPolicy) -> None:
        self._access = access

    async def model_name(self, request: Message, field: str = "name") -> str:
        """The resource name of the model that a request's field names, as it is stored.

        Raises:
            InvalidArgument: it names no model.
            PermissionDenied: it is a project's own, and the caller is no reader there.
        """
        given: str = getattr(request, field)
        if given.startswith("projects/"):
            ids = OWN_MODEL.parse(given, field)
            return OWN_MODEL.format(project=await self._project(request, field), model=ids["model"])
        MODEL.parse(given, field)
        return given

    async def version_name(self, request: Message, field: str = "name") -> str:
        """The same of a version; `latest` stays."""
        given: str = getattr(request, field)
        if given.startswith("projects/"):
            ids = OWN_VERSION.parse(given, field)
            project = await self._project(request, field)
            return OWN_VERSION.format(project=project, model=ids["model"], version=ids["version"])
        VERSION.parse(given, field)
        return given

    async def model_or_version_name(self, request: Message, field: str = "name") -> str:
        """The same of what is either."""
        is_version = "/versions/" in getattr(request, field)
        return await (self.version_name if is_version else self.model_name)(request, field)

    async def _project(self, request: Message, field: str) -> str:
        """Name of the project of a request, also where it came by uid; checked like a rule of a proto."""
        rule = access_pb2.AccessRule(role=access_pb2.ROLE_READER, project=field, services=_SERVICES)
        return (await self._access.authorize(rule, current_caller(), request)).project


async def find_model(session: AsyncSession, name: str) -> ModelRow:
    """A model by its stored name.

    Raises:
        ModelNotFound: there is none.
    """
    row = await stored.model(session, name)
    if row is None:
        raise no_model(name)
    return row


async def find_version(session: AsyncSession, name: str) -> tuple[ModelRow, VersionRow]:
    """A version by its stored name, with its model; `versions/latest` is the newest one.

    Raises:
        ModelNotFound: there is none.
    """
    model_name, _, version = name.partition("/versions/")
    model = await stored.model(session, model_name)
    if model is None:
        raise no_model(name)
    row = await stored.version(session, model.latest_version if version == "latest" else name)
    if row is None:
        raise ModelNotFound(
            f"version {name!r} does not exist; the newest one is {model.latest_version!r}", field="name"
        )
    return model, row


def no_model(name: str) -> ModelNotFound:
    """There is none of this name; `modelyard models` shows those there are."""
    return ModelNotFound(f"model {name!r} does not exist; `modelyard models` shows those that do", field="name")

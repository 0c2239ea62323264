"""Models and versions by their names."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel.ext.asyncio.session import AsyncSession

from services.catalog.domain.errors import ModelNotFound
from services.catalog.storage.queries import models as stored
from services.catalog.storage.tables import ModelRow, VersionRow


@dataclass(frozen=True, slots=True)
class Named:
    """A version and the model it is of."""

    model: ModelRow
    version: VersionRow


async def find_model(session: AsyncSession, name: str, project_uid: str = "", *, field: str = "name") -> ModelRow:
    """A model by its resource name.

    Args:
        project_uid: Whose own models are seen besides everybody's.

    Raises:
        ModelNotFound: nobody, or only another project, has it.
    """
    row = await stored.model(session, name)
    if row is None or row.project_uid not in ("", project_uid):
        raise no_model(name, field)
    return row


async def find_whole_model(session: AsyncSession, name: str, project_uid: str = "") -> stored.WholeModel:
    """The same with its texts and its newest version."""
    whole = await stored.whole_model(session, name)
    if whole is None or whole.model.project_uid not in ("", project_uid):
        raise no_model(name, "name")
    return whole


async def find_version(session: AsyncSession, name: str, project_uid: str = "", *, field: str = "name") -> Named:
    """The version that a resource name means.

    Args:
        name: Of a model, which means its newest version, or of a version; `versions/latest` is the newest one too, and a
            label of a project's own model is the version it names.
        project_uid: Whose own models are seen besides everybody's.

    Raises:
        ModelNotFound: nobody, or only another project, has it.
    """
    model_name, _, version = name.partition("/versions/")
    model = await find_model(session, model_name, project_uid, field=field)
    version = model.facts.get("labels", {}).get(version, version)
    wanted = model.latest_version if version in ("", "latest") else f"{model_name}/versions/{version}"
    row = await stored.version(session, wanted)
    if row is None:
        raise ModelNotFound(f"version {name!r} does not exist; the newest one is {model.latest_version!r}", field=field)
    return Named(model, row)


def no_model(name: str, field: str) -> ModelNotFound:
    """There is none of this name, or not for who asks."""
    return ModelNotFound(f"model {name!r} does not exist; `modelyard models` shows those that do", field=field)

"""Accept the text of a licence for a project."""

from __future__ import annotations

from chassis.clock import Clock
from chassis.database import Database
from services.catalog.domain.errors import LicenseDigestMismatch, ModelNotFound
from services.catalog.storage.queries import governance
from services.catalog.storage.queries import models as stored
from services.catalog.storage.tables import LicenseAcceptanceRow


async def accept_license(
    database: Database, clock: Clock, *, principal: str, project_uid: str, model_name: str, digest: str
) -> LicenseAcceptanceRow:
    """Keep who accepted which text, and when; the first acceptance stands.

    Args:
        digest: Of the text that was read, lower-case hex: what was not read is not accepted.

    Raises:
        ModelNotFound: the project sees no such model.
        LicenseDigestMismatch: the text is another one now, or none is shipped.
    """
    async with database.unit_of_work() as uow:
        model = await stored.model(uow.session, model_name)
        if model is None or model.project_uid not in ("", project_uid):
            raise ModelNotFound(
                f"model {model_name!r} does not exist; `modelyard models` shows those that do", field="model"
            )
        if not model.license_digest:
            raise LicenseDigestMismatch(
                f"the text of {model.license_id}, the licence of {model_name}, is not shipped: there is nothing to accept",
                field="digest",
            )
        if digest != model.license_digest:
            raise LicenseDigestMismatch(
                f"the licence of {model_name} has a text with SHA-256 {model.license_digest} now, not {digest[:64]!r}; "
                "read it again with `modelyard licenses show`, and accept what you read",
                field="digest",
                metadata={"digest": model.license_digest},
            )
        row = LicenseAcceptanceRow(
            project_uid=project_uid,
            digest=digest,
            license_id=model.license_id,
            model=model_name,
            principal=principal,
            accept_time=clock.now(),
        )
        return await governance.add_acceptance(uow, database, row)

"""Who may have a version's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_asyncio
from modelyard.catalog.v1 import artifacts_pb2

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.database import Database
from services.catalog.artifacts.sources import ByteSources, WheelFiles
from services.catalog.domain.downloads import UrlSigner
from services.catalog.domain.errors import LicenseNotAccepted, WeightsNotOffered
from services.catalog.main import MIGRATIONS
from services.catalog.rpc.artifacts import ArtifactServicer
from services.catalog.storage.queries import models as stored
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.downloads import DownloadReader
from services.catalog.usecases.licenses import accept_license
from services.catalog.usecases.sync_content import sync_content
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.catalog.build import ARTIFACT, a_model, open_naming, write_content

GATED = "publishers/acme/models/gated"
PROJECTS = {"user:ann": ("uid-shop", "uid-other")}


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory, tmp_path: Path) -> Database:
    """A model whose licence is accepted first, and one that is serverless only."""
    folder = tmp_path / "content"
    (folder / "licenses").mkdir(parents=True)
    (folder / "licenses" / "Strict.txt").write_text("The text of it.\n")
    gated = a_model("gated", license="Strict", license_acceptance_required=True)
    write_content(folder, gated, a_model("api", deployment_options=["SERVERLESS"]))
    opened = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(opened, ManualClock(), folder)
    return opened


@pytest.fixture
def artifacts(database: Database) -> ArtifactServicer:
    reader = DownloadReader(ByteSources({"file": WheelFiles()}), running_max=1)
    return ArtifactServicer(
        database,
        ManualClock(),
        open_naming(),
        UrlSigner(b"k" * 32),
        reader,
        lambda principal: PROJECTS.get(principal, ()),
        http_url="http://files.example",
    )


async def url(
    artifacts: ArtifactServicer, name: str = GATED, principal: str = "user:ann", kind: CallerKind = CallerKind.USER
) -> str:
    set_current_caller(Caller(principal, kind))
    request = artifacts_pb2.SignDownloadUrlRequest(name=f"{name}/versions/latest", artifact=str(ARTIFACT["name"]))
    return (await artifacts.SignDownloadUrl(request, None)).url


async def test_a_licence_is_accepted_before_a_download(database: Database, artifacts: ArtifactServicer) -> None:
    """By any project of who asks; what another one accepted opens nothing."""
    for principal in ("user:ann", "user:bob"):
        with pytest.raises(LicenseNotAccepted, match="`modelyard licenses accept acme/gated --project PROJECT`"):
            await url(artifacts, principal=principal)
    async with database.reader() as session:
        model = await stored.model(session, GATED)
    assert model is not None
    await accept_license(
        database,
        ManualClock(),
        principal="user:owner",
        project_uid="uid-other",
        model_name=GATED,
        digest=model.license_digest,
    )
    assert (await url(artifacts)).startswith("http://files.example/")
    with pytest.raises(LicenseNotAccepted):
        await url(artifacts, principal="user:bob")


async def test_services_pull_what_was_allowed_to_be_deployed(artifacts: ArtifactServicer) -> None:
    """Whether a project may was asked before; weights of serverless models are needed, too."""
    for name in (GATED, "publishers/acme/models/api"):
        assert await url(artifacts, name, "deploy", CallerKind.SERVICE)
    with pytest.raises(WeightsNotOffered):
        await url(artifacts, "publishers/acme/models/api")

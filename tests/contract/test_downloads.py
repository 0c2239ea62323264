"""Every version of the shipped catalog gives its files out, or says why not: walked, no model's name stands here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from modelyard.catalog.v1 import artifacts_pb2, catalog_pb2, governance_pb2
from modelyard.type.v1 import access_pb2
from modelyard_client import Modelyard, ModelyardError, download_artifact

from tests.infra.platform import PlatformUnderTest

# Larger ones are looked at from both ends only; each was hashed when the platform started.
WHOLE_BYTES_MAX = 32 << 20
MANAGED = catalog_pb2.DEPLOYMENT_OPTION_MANAGED


@pytest_asyncio.fixture(scope="module")
async def nobody(platform: PlatformUnderTest) -> Modelyard:
    """Anybody with a valid token and no role anywhere."""
    return await platform.client_of("nobody")


@pytest_asyncio.fixture(scope="module")
async def models(nobody: Modelyard) -> list[catalog_pb2.Model]:
    """Every model."""
    found: list[catalog_pb2.Model] = []
    request = catalog_pb2.ListModelsRequest(page_size=1000)
    while True:
        page = await nobody.catalog.ListModels(request)
        found += page.models
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@pytest_asyncio.fixture(scope="module")
async def versions(nobody: Modelyard, models: list[catalog_pb2.Model]) -> list[catalog_pb2.ModelVersion]:
    """Every version of every model."""
    found: list[catalog_pb2.ModelVersion] = []
    for model in models:
        request = catalog_pb2.ListModelVersionsRequest(parent=model.name, page_size=1000)
        found += (await nobody.catalog.ListModelVersions(request)).model_versions
    return found


@pytest_asyncio.fixture(scope="module")
async def user(platform: PlatformUnderTest, models: list[catalog_pb2.Model]) -> Modelyard:
    """A reader in a project that has accepted every licence that asks for it."""
    project = await platform.new_project((access_pb2.ROLE_READER,))
    for model in models:
        if model.license.acceptance_required:
            request = governance_pb2.AcceptLicenseRequest(
                parent=project.name, model=model.name, digest=model.license.digest
            )
            await platform.admin.governance.AcceptLicense(request)
    return await platform.client_of(project.members[access_pb2.ROLE_READER])


def offered(versions: list[catalog_pb2.ModelVersion]) -> list[catalog_pb2.ModelVersion]:
    """Those that can be deployed on managed compute here."""
    return [one for one in versions if MANAGED in one.deployment_options and one.artifacts]


async def refusal(user: Modelyard, version: str, artifact: str) -> tuple[str, str]:
    """How both ways refuse; they agree."""
    with pytest.raises(ModelyardError) as by_url:
        await user.artifacts.SignDownloadUrl(artifacts_pb2.SignDownloadUrlRequest(name=version, artifact=artifact))
    pieces = user.artifacts.DownloadArtifact(artifacts_pb2.DownloadArtifactRequest(name=version, artifact=artifact))
    with pytest.raises(ModelyardError) as by_stream:
        await anext(aiter(pieces))
    assert by_url.value == by_stream.value
    return by_url.value.code, by_url.value.reason


async def test_what_is_offered_for_managed_compute_downloads_over_http(
    user: Modelyard, versions: list[catalog_pb2.ModelVersion]
) -> None:
    """Its size, its first and its last byte, and of the smaller ones every byte between."""
    assert len(offered(versions)) > 1
    async with httpx2.AsyncClient() as http:
        for version in offered(versions):
            for artifact in version.artifacts:
                request = artifacts_pb2.SignDownloadUrlRequest(name=version.name, artifact=artifact.name)
                signed = await user.artifacts.SignDownloadUrl(request)
                assert (signed.sha256, signed.size_bytes) == (artifact.sha256, artifact.size_bytes)
                head = await http.head(signed.url)
                assert (head.status_code, head.headers["content-length"]) == (200, str(artifact.size_bytes))
                assert head.headers["etag"] == f'"{artifact.sha256}"'
                for part in ("bytes=0-0", "bytes=-1"):
                    answer = await http.get(signed.url, headers={"range": part})
                    assert (answer.status_code, len(answer.content)) == (206, 1)
                if artifact.size_bytes <= WHOLE_BYTES_MAX:
                    whole = await http.get(signed.url)
                    assert hashlib.sha256(whole.content).hexdigest() == artifact.sha256


async def test_it_downloads_over_grpc_and_goes_on_where_it_was(
    user: Modelyard, versions: list[catalog_pb2.ModelVersion], tmp_path: Path
) -> None:
    """The smallest file of each version: what lay there is kept, what was missing came, the digest is the file's."""
    for number, version in enumerate(offered(versions)):
        artifact = min(version.artifacts, key=lambda one: one.size_bytes)
        if artifact.size_bytes > WHOLE_BYTES_MAX:
            continue
        folder = tmp_path / str(number)
        whole = await download_artifact(user, version.name, artifact, folder)
        assert whole.received_bytes == artifact.size_bytes
        half = artifact.size_bytes // 2
        whole.path.with_name(f"{whole.path.name}.part").write_bytes(whole.path.read_bytes()[:half])
        whole.path.unlink()
        again = await download_artifact(user, version.name, artifact, folder)
        assert again.received_bytes == artifact.size_bytes - half
        assert hashlib.sha256(again.path.read_bytes()).hexdigest() == artifact.sha256


async def test_a_licence_that_asks_for_acceptance_is_asked_for(
    nobody: Modelyard, models: list[catalog_pb2.Model], versions: list[catalog_pb2.ModelVersion]
) -> None:
    """Who has accepted it in no project gets no file of the model, in neither way."""
    asking = {model.name for model in models if model.license.acceptance_required}
    kept = [one for one in offered(versions) if one.name.partition("/versions/")[0] in asking]
    assert kept
    for version in kept:
        assert await refusal(nobody, version.name, version.artifacts[0].name) == (
            "FAILED_PRECONDITION",
            "LICENSE_NOT_ACCEPTED",
        )


async def test_serverless_only_versions_give_no_weights_out(
    user: Modelyard, versions: list[catalog_pb2.ModelVersion]
) -> None:
    """Whatever file is asked for."""
    serverless_only = [one for one in versions if MANAGED not in one.deployment_options]
    assert serverless_only
    for version in serverless_only:
        assert await refusal(user, version.name, "model.gguf") == ("FAILED_PRECONDITION", "WEIGHTS_NOT_OFFERED")


async def test_versions_whose_files_are_elsewhere_say_so(
    user: Modelyard, versions: list[catalog_pb2.ModelVersion]
) -> None:
    """They are listed for what they are; nothing of them lies here."""
    for version in versions:
        if MANAGED in version.deployment_options and not version.artifacts:
            assert await refusal(user, version.name, "model.gguf") == ("FAILED_PRECONDITION", "WEIGHTS_NOT_HERE")


async def test_another_file_is_refused_by_name(user: Modelyard, versions: list[catalog_pb2.ModelVersion]) -> None:
    version = offered(versions)[0]
    assert await refusal(user, version.name, "../../etc/passwd") == ("NOT_FOUND", "ARTIFACT_NOT_FOUND")

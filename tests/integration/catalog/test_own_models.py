"""A project's own models: registered once, never changed, labelled, archived, opened again, and nobody else's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from modelyard.catalog.v1 import artifacts_pb2, catalog_pb2, governance_pb2, registry_pb2
from modelyard.type.v1 import access_pb2
from sqlalchemy import select

from chassis.access import AccessPolicy, Caller, TokenVerifier
from chassis.access.caller import CallerKind, set_current_caller
from chassis.access.directory import ProjectRoles
from chassis.errors import EtagMismatch, InvalidArgument, PermissionDenied, Problem
from chassis.rpc import service_channel
from services.catalog.artifacts.sources import STORE, ByteSources, StoredFiles
from services.catalog.artifacts.store import ArtifactStore, StoreSettings
from services.catalog.domain.downloads import UrlSigner
from services.catalog.domain.errors import ArtifactNotFound, ModelNotFound
from services.catalog.domain.own.errors import (
    LabelInvalid,
    ModelFilesInvalid,
    ModelVersionExists,
    QuotaExceeded,
    UploadNotStored,
)
from services.catalog.domain.own.rules import OwnLimits
from services.catalog.main import MIGRATIONS
from services.catalog.rpc.artifacts import ArtifactServicer
from services.catalog.rpc.governance import GovernanceServicer
from services.catalog.rpc.naming import Naming
from services.catalog.rpc.neighbours import Neighbours
from services.catalog.rpc.servicer import CatalogServicer
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.downloads import DownloadReader
from services.catalog.usecases.sync_content import sync_content
from tests.conftest import DatabaseFactory
from tests.infra.model_files import SMALL_GGUF, encoder, gguf, gguf_with_data
from tests.infra.registry import DOUBLER, TRITON_CONFIG, Registry, digest
from tests.integration.catalog.build import write_content

NAME = "projects/shop/models/doubler"
MANAGED, SERVERLESS = catalog_pb2.DEPLOYMENT_OPTION_MANAGED, catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS


class Roles:
    """Ann reads and contributes in `shop`, Bob in `other`."""

    PROJECTS: Mapping[str, Mapping[str, int]] = {
        "shop": {"user:ann": access_pb2.ROLE_CONTRIBUTOR},
        "other": {"user:bob": access_pb2.ROLE_CONTRIBUTOR},
    }

    async def find_project(self, project: str, principal: str = "", role: int = 0) -> ProjectRoles | None:
        name = project.removeprefix("uid-")
        return ProjectRoles(f"uid-{name}", name, self.PROJECTS[name]) if name in self.PROJECTS else None


class Platform:
    """The registry of `shop` beside the other faces of the catalog."""

    def __init__(self, registry: Registry) -> None:
        self.registry, database, clock = registry, registry.database, registry.clock
        self._access = AccessPolicy(TokenVerifier(None), Roles())
        naming = Naming(self._access)
        self.catalog = CatalogServicer(database, clock, naming)
        reader = DownloadReader(ByteSources({STORE: StoredFiles(registry.store)}), running_max=2)
        self.artifacts = ArtifactServicer(
            database,
            clock,
            naming,
            UrlSigner(b"k" * 32),
            reader,
            lambda principal: (),
            http_url="http://files.example",
        )
        # Where no neighbour answers.
        self.nobody = service_channel("127.0.0.1:1", lambda: "token", deadline_s=1)
        neighbours = Neighbours(self.nobody, self.nobody)
        self.governance = GovernanceServicer(database, clock, naming, neighbours, policy_entries_max=10)

    async def get(self, name: str = NAME) -> catalog_pb2.Model:
        return await self.catalog.GetModel(catalog_pb2.GetModelRequest(name=name), None)

    async def version(self, name: str) -> catalog_pb2.ModelVersion:
        return await self.catalog.GetModelVersion(catalog_pb2.GetModelVersionRequest(name=name), None)

    async def label(self, etag: str = "", **labels: str) -> catalog_pb2.Model:
        request = registry_pb2.UpdateModelLabelsRequest(name=NAME, labels=labels, etag=etag)
        return await self.registry.servicer.UpdateModelLabels(request, None)

    async def archive(self, name: str = NAME) -> catalog_pb2.Model:
        request = registry_pb2.ArchiveProjectModelRequest(name=name)
        return await self.registry.servicer.ArchiveProjectModel(request, None)

    async def restore(self, name: str = NAME) -> catalog_pb2.Model:
        request = registry_pb2.RestoreProjectModelRequest(name=name)
        return await self.registry.servicer.RestoreProjectModel(request, None)

    async def refusals(self, name: str = NAME, option: int = MANAGED) -> list[str]:
        request = governance_pb2.CheckModelRequest(
            parent=self.registry.parent,
            model_version=name,
            deployment_option=catalog_pb2.DeploymentOption.ValueType(option),
        )
        answer = await self.governance.CheckModel(request, None)
        return [one.reason for one in answer.checks if not one.passed]

    async def download(self, name: str, artifact: str) -> bytes:
        request = artifacts_pb2.DownloadArtifactRequest(name=name, artifact=artifact)
        return b"".join([answer.data async for answer in self.artifacts.DownloadArtifact(request, None)])

    async def listed(self, **asked: Any) -> list[str]:
        request = registry_pb2.ListProjectModelsRequest(parent=self.registry.parent, **asked)
        answer = await self.registry.servicer.ListProjectModels(request, None)
        return [one.name for one in answer.models]


@pytest_asyncio.fixture
async def platform(make_database: DatabaseFactory, tmp_path: Path) -> Any:
    database = await make_database(CHASSIS, MIGRATIONS)
    store = ArtifactStore(StoreSettings((tmp_path / "store").as_uri()))
    registry = Registry(database, store, tmp_path / "checks", own=OwnLimits(models_max=2, versions_max=3, files_max=4))
    await sync_content(database, registry.clock, write_content(tmp_path / "content"))
    platform = Platform(registry)
    act_as("user:ann")
    yield platform
    await platform.nobody.close()


def act_as(principal: str, project: str = "shop", kind: CallerKind = CallerKind.USER) -> None:
    """A caller that the interceptor has seen in a project."""
    set_current_caller(Caller(principal, kind, project_uid=f"uid-{project}", project=project))


async def test_a_version_is_registered_and_read(platform: Platform) -> None:
    version = await platform.registry.register(
        DOUBLER, display_name="Doubler", summary="Doubles.", license_id="MIT", request_id="r1"
    )
    assert version.name == f"{NAME}/versions/1"
    assert version.registered_by == "user:ann"
    assert version.created_by_job == ""
    assert version.price_resource == ""
    assert [(one.name, one.sha256, one.uri) for one in version.artifacts] == [
        (name, digest(data), "") for name, data in sorted(DOUBLER.items())
    ]
    assert await platform.version(f"{NAME}/versions/1") == version
    assert await platform.version(f"{NAME}/versions/latest") == version
    model = await platform.get()
    assert (model.display_name, model.summary, model.license.id) == ("Doubler", "Doubles.", "MIT")
    assert model.collection == "collections/own"
    assert list(model.deployment_options) == [MANAGED]
    # By its project's uid, too.
    assert await platform.get("projects/uid-shop/models/doubler") == model


async def test_what_was_uploaded_is_downloaded(platform: Platform) -> None:
    await platform.registry.register(DOUBLER)
    for name, data in DOUBLER.items():
        assert await platform.download(f"{NAME}/versions/1", name) == data
    with pytest.raises(ArtifactNotFound):
        await platform.download(f"{NAME}/versions/1", "../../etc/passwd")


async def test_deploy_is_told_where_the_files_lie(platform: Platform) -> None:
    await platform.registry.register(DOUBLER)
    act_as("deploy", kind=CallerKind.SERVICE)
    version = await platform.version(f"{NAME}/versions/1")
    assert [one.uri for one in version.artifacts] == [f"store:{one.sha256}" for one in version.artifacts]


async def test_the_project_hears_of_its_version(platform: Platform) -> None:
    version = await platform.registry.register(DOUBLER)
    outbox = CHASSIS.outbox
    query = select(outbox).where(outbox.c.subject.contains("uid-shop"))
    async with platform.registry.database.reader() as session:
        (row,) = (await session.execute(query)).all()
    assert row.subject == "modelyard.catalog.v1.versions.published.uid-shop"
    assert version.name.encode() in row.data


async def test_repeating_a_registration_makes_one_version(platform: Platform) -> None:
    """Also where labels moved meanwhile."""
    first = await platform.registry.register(DOUBLER, request_id="r1")
    assert await platform.registry.register(DOUBLER, request_id="r1") == first
    assert (await platform.registry.register(DOUBLER)).name == f"{NAME}/versions/2"


async def test_versions_never_change(platform: Platform) -> None:
    await platform.registry.register(DOUBLER, version_id="2024-10")
    with pytest.raises(ModelVersionExists, match="versions never change"):
        await platform.registry.register({**DOUBLER, "README.md": b"# New"}, version_id="2024-10")
    assert len((await platform.version(f"{NAME}/versions/2024-10")).artifacts) == 2


async def test_a_model_keeps_doing_what_it_does(platform: Platform) -> None:
    """An application that calls its latest version is not answered with something else."""
    await platform.registry.register(DOUBLER)
    folder = {
        "model.onnx": encoder(),
        "tokenizer.json": b"{}",
        "config.json": b'{"hidden_size": 8, "max_position_embeddings": 16}',
    }
    with pytest.raises(ModelFilesInvalid, match="does raw tensors, and this version EMBEDDINGS"):
        await platform.registry.register(folder)


@pytest.mark.parametrize(
    ("files", "problem", "word"),
    [
        ({}, InvalidArgument, "0 files; 1 to 4"),
        ({f"{n}.txt": "a" for n in range(5)}, InvalidArgument, "5 files; 1 to 4"),
        ({"../up": "a"}, InvalidArgument, "up"),
        ({"model.py": "a"}, InvalidArgument, "the platform's own"),
        ({"engines/x": "a"}, InvalidArgument, "the platform's own"),
        ({"a": "a", "a/b": "a"}, InvalidArgument, "'a' is a file and a folder"),
        ({"a": "f" * 64}, UploadNotStored, "has not uploaded"),
    ],
)
async def test_files_that_make_no_version(
    platform: Platform, files: dict[str, str], problem: type[Problem], word: str
) -> None:
    with pytest.raises(problem, match=word):
        await platform.registry.register_uploaded(files)


async def test_a_project_has_so_many_of_each(platform: Platform) -> None:
    for _ in range(3):
        await platform.registry.register(DOUBLER)
    with pytest.raises(QuotaExceeded, match="has 3 versions; 3 are allowed"):
        await platform.registry.register(DOUBLER)
    await platform.registry.register(DOUBLER, "second")
    with pytest.raises(QuotaExceeded, match="has 2 models of its own; 2 are allowed"):
        await platform.registry.register(DOUBLER, "third")


async def test_labels_name_versions(platform: Platform) -> None:
    for _ in range(2):
        await platform.registry.register(DOUBLER)
    model = await platform.label(stable="1")
    assert dict(model.labels) == {"stable": "1"}
    assert (await platform.version(f"{NAME}/versions/stable")).name.endswith("/1")
    moved = await platform.label(stable="2", etag=model.etag)
    assert (await platform.version(f"{NAME}/versions/stable")).name.endswith("/2")
    with pytest.raises(EtagMismatch):
        await platform.label(stable="1", etag=model.etag)
    assert (await platform.label(stable="2")).etag == moved.etag
    with pytest.raises(LabelInvalid, match="does not have"):
        await platform.label(stable="9")
    assert dict((await platform.label(stable="")).labels) == {}
    with pytest.raises(ModelNotFound):
        await platform.version(f"{NAME}/versions/stable")


async def test_an_archived_version_is_no_longer_the_latest(platform: Platform) -> None:
    """And is closed to new deployments by its name; restoring it opens it again."""
    for _ in range(2):
        await platform.registry.register(DOUBLER)
    model = await platform.archive(f"{NAME}/versions/2")
    assert model.latest_version == f"{NAME}/versions/1"
    assert await platform.refusals() == []
    assert await platform.refusals(f"{NAME}/versions/2") == ["MODEL_ARCHIVED"]
    assert (await platform.version(f"{NAME}/versions/2")).HasField("archive_time")
    assert await platform.download(f"{NAME}/versions/2", "double/config.pbtxt") == TRITON_CONFIG
    assert (await platform.archive(f"{NAME}/versions/2")).etag == model.etag
    assert (await platform.restore(f"{NAME}/versions/2")).latest_version == f"{NAME}/versions/2"
    assert await platform.refusals(f"{NAME}/versions/2") == []


async def test_an_archived_model_leaves_the_list(platform: Platform) -> None:
    await platform.registry.register(DOUBLER)
    await platform.registry.register(DOUBLER, "second")
    assert (await platform.archive()).HasField("archive_time")
    assert await platform.refusals() == ["MODEL_ARCHIVED"]
    assert await platform.listed() == ["projects/shop/models/second"]
    assert await platform.listed(show_archived=True) == [NAME, "projects/shop/models/second"]
    await platform.restore()
    assert await platform.refusals() == []
    request = registry_pb2.ListProjectModelsRequest(parent="projects/shop", page_size=1)
    first = await platform.registry.servicer.ListProjectModels(request, None)
    request.page_token = first.next_page_token
    second = await platform.registry.servicer.ListProjectModels(request, None)
    assert [one.name for one in (*first.models, *second.models)] == [NAME, "projects/shop/models/second"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (DOUBLER, "it takes raw tensors, which would pass the token meter"),
        ({"base.gguf": gguf_with_data(gguf(**{**SMALL_GGUF, "tokenizer__chat_template": ""}), 0)}, "no chat template"),
    ],
    ids=["tensors", "no-chat-template"],
)
async def test_what_no_token_meter_counts_is_managed_only(
    platform: Platform, files: dict[str, bytes], reason: str
) -> None:
    await platform.registry.register(files)
    request = governance_pb2.CheckModelRequest(parent="projects/shop", model_version=NAME, deployment_option=SERVERLESS)
    answer = await platform.governance.CheckModel(request, None)
    (refusal,) = [one for one in answer.checks if not one.passed]
    assert reason in refusal.message
    assert await platform.refusals() == []


async def test_strangers_see_nothing(platform: Platform) -> None:
    """Neither in lists nor by name; whether it exists they cannot tell."""
    await platform.registry.register(DOUBLER)
    act_as("user:bob", "other")
    for name in (NAME, "projects/shop/models/missing"):
        for call in (
            platform.get(name),
            platform.version(f"{name}/versions/1"),
            platform.download(f"{name}/versions/1", "x"),
        ):
            with pytest.raises(PermissionDenied):
                await call
    fits = governance_pb2.ListInstanceTypeFitsRequest(parent=NAME)
    versions = catalog_pb2.ListModelVersionsRequest(parent=NAME)
    for refused in (
        platform.governance.ListInstanceTypeFits(fits, None),
        platform.catalog.ListModelVersions(versions, None),
    ):
        with pytest.raises(PermissionDenied):
            await refused
    platform.registry.parent = "projects/other"
    with pytest.raises(ModelNotFound):
        await platform.refusals()
    with pytest.raises(ModelNotFound):
        await platform.archive()
    listed = await platform.catalog.ListModels(catalog_pb2.ListModelsRequest(parent="publishers/-"), None)
    assert not any(one.name.startswith("projects/") for one in listed.models)
    assert await platform.listed() == []


async def test_a_job_is_named_by_its_service_alone(platform: Platform) -> None:
    with pytest.raises(PermissionDenied, match="created_by_job"):
        await platform.registry.register(DOUBLER, created_by_job="projects/shop/jobs/tune-1")
    act_as("deploy", kind=CallerKind.SERVICE)
    version = await platform.registry.register(DOUBLER, created_by_job="projects/shop/jobs/tune-1")
    assert version.created_by_job == "projects/shop/jobs/tune-1"


async def test_reading_the_catalog_again_leaves_own_models(platform: Platform, tmp_path: Path) -> None:
    """They are of no source that could take them back."""
    before = await platform.registry.register(DOUBLER)
    await sync_content(platform.registry.database, platform.registry.clock, write_content(tmp_path / "content"))
    assert await platform.version(before.name) == before


def test_every_writer_contributes() -> None:
    """Registering and archiving change a project: readers may not."""
    service = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"]
    readers = {method.name for method in service.methods if _role(method) == access_pb2.ROLE_READER}
    assert readers == {"ListProjectModels"}


def _role(method: MethodDescriptor) -> int:
    return int(method.GetOptions().Extensions[access_pb2.access].role)

"""CatalogService: reading what the content holds, page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from modelyard.catalog.v1 import catalog_pb2

from chassis.access import Caller
from chassis.access.caller import CallerKind, set_current_caller
from chassis.errors import InvalidArgument, PageTokenInvalid
from chassis.paging import page_token_encode
from services.catalog.domain.errors import InstanceTypeNotFound, ModelNotFound
from services.catalog.main import MIGRATIONS
from services.catalog.rpc.servicer import CatalogServicer
from services.catalog.storage.tables import CHASSIS
from services.catalog.usecases.sync_content import sync_content
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.catalog.build import (
    ARTIFACT,
    MODEL_NAME,
    VERSION_NAME,
    a_model,
    a_type,
    a_version,
    catalog_servicer,
    listed_only,
    write_content,
)

MODELS = [
    a_model("alpha", versions=[a_version(str(number)) for number in range(1, 6)]),
    listed_only("bravo", tasks=["EMBEDDINGS"], collection="hub"),
    listed_only("charlie"),
    listed_only("delta", tasks=["EMBEDDINGS", "CHAT_COMPLETION"]),
    listed_only("echo", tasks=["EMBEDDINGS"]),
]
TYPES = [a_type(f"t{number}", "local" if number % 2 else "") for number in range(1, 6)]
Call = Callable[[Any, Any], Awaitable[Any]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return lambda *models: write_content(tmp_path, *models, types=TYPES)


async def catalog(make_database: DatabaseFactory, folder: Path) -> CatalogServicer:
    """The service over a loaded content folder, asked by a user."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await sync_content(database, ManualClock(), folder)
    set_current_caller(Caller("user:ann", CallerKind.USER))
    return catalog_servicer(database)


async def pages(call: Call, request: Any, field: str) -> list[list[str]]:
    """The names on every page of a list."""
    found = []
    while True:
        response = await call(request, None)
        found.append([item.name.rpartition("/")[2] for item in getattr(response, field)])
        if not response.next_page_token:
            return found
        request.page_token = response.next_page_token


async def test_every_list_pages_in_order(make_database: DatabaseFactory, write: Callable[..., Path]) -> None:
    """Nothing twice, nothing missed, and no token after the last page, also when it is full."""
    servicer = await catalog(make_database, write(*MODELS))
    parent = "publishers/acme/models/alpha"
    assert [
        await pages(servicer.ListCollections, catalog_pb2.ListCollectionsRequest(page_size=1), "collections"),
        await pages(servicer.ListPublishers, catalog_pb2.ListPublishersRequest(page_size=1), "publishers"),
        await pages(servicer.ListModels, catalog_pb2.ListModelsRequest(page_size=2), "models"),
        await pages(
            servicer.ListModelVersions,
            catalog_pb2.ListModelVersionsRequest(parent=parent, page_size=5),
            "model_versions",
        ),
        await pages(
            servicer.ListModelVersions,
            catalog_pb2.ListModelVersionsRequest(parent=parent, page_size=3),
            "model_versions",
        ),
        await pages(servicer.ListInstanceTypes, catalog_pb2.ListInstanceTypesRequest(page_size=2), "instance_types"),
    ] == [
        [["curated"], ["hub"]],
        [["acme"]],
        [["alpha", "bravo"], ["charlie", "delta"], ["echo"]],
        [["5", "4", "3", "2", "1"]],
        [["5", "4", "3"], ["2", "1"]],
        [["t1", "t2"], ["t3", "t4"], ["t5"]],
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
async def test_filters_hold_over_pages(make_database: DatabaseFactory, write: Callable[..., Path], size: int) -> None:
    """Whatever the page size: each match once, in order."""
    servicer = await catalog(make_database, write(*MODELS))
    request = catalog_pb2.ListModelsRequest(parent="publishers/acme", task=catalog_pb2.TASK_EMBEDDINGS, page_size=size)
    found = await pages(servicer.ListModels, request, "models")
    assert [name for page in found for name in page] == ["bravo", "delta", "echo"]
    assert all(len(page) == size for page in found[:-1])
    assert found[-1]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"collection": "collections/hub"}, ["bravo"]),
        ({"usability": catalog_pb2.USABILITY_RUNS_HERE}, ["alpha"]),
        ({"task": catalog_pb2.TASK_EMBEDDINGS, "collection": "collections/curated"}, ["delta", "echo"]),
        ({"parent": "publishers/nobody"}, []),
        ({"parent": "publishers/-", "usability": catalog_pb2.USABILITY_NEEDS_PROVIDER_CREDENTIAL}, []),
    ],
)
async def test_models_are_narrowed_by_every_filter(
    make_database: DatabaseFactory, write: Callable[..., Path], filters: dict[str, Any], expected: list[str]
) -> None:
    """All of them together."""
    servicer = await catalog(make_database, write(*MODELS))
    assert await pages(servicer.ListModels, catalog_pb2.ListModelsRequest(**filters), "models") == [expected]


@pytest.mark.parametrize("field", ["task", "usability"])
async def test_a_filter_nobody_knows_is_refused(
    make_database: DatabaseFactory, write: Callable[..., Path], field: str
) -> None:
    """A newer client's value: named, not an internal error."""
    servicer = await catalog(make_database, write(*MODELS))
    with pytest.raises(InvalidArgument) as refused:
        await servicer.ListModels(catalog_pb2.ListModelsRequest(**{field: 99}), None)
    assert refused.value.field == field


async def test_only_types_that_are_offered_are_listed_on_request(
    make_database: DatabaseFactory, write: Callable[..., Path]
) -> None:
    """Each once over all pages."""
    servicer = await catalog(make_database, write(*MODELS))
    request = catalog_pb2.ListInstanceTypesRequest(available_only=True, page_size=2)
    assert await pages(servicer.ListInstanceTypes, request, "instance_types") == [["t1", "t3"], ["t5"]]


LISTS = [
    ("ListCollections", catalog_pb2.ListCollectionsRequest(), "ListCollections"),
    ("ListPublishers", catalog_pb2.ListPublishersRequest(), "ListPublishers"),
    ("ListModels", catalog_pb2.ListModelsRequest(), "ListModels/-///"),
    ("ListModelVersions", catalog_pb2.ListModelVersionsRequest(parent=MODEL_NAME), f"ListModelVersions/{MODEL_NAME}"),
    ("ListInstanceTypes", catalog_pb2.ListInstanceTypesRequest(), "ListInstanceTypes/False"),
]


@pytest.mark.parametrize(("method", "request_", "scope"), LISTS, ids=[method for method, _, _ in LISTS])
async def test_a_malformed_position_is_a_malformed_token(
    make_database: DatabaseFactory, write: Callable[..., Path], method: str, request_: Any, scope: str
) -> None:
    """Whoever made it up, and for whatever other list: the caller is told, nothing breaks."""
    servicer = await catalog(make_database, write(a_model()))
    request = type(request_)()
    request.CopyFrom(request_)
    tokens = [page_token_encode(scope, position) for position in ([], [1 << 70], ["a\0b"], ["a", "b"], [1, 2])]
    for token in (*tokens, page_token_encode("another list", ["a"])):
        request.page_token = token
        with pytest.raises(PageTokenInvalid):
            await getattr(servicer, method)(request, None)


async def test_a_list_shows_no_cards(make_database: DatabaseFactory, write: Callable[..., Path]) -> None:
    """They and licence texts come with the one model that is asked for."""
    servicer = await catalog(make_database, write(a_model()))
    (listed,) = (await servicer.ListModels(catalog_pb2.ListModelsRequest(), None)).models
    whole = await servicer.GetModel(catalog_pb2.GetModelRequest(name=MODEL_NAME), None)
    assert (listed.card, whole.card) == ("", "# Talker")
    whole.card = ""
    assert whole == listed


async def test_a_version_comes_back_as_the_content_says(
    make_database: DatabaseFactory, write: Callable[..., Path]
) -> None:
    """Files with digest and size, serving facts, stage and how it can be used."""
    servicer = await catalog(make_database, write(a_model()))
    version = await servicer.GetModelVersion(catalog_pb2.GetModelVersionRequest(name=VERSION_NAME), None)
    (artifact,) = version.artifacts
    assert (artifact.name, artifact.sha256, artifact.size_bytes) == tuple(
        ARTIFACT[field] for field in ("name", "sha256", "size_bytes")
    )
    assert (version.serving.engine, version.serving.context_tokens) == ("llamacpp", 2048)
    assert version.stage == catalog_pb2.LIFECYCLE_STAGE_GA
    assert version.usability == catalog_pb2.USABILITY_RUNS_HERE


async def test_where_files_lie_is_told_to_services_alone(
    make_database: DatabaseFactory, write: Callable[..., Path]
) -> None:
    """A user sees digests, not paths of this machine."""
    servicer = await catalog(make_database, write(a_model()))
    request = catalog_pb2.GetModelVersionRequest(name=VERSION_NAME)
    assert [artifact.uri for artifact in (await servicer.GetModelVersion(request, None)).artifacts] == [""]
    set_current_caller(Caller("service:deploy", CallerKind.SERVICE))
    ((uri),) = [artifact.uri for artifact in (await servicer.GetModelVersion(request, None)).artifacts]
    assert Path(uri.removeprefix("file://")).stat().st_size == ARTIFACT["size_bytes"]


async def test_latest_names_the_newest_version(make_database: DatabaseFactory, write: Callable[..., Path]) -> None:
    """And answers with its own name."""
    servicer = await catalog(make_database, write(*MODELS))
    request = catalog_pb2.GetModelVersionRequest(name="publishers/acme/models/alpha/versions/latest")
    assert (await servicer.GetModelVersion(request, None)).name == "publishers/acme/models/alpha/versions/5"


async def test_a_position_beyond_every_version_is_the_beginning(
    make_database: DatabaseFactory, write: Callable[..., Path]
) -> None:
    """Larger than the column: nothing breaks."""
    servicer = await catalog(make_database, write(a_model()))
    token = page_token_encode(f"ListModelVersions/{MODEL_NAME}", [1 << 40])
    request = catalog_pb2.ListModelVersionsRequest(parent=MODEL_NAME, page_token=token)
    assert await pages(servicer.ListModelVersions, request, "model_versions") == [["1"]]


async def test_what_does_not_exist_is_not_found(make_database: DatabaseFactory, write: Callable[..., Path]) -> None:
    """Naming what was asked for."""
    servicer = await catalog(make_database, write(a_model()))
    missing = "publishers/acme/models/mute"
    for call, request, problem in (
        (servicer.GetModel, catalog_pb2.GetModelRequest(name=missing), ModelNotFound),
        (servicer.ListModelVersions, catalog_pb2.ListModelVersionsRequest(parent=missing), ModelNotFound),
        (servicer.GetModelVersion, catalog_pb2.GetModelVersionRequest(name=f"{missing}/versions/1"), ModelNotFound),
        (servicer.GetModelVersion, catalog_pb2.GetModelVersionRequest(name=f"{MODEL_NAME}/versions/9"), ModelNotFound),
        (servicer.GetInstanceType, catalog_pb2.GetInstanceTypeRequest(name="instanceTypes/t9"), InstanceTypeNotFound),
    ):
        with pytest.raises(problem):
            await call(request, None)

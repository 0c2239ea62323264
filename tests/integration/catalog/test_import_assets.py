"""Published assets are taken once, whoever brings them and however often, and given back as they came."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from chassis.database import Database
from services.catalog.main import MIGRATIONS
from services.catalog.settings import CatalogSettings
from services.catalog.sources.azureml.format import Limits
from services.catalog.storage.queries.pages import take_turns
from services.catalog.storage.tables import CHASSIS, ModelRow, ModelTextRow, PublisherRow, VersionRow
from services.catalog.usecases.import_assets import Failure, ImportResult, export_assets, import_assets
from services.catalog.usecases.sync_content import sync_content
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.integration.catalog import import_child
from tests.integration.catalog.assets import LIMITS, MODEL, an_asset, incoming, metadata


async def take(database: Database, *assets: Any, limits: Limits = LIMITS) -> ImportResult:
    return await import_assets(database, ManualClock(), incoming(*assets), limits)


def counts(result: ImportResult) -> tuple[int, int, int]:
    return result.imported, result.unchanged, len(result.failed)


async def exported(database: Database, model: str = "") -> list[str]:
    return [document.decode() async for page in export_assets(database, model) for _, document in page]


async def rows(database: Database, row_class: Any) -> list[Any]:
    async with database.reader() as session:
        return list((await session.execute(select(row_class))).scalars())


def replaced(name: str, by: str) -> dict[str, Any]:
    return an_asset(name=name, system_metadata=metadata(deprecation={"replacement": by}))


async def test_the_same_again_changes_nothing(make_database: DatabaseFactory) -> None:
    """Neither in the same parts nor in others."""
    database = await make_database(CHASSIS, MIGRATIONS)
    older, newer, other = an_asset(version=2), an_asset(version=3), an_asset(name="other")
    assert counts(await take(database, older, newer, other)) == (3, 0, 0)
    before = [(row.name, row.change_sequence) for row in await rows(database, ModelRow)]
    assert counts(await take(database, older, newer, other)) == (0, 3, 0)
    for alone in (older, newer, other):
        assert counts(await take(database, alone)) == (0, 1, 0)
    assert [(row.name, row.change_sequence) for row in await rows(database, ModelRow)] == before


async def test_assets_come_back_as_they_came(make_database: DatabaseFactory) -> None:
    """The same keys in the same order with the same values, each version with its own card."""
    database = await make_database(CHASSIS, MIGRATIONS)
    assets = [an_asset(version=2, _description_md="# Old"), an_asset(version=3), an_asset(name="zebra")]
    await take(database, *assets)
    assert [json.dumps(json.loads(line)) for line in await exported(database)] == [json.dumps(one) for one in assets]
    assert [json.loads(line)["name"] for line in await exported(database, "publishers/acme/models/zebra")] == ["zebra"]


async def test_a_newer_version_gives_the_model_its_facts(make_database: DatabaseFactory) -> None:
    """And an older one that comes later does not."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await take(database, an_asset(version=3, _description_md="# New"))
    await take(database, an_asset(version=2, _description_md="# Old"))
    (text,) = await rows(database, ModelTextRow)
    assert text.card == "# New"
    assert {row.name for row in await rows(database, VersionRow)} == {f"{MODEL}/versions/2", f"{MODEL}/versions/3"}


@pytest.mark.parametrize("other", [{"_description_md": "# Another"}, {"properties": {"SHA": "other"}}])
@pytest.mark.parametrize("together", [True, False])
async def test_a_version_with_other_content_is_refused(
    make_database: DatabaseFactory, other: dict[str, Any], together: bool
) -> None:
    """By its file; the first one stays as it was."""
    database = await make_database(CHASSIS, MIGRATIONS)
    first, second = an_asset(), an_asset(**other)
    if together:
        result = await take(database, first, second)
    else:
        await take(database, first)
        result = await take(database, an_asset(name="between"), second)
    (failure,) = result.failed
    assert (failure.path, failure.field) == ("1/spec.yaml", "versions")
    assert f"{MODEL}/versions/3" in failure.reason
    assert json.dumps(first) in [json.dumps(json.loads(line)) for line in await exported(database)]


async def test_what_is_wrong_is_answered_and_the_rest_is_taken(make_database: DatabaseFactory) -> None:
    """In the order in which it came."""
    database = await make_database(CHASSIS, MIGRATIONS)
    result = await take(database, an_asset(version="x"), an_asset(), b"{", an_asset(name="b"))
    assert counts(result) == (2, 0, 2)
    assert [failure.path for failure in result.failed] == ["0/spec.yaml", "2/spec.yaml"]


async def test_replacements_in_a_circle_are_refused(make_database: DatabaseFactory) -> None:
    """Within a call, and over what is stored."""
    database = await make_database(CHASSIS, MIGRATIONS)
    result = await take(database, replaced("a", "b"), replaced("b", "a"), replaced("c", "d"))
    assert [(failure.path, failure.field) for failure in result.failed] == [
        ("0/spec.yaml", "lifecycle.replacement"),
        ("1/spec.yaml", "lifecycle.replacement"),
    ]
    (failure,) = (await take(database, replaced("d", "c"))).failed
    assert "publishers/acme/models/c → publishers/acme/models/d → publishers/acme/models/c" in failure.reason


async def test_an_import_that_is_killed_leaves_whole_calls(make_database: DatabaseFactory) -> None:
    """Every call is stored wholly or not at all, and beginning anew completes it."""
    database = await make_database(CHASSIS, MIGRATIONS)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", import_child.__name__, database.url, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    told = 0
    while told < 3 * import_child.PER_CALL:
        told = int(await child.stdout.readline())
    child.kill()
    await child.wait()
    stored = len(await rows(database, ModelRow))
    assert stored >= told
    assert stored % import_child.PER_CALL == 0
    result = await take(database, *import_child.ASSETS)
    assert counts(result) == (len(import_child.ASSETS) - stored, stored, 0)


async def test_two_at_once_import_once(make_database: DatabaseFactory) -> None:
    """Each model is stored and announced by one of them."""
    first = await make_database(CHASSIS, MIGRATIONS)
    second = await make_database(CHASSIS, MIGRATIONS)
    assets = [
        an_asset(name=f"model-{number}", system_metadata=metadata(publisher=f"P{number}")) for number in range(20)
    ]
    results = await asyncio.gather(take(first, *assets), take(second, *reversed(assets)))
    assert sorted(counts(result) for result in results) == [(0, 20, 0), (20, 0, 0)]
    assert len(await rows(first, VersionRow)) == len(await rows(first, PublisherRow)) == 20


async def test_a_publisher_is_made_or_found_by_what_it_is_called(make_database: DatabaseFactory) -> None:
    """In any case; one whose id is the slug of the name is the same."""
    database = await make_database(CHASSIS, MIGRATIONS)
    async with database.unit_of_work() as uow:
        uow.session.add(PublisherRow(id="mistral", display_name="Mistral AI", website="https://mistral.ai"))
    for number, name in enumerate(("MISTRAL AI", "Stability AI", "stability-ai")):
        await take(database, an_asset(name=f"m{number}", system_metadata=metadata(publisher=name)))
    assert {row.publisher for row in await rows(database, ModelRow)} == {"mistral", "stability-ai"}
    assert {row.id: row.display_name for row in await rows(database, PublisherRow)} == {
        "mistral": "Mistral AI",
        "stability-ai": "Stability AI",
    }


async def test_a_publisher_that_comes_meanwhile_has_the_models(make_database: DatabaseFactory) -> None:
    """Under its own id, though they were worked out for another."""
    database = await make_database(CHASSIS, MIGRATIONS)
    async with database.unit_of_work() as uow:
        await take_turns(uow, database)
        importing = asyncio.create_task(take(database, an_asset(system_metadata=metadata(publisher="Mistral AI"))))
        await asyncio.sleep(0.2)  # it has looked, and waits for its turn
        uow.session.add(PublisherRow(id="mistral", display_name="Mistral AI", website=""))
    assert counts(await importing) == (1, 0, 0)
    assert [row.publisher for row in await rows(database, ModelRow)] == ["mistral"]
    assert [row.id for row in await rows(database, PublisherRow)] == ["mistral"]


async def test_a_model_of_the_content_is_not_taken_over(make_database: DatabaseFactory) -> None:
    """It belongs to whoever brought it first."""
    database = await make_database(CHASSIS, MIGRATIONS)
    content = CatalogSettings.model_fields["content_dir"].default
    await sync_content(database, ManualClock(), content)
    stranger = an_asset(name="mistral-nemo", system_metadata=metadata(publisher="Mistral AI"))
    assert (await take(database, stranger)).failed == [
        Failure(
            "0/spec.yaml",
            "publisher",
            "'publishers/mistral/models/mistral-nemo' came from 'content', which alone changes it; rename one of them",
        )
    ]


async def test_an_archived_asset_takes_no_new_deployments(make_database: DatabaseFactory) -> None:
    """It stays listed."""
    database = await make_database(CHASSIS, MIGRATIONS)
    await take(database, an_asset(isArchived=True), an_asset(name="b"))
    assert {row.name.rpartition("/")[2]: row.withdrawn for row in await rows(database, ModelRow)} == {
        "Talker-7b": True,
        "b": False,
    }
    assert counts(await take(database, an_asset(isArchived=True))) == (0, 1, 0)


@pytest.mark.samples
async def test_every_published_sample_is_taken_and_given_back(
    make_database: DatabaseFactory, samples_dir: Path
) -> None:
    """Beside the shipped content, once, and each as it came."""
    database = await make_database(CHASSIS, MIGRATIONS)
    settings = CatalogSettings.model_fields
    await sync_content(database, ManualClock(), settings["content_dir"].default)
    lines = [line for line in (samples_dir / "azureml_models.jsonl").read_bytes().splitlines() if line]
    limits = Limits(*(settings[f"import_{name}_max"].default for name in ("asset_bytes", "card_characters", "depth")))
    assert counts(await take(database, *lines, limits=limits)) == (64, 0, 0)
    assert counts(await take(database, *lines, limits=limits)) == (0, 64, 0)
    given_back = [json.dumps(json.loads(line)) for line in await exported(database)]
    assert sorted(given_back) == sorted(json.dumps(json.loads(line)) for line in lines)

"""Folders of reviewed models as sources: previewed, synced, and careful with a mistake."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard.catalog.v1 import catalog_pb2, sources_pb2
from sqlalchemy import select

from services.catalog.domain.errors import SourceInvalid, SourceUnavailable
from services.catalog.domain.lifecycle import Notice
from services.catalog.sources.curated import CuratedBounds, curated_adapters
from services.catalog.sources.packages import PackageStore
from services.catalog.storage.tables import LicenseTextRow, PublisherRow
from tests.clock import START
from tests.integration.catalog.build import listed_only
from tests.integration.catalog.syncing import NAME, TODAY, Platform

SUPPORT = catalog_pb2.Support(supported_by="the reviewers", contact="reviewers@acme.example", sla="by Friday")


@pytest.fixture
def folder(platform: Platform, tmp_path: Path) -> Path:
    """The folder `acme` of a catalog that reads folders."""
    platform.curated_dir = tmp_path / "curated"
    (platform.curated_dir / "acme" / "models").mkdir(parents=True)
    return platform.curated_dir / "acme"


def write(folder: Path, *models: dict[str, Any], name: str = "acme") -> None:
    (folder / "models" / f"{name}.yaml").write_text(yaml.safe_dump({"models": list(models)}))


def a_folder_source(folder: str = "acme", **changes: Any) -> dict[str, Any]:
    return {
        "collection": "collections/curated",
        "provider": None,
        "curated": sources_pb2.CuratedSource(folder=folder),
        "support": SUPPORT,
        **changes,
    }


async def create(platform: Platform, **changes: Any) -> sources_pb2.ModelSource:
    return await platform.create(**a_folder_source(**changes))


def counts(run: sources_pb2.SyncRun) -> dict[str, int]:
    return {field.name: value for field, value in run.counts.ListFields()}


async def test_models_of_a_folder_are_taken_once(platform: Platform, folder: Path) -> None:
    write(folder, listed_only("one"), listed_only("two", license="House-1"))
    write(folder, listed_only("three", publisher="other"), name="other")
    (folder / "licenses").mkdir()
    (folder / "licenses" / "House-1.txt").write_text("Be kind.\n")
    (folder / "publishers.yaml").write_text(
        yaml.safe_dump({"publishers": [{"id": "acme", "display_name": "Acme", "website": "https://acme.example"}]})
    )
    await create(platform)
    assert counts(await platform.sync()) == {"listed": 3, "added": 3}
    assert counts(await platform.sync()) == {"listed": 3, "unchanged": 3}
    rows = await platform.models()
    assert {(row.source, row.collection, row.usability) for row in rows.values()} == {
        ("far", "curated", "NEEDS_HARDWARE")
    }
    assert rows["two"].facts["support"]["contact"] == "reviewers@acme.example"
    async with platform.database.reader() as session:
        acme, other = await session.get(PublisherRow, "acme"), await session.get(PublisherRow, "other")
    assert acme is not None
    assert other is not None
    assert [acme.display_name, acme.website, other.display_name] == ["Acme", "https://acme.example", "other"]


async def test_a_preview_says_what_would_change_and_changes_nothing(platform: Platform, folder: Path) -> None:
    write(folder, listed_only("one"), listed_only("two"))
    await create(platform)
    await platform.sync()
    write(folder, listed_only("one", summary="Otherwise."), listed_only("three"), listed_only("four"))
    said = await platform.preview(**a_folder_source(name=NAME, exclude=["*/four"]))
    changes = {(change.model.rpartition("/")[2], change.change) for change in said.changes}
    assert changes == {("one", "changed"), ("three", "added"), ("two", "withdrawn")}
    assert said.counts.skipped == 1
    assert (await platform.models()).keys() == {"one", "two"}


async def test_what_left_the_folder_takes_no_new_deployments(platform: Platform, folder: Path) -> None:
    write(folder, listed_only("one"), listed_only("two"))
    await create(platform)
    await platform.sync()
    write(folder, listed_only("two"))
    assert counts(await platform.sync())["withdrawn"] == 1
    assert (await platform.models())["one"].withdrawn


async def test_a_mistake_keeps_out_its_model_alone_and_withdraws_nothing(platform: Platform, folder: Path) -> None:
    write(folder, listed_only("one"), listed_only("two"))
    await create(platform)
    await platform.sync()
    write(folder, listed_only("one", colour="red"), listed_only("two", summary="New."), listed_only("three"))
    run = await platform.sync()
    assert counts(run) == {"listed": 2, "added": 1, "changed": 1, "failed": 1}
    (failure,) = run.failures
    assert (failure.model, failure.field) == ("acme/one", "models.0.colour")
    assert failure.reason.startswith("models/acme.yaml:")
    one = (await platform.models())["one"]
    assert (one.withdrawn, one.facts["summary"]) == (False, "Talks.")
    write(folder, listed_only("one", summary="Mended."), listed_only("two", summary="New."), listed_only("three"))
    assert counts(await platform.sync()) == {"listed": 3, "changed": 1, "unchanged": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models:\n  - id: one\n - wrong", "models/acme.yaml:3: is not YAML"),
        ("models:\n  - id: one\n", "models/acme.yaml:2: a model has no publisher or no id"),
        ("model: []\n", "models/acme.yaml"),
    ],
)
async def test_a_file_that_cannot_be_read_ends_the_sync_and_withdraws_nothing(
    platform: Platform, folder: Path, text: str, said: str
) -> None:
    write(folder, listed_only("one"))
    await create(platform)
    await platform.sync()
    write(folder, listed_only("two"), name="two")
    (folder / "models" / "acme.yaml").write_text(text)
    run = await platform.sync()
    assert run.state == sources_pb2.SYNC_STATE_FAILED
    assert said in run.detail
    assert {name: row.withdrawn for name, row in (await platform.models()).items()} == {"one": False}


async def test_models_of_another_collection_twice_or_to_be_installed_are_not_taken(
    platform: Platform, folder: Path
) -> None:
    needs = {"requirements": "x.txt", "download_bytes": 1}
    write(
        folder,
        listed_only("one"),
        listed_only("one"),
        listed_only("elsewhere", collection="far"),
        listed_only("installed", versions=[{"version": "1", "install": needs}]),
    )
    await create(platform)
    run = await platform.sync()
    assert {(one.model, one.field) for one in run.failures} == {
        ("acme/one", "models.1.id"),
        ("acme/elsewhere", "collection"),
        ("acme/installed", "versions.install"),
    }
    assert (await platform.models()).keys() == {"one"}


async def test_a_model_of_the_content_stays_the_contents(platform: Platform, folder: Path) -> None:
    await platform.store()
    write(folder, listed_only("stored", summary="Ours."))
    await create(platform)
    run = await platform.sync()
    assert counts(run) == {"failed": 1}
    assert (await platform.models())["stored"].source == "content"


async def test_an_end_with_less_notice_than_promised_is_refused(platform: Platform, folder: Path) -> None:
    write(folder, listed_only("one"))
    await create(platform)
    await platform.sync()
    soon = (START + timedelta(days=3)).date()
    write(folder, listed_only("one", versions=[{"version": "1", "lifecycle": {"deprecation": soon}}]))
    (failure,) = (await platform.sync()).failures
    assert failure.field == "lifecycle.notice"
    assert not (await platform.models())["one"].withdrawn


async def test_a_licence_is_read_in_its_folder_alone(platform: Platform, folder: Path) -> None:
    (folder / "secret.txt").write_text("a secret")
    write(folder, listed_only("one", license="../secret"))
    await create(platform)
    await platform.sync()
    async with platform.database.reader() as session:
        texts = (await session.execute(select(LicenseTextRow))).scalars().all()
    assert all("a secret" not in row.text for row in texts)


@pytest.mark.parametrize("name", ["../outside", "/etc", "", "a//b", ".hidden", "a/../b", "x" * 257])
async def test_a_folder_elsewhere_is_refused(platform: Platform, folder: Path, name: str) -> None:
    with pytest.raises(SourceInvalid, match=r"curated\.folder"):
        await create(platform, curated=sources_pb2.CuratedSource(folder=name))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"collection": "collections/far"}, "collection"),
        ({"key_reference": "key"}, "key_reference"),
        ({"terms": catalog_pb2.License(id="x")}, "terms"),
    ],
)
async def test_what_a_folder_cannot_have_is_refused(
    platform: Platform, folder: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(SourceInvalid) as refused:
        await create(platform, **changes)
    assert refused.value.field == field


async def test_a_folder_that_is_not_there_or_leads_away_fails_the_sync(platform: Platform, folder: Path) -> None:
    await create(platform, curated=sources_pb2.CuratedSource(folder="absent"))
    assert "'absent' is no folder below" in (await platform.sync()).detail
    (folder.parent / "absent").symlink_to("/etc")
    assert "'absent' is no folder below" in (await platform.sync()).detail
    platform.curated_dir = None
    assert "MODELYARD_CATALOG_CURATED_DIR names none" in (await platform.sync()).detail
    assert (await platform.get(NAME)).model_count == 0


async def test_reading_goes_on_behind_the_last_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says once what is wrong."""
    monkeypatch.setattr("services.catalog.sources.curated._BATCH_MODELS", 2)
    write(folder, *(listed_only(name) for name in "edcba"), listed_only("f", colour="red"))
    spec = sources_pb2.ModelSource(collection="collections/curated", curated=sources_pb2.CuratedSource(folder="acme"))
    adapter = curated_adapters(folder.parent, PackageStore(None), Notice(), CuratedBounds())(spec, TODAY)
    read = [batch async for batch in adapter.batches("")]
    assert [[record.model for record in batch.records] for batch in read] == [["a", "b"], ["c", "d"], ["e"]]
    assert [len(batch.failures) for batch in read] == [1, 0, 0]
    assert [batch.cursor for batch in read] == ["acme/b", "acme/d", ""]
    rest = [batch async for batch in adapter.batches("acme/b")]
    assert [[record.model for record in batch.records] for batch in rest] == [["c", "d"], ["e"]]
    assert [len(batch.failures) for batch in rest] == [0, 0]
    assert list(rest[-1].kept) == ["publishers/acme/models/f"]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [(CuratedBounds(file_bytes_max=100), "at most 100 are allowed"), (CuratedBounds(models_max=1), "has 2 models")],
)
async def test_a_folder_beyond_its_limits_is_not_read(folder: Path, bounds: CuratedBounds, said: str) -> None:
    write(folder, listed_only("one"), listed_only("two"))
    spec = sources_pb2.ModelSource(collection="collections/curated", curated=sources_pb2.CuratedSource(folder="acme"))
    adapter = curated_adapters(folder.parent, PackageStore(None), Notice(), bounds)(spec, TODAY)
    with pytest.raises(SourceUnavailable, match=said):
        await anext(adapter.batches(""))

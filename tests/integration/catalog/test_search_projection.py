"""A replica's index follows the database, whatever happens to the replica or to the index."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import delete, update

from chassis.database import Database
from services.catalog.domain.errors import SearchFolderLocked, SearchUnavailable
from services.catalog.main import MIGRATIONS
from services.catalog.search import generations
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import CHASSIS, ModelRow
from tests.conftest import DatabaseFactory
from tests.integration.catalog.searching import ids_of, record, searched

COUNT = 60
NAMES = [f"model-{number:03}" for number in range(COUNT)]


@pytest_asyncio.fixture
async def database(make_database: DatabaseFactory, tmp_path: Path) -> AsyncIterator[Database]:
    """With COUNT models in it."""
    database = await make_database(CHASSIS, MIGRATIONS)
    async with searched(database, tmp_path / "writer") as writer:
        await writer.put(*(record(name) for name in NAMES))
    yield database


async def test_changes_are_followed(database: Database, tmp_path: Path) -> None:
    """New models, other facts, and models that left their source; and the index says when it was in step."""
    async with searched(database, tmp_path / "index") as replica:
        began = replica.clock.now()
        assert (await replica.ask("model")).index_time.ToDatetime(began.tzinfo) == began
        replica.clock.advance(10)
        await replica.put(record("newcomer"), record(NAMES[0], tags=("changed",)))
        async with database.unit_of_work() as uow:
            models = table(ModelRow)
            gone = models.c.name == f"publishers/acme/models/{NAMES[1]}"
            change = {"withdrawn": True, "change_sequence": models.c.change_sequence + 1000}
            await uow.session.execute(update(models).where(gone).values(change))
        assert await replica.names("newcomer") == []
        await replica.catch_up()
        response = await replica.ask("model", page_size=1000)
        assert response.index_time.ToDatetime(began.tzinfo) == replica.clock.now()
        assert [await replica.names("newcomer"), await replica.names("changed")] == [["newcomer"], [NAMES[0]]]
        assert sorted(ids_of(response)) == [name for name in NAMES if name != NAMES[1]]


async def test_changes_that_follow_each_other_share_a_commit(database: Database, tmp_path: Path) -> None:
    """Where they are many; until then the answer counts them."""
    async with searched(database, tmp_path / "index", commit_few_models=0, commit_s=0.3) as replica:
        await replica.put(record("newcomer"))
        assert not await replica.projection.step()
        response = await replica.ask("newcomer")
        assert (ids_of(response), response.pending_changes) == ([], 1)
        await replica.put(record("latecomer"))
        await replica.catch_up()
        response = await replica.ask("comer")
        assert response.pending_changes == 0
        assert [await replica.names(name) for name in ("newcomer", "latecomer")] == [["newcomer"], ["latecomer"]]


async def test_many_changes_are_made_visible_when_no_more_come(database: Database, tmp_path: Path) -> None:
    """Not only when the time of those that keep coming is over."""
    limits = {"commit_few_models": 0, "commit_s": 600, "commit_quiet_s": 0.1, "poll_s": 0.02}
    async with searched(database, tmp_path / "index", **limits) as replica:
        await replica.put(record("newcomer"))
        assert not await replica.projection.step()
        assert await replica.names("newcomer") == []
        await replica.catch_up()
        assert await replica.names("newcomer") == ["newcomer"]


async def test_replicas_give_the_same_order(database: Database, tmp_path: Path) -> None:
    """One built at once and one that followed, in segments of their own: page by page the same."""
    async with searched(database, tmp_path / "followed", batch_models=3, commit_models=3) as followed:
        await followed.put(*(record(name, summary="Changed.") for name in NAMES[::7]))
        await followed.catch_up()
        async with searched(database, tmp_path / "at-once") as at_once:
            for order_by in ("", "create_time"):
                for query in ("", "model", "modle-007"):
                    assert await followed.all_pages(query, page_size=7, order_by=order_by) == await at_once.all_pages(
                        query, page_size=7, order_by=order_by
                    )


async def test_a_kill_while_it_is_built_loses_and_doubles_nothing(database: Database, tmp_path: Path) -> None:
    """What was committed is kept, and the rest is read again."""
    folder = tmp_path / "index"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.catalog.search_child",
        database.url,
        str(folder),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    for _ in range(3):
        assert await child.stdout.readline() == b"committed\n"
    child.kill()
    await child.wait()
    async with searched(database, folder) as replica:
        assert sorted(ids_of(await replica.ask(page_size=1000))) == NAMES


async def test_a_damaged_index_is_built_anew_at_the_start(database: Database, tmp_path: Path) -> None:
    """Files that are cut short are found when they are opened."""
    folder = tmp_path / "index"
    async with searched(database, folder):
        pass
    for file in folder.glob("*/*.fast"):
        file.write_bytes(file.read_bytes()[:10])
    async with searched(database, folder) as replica:
        assert sorted(ids_of(await replica.ask(page_size=1000))) == NAMES


async def test_an_index_that_breaks_is_replaced_while_it_serves(database: Database, tmp_path: Path) -> None:
    """The search that finds it broken is refused with the way out; the next ones are answered by a new index."""
    async with searched(database, tmp_path / "index") as replica:

        def break_down(_: object) -> None:
            raise ValueError("a file is gone")

        serving = replica.projection._serving
        assert serving is not None
        kept, serving.read = serving.read, lambda work, helpers: kept(break_down)  # type: ignore[method-assign]
        with pytest.raises(SearchUnavailable) as refused:
            await replica.ask("model")
        assert refused.value.retry_after_s
        await replica.catch_up()
        assert sorted(ids_of(await replica.ask(page_size=1000))) == NAMES
        assert not serving.folder.exists()


async def test_the_old_index_answers_while_another_is_built(database: Database, tmp_path: Path) -> None:
    """Until the new one is in step."""
    async with searched(database, tmp_path / "index", batch_models=10) as replica:
        replica.projection._rebuild_wanted = True
        assert not await replica.projection.step()
        assert (await replica.ask()).total_count == COUNT
        await replica.catch_up()
        assert (await replica.ask()).total_count == COUNT
        assert len([one for one in (tmp_path / "index").iterdir() if one.is_dir()]) == 1


async def test_an_index_of_another_database_is_not_taken(database: Database, tmp_path: Path) -> None:
    """Whatever it holds."""
    folder, other = tmp_path / "index", Database(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}", CHASSIS)
    await other.migrate(MIGRATIONS)
    async with searched(other, folder) as replica:
        await replica.put(*(record(f"other-{number}") for number in range(5)))
        await replica.catch_up()
    await other.dispose()
    async with searched(database, folder) as replica:
        assert sorted(ids_of(await replica.ask(page_size=1000))) == NAMES


async def test_models_that_were_removed_meanwhile_are_forgotten(database: Database, tmp_path: Path) -> None:
    """By a replica that was away when they left their source, and until they were removed."""
    folder = tmp_path / "index"
    async with searched(database, folder):
        pass
    async with database.unit_of_work() as uow:
        models = table(ModelRow)
        await uow.session.execute(delete(models).where(models.c.name == f"publishers/acme/models/{NAMES[5]}"))
    async with searched(database, folder) as replica:
        response = await replica.ask(page_size=1000)
        assert sorted(ids_of(response)) == [name for name in NAMES if name != NAMES[5]]
        assert response.total_count == COUNT - 1


async def test_another_schema_builds_another_index(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that knows other fields does not read the files of the one before."""
    folder = tmp_path / "index"
    async with searched(database, folder):
        pass
    before = (folder / "current").read_text()
    monkeypatch.setattr(generations, "SCHEMA_VERSION", generations.SCHEMA_VERSION + 1)
    async with searched(database, folder) as replica:
        assert (folder / "current").read_text() != before
        assert (await replica.ask()).total_count == COUNT


async def test_a_folder_is_one_replica_alone(database: Database, tmp_path: Path) -> None:
    """A second one is told so, and changes nothing there."""
    async with searched(database, tmp_path / "index") as first:
        with pytest.raises(SearchFolderLocked, match="a data folder of its own"):
            async with searched(database, tmp_path / "index"):
                pass
        assert len(await first.names()) == 50

"""Real parts for tests: a broker, databases, samples. A missing part is an error that names the way out."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytest_asyncio
from sqlalchemy import MetaData

from chassis.database import ChassisTables, Database
from tests.infra import workers
from tests.infra.broker import Broker, running_broker
from tests.infra.databases import POSTGRESQL, SQLITE, Databases, databases_for_tests
from tests.infra.platform import PlatformUnderTest, platform_under_test

DATABASES = (SQLITE, POSTGRESQL)
SAMPLES_VARIABLE = "MODELYARD_SAMPLES"

# (tables, metadata): every table is made from the metadata. (tables, script_location): it is migrated.
DatabaseFactory = Callable[[ChassisTables, MetaData | Path], Awaitable[Database]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database", choices=[*DATABASES, "all"], default="all", help="databases to test with (default: all)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--database")
        kinds = DATABASES if chosen == "all" else (chosen,)
        metafunc.parametrize("database_url", kinds, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get(SAMPLES_VARIABLE):
        _leave_out_samples(config, items)
    if _is_worker(config):
        items[:] = workers.in_order(items)


def _leave_out_samples(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.get_closest_marker("samples") is not None]
    if left_out:
        config.stash[_LEFT_OUT] = len(left_out)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.get_closest_marker("samples") is None]


_LEFT_OUT = pytest.StashKey[int]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return workers.worker_count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> workers.GroupScheduling | None:
    """`-n` alone means our own; an explicit `--dist` means what it says."""
    if config.getoption("dist") != "load":
        return None
    config.option.loadscopereorder = False
    return workers.GroupScheduling(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_worker(session.config):
        session.config.workeroutput["left_out"] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each worker has collected all tests, and has left out the same ones."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{left_out} tests on real asset files were left out: set {SAMPLES_VARIABLE} to their folder"
        )


@pytest.fixture(autouse=True)
def no_sockets_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit tests touch no network."""
    if "unit" not in request.path.relative_to(request.config.rootpath).parts:
        return

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("unit tests open no sockets; this one belongs into tests/integration")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)


@pytest.fixture
def samples_dir() -> Path:
    """Folder of real asset files; tests that take it carry `@pytest.mark.samples`."""
    return Path(os.environ[SAMPLES_VARIABLE])


@pytest_asyncio.fixture(scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """One broker for all tests; take `nats`, which empties it."""
    async with running_broker(tmp_path_factory.mktemp("nats")) as broker:
        yield broker


@pytest_asyncio.fixture
async def nats(nats_server: Broker) -> AsyncIterator[Broker]:
    """The broker, with every stream and bucket empty. Do not stop it: take `own_nats` for that."""
    await nats_server.clear()
    yield nats_server
    await nats_server.close_opened()


@pytest_asyncio.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker of the test's own, to be killed and started again."""
    async with running_broker(tmp_path / "broker") as broker:
        yield broker


@pytest_asyncio.fixture(scope="session")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlatformUnderTest]:
    """One whole platform for all tests that only call it; each makes projects of its own."""
    async with platform_under_test(tmp_path_factory.mktemp("platform") / "data") as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def databases(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    """Lends databases; take `database_url` or `make_database`."""
    async with databases_for_tests(tmp_path_factory.mktemp("migrated")) as made:
        yield made


@pytest_asyncio.fixture
async def database_url(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> AsyncIterator[str]:
    """URL of an empty database, once on SQLite and once on PostgreSQL (`--database` chooses)."""
    async with databases.lent(request.param, tmp_path) as url:
        if "make_database" not in request.fixturenames:
            await databases.empty(url)
        yield url


@pytest_asyncio.fixture
async def make_database(database_url: str, databases: Databases) -> AsyncIterator[DatabaseFactory]:
    """Opens the test's database with its tables made or migrated; opening it twice gives two pools."""
    opened: list[Database] = []

    async def make(tables: ChassisTables, schema: MetaData | Path) -> Database:
        if not opened and isinstance(schema, Path):
            await databases.migrate(database_url, schema)
        elif not opened:
            await databases.create_tables(database_url, schema)
        opened.append(Database(database_url, tables))
        return opened[-1]

    yield make
    for database in opened:
        await database.dispose()


@pytest.fixture(scope="session", autouse=True)
def _quiet_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the developer's environment steers the services under test."""
    kept = {name: value for name, value in os.environ.items() if _steers(name)}
    for name in kept:
        del os.environ[name]
    yield
    os.environ.update(kept)


def _steers(name: str) -> bool:
    return name.startswith("MODELYARD_") and not name.startswith(("MODELYARD_TEST_", SAMPLES_VARIABLE))

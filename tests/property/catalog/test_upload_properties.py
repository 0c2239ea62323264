"""However an upload is cut, repeated and begun again: what lies in the store is the file, whole, once, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.catalog.v1 import registry_pb2

from chassis.database import Database
from services.catalog.artifacts.store import ArtifactStore, StoreSettings
from services.catalog.domain.own.errors import UploadOffsetWrong
from services.catalog.main import MIGRATIONS
from services.catalog.storage.queries.registry import parts
from services.catalog.storage.tables import CHASSIS
from tests.infra.registry import Registry, digest


@dataclass
class Uploads:
    """A registry, and the loop that its database belongs to."""

    registry: Registry
    runner: asyncio.Runner


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploads]:
    folder = tmp_path_factory.mktemp("uploads")
    database = Database(f"sqlite+aiosqlite:///{folder / 'catalog.db'}", CHASSIS)
    with asyncio.Runner() as runner:
        runner.run(database.migrate(MIGRATIONS))
        store = ArtifactStore(StoreSettings((folder / "store").as_uri()))
        yield Uploads(Registry(database, store, folder / "checks"), runner)
        runner.run(database.dispose())


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=40), seed=st.integers(0, 2**32))
def test_an_upload_resumed_at_any_cut_is_the_file(uploads: Uploads, data: bytes, seed: int) -> None:
    """Parts of any length, sent twice, out of order, at once with another client, after an answer that was lost."""
    uploads.runner.run(_uploaded_with_troubles(uploads.registry, data, random.Random(seed)))


async def _uploaded_with_troubles(registry: Registry, data: bytes, rng: random.Random) -> None:
    registry.act_as("shop")
    upload = await registry.begin(data)
    uid = upload.name.rpartition("/")[2]
    while upload.state == registry_pb2.UPLOAD_STATE_RECEIVING:
        at = upload.received_bytes
        ends = [rng.randint(at + 1, len(data)) for _ in range(rng.choice((1, 1, 1, 3)))]
        # Clients that race for one place, of which one is counted and the others come late or not at their place.
        answers = await asyncio.gather(
            *(registry.send(upload, at, data[at:end]) for end in ends), return_exceptions=True
        )
        assert all(isinstance(one, registry_pb2.Upload | UploadOffsetWrong) for one in answers), answers
        if rng.random() < 0.3:
            began = rng.randint(0, len(data) - 1)
            with_gap = began > (await registry.get(upload)).received_bytes
            wrong = await asyncio.gather(registry.send(upload, began, data[began:]), return_exceptions=True)
            assert isinstance(wrong[0], UploadOffsetWrong) or not with_gap
        # The answer may be lost: the upload itself says where to go on.
        upload = await registry.get(upload)
        assert upload.received_bytes > at
    async with registry.database.reader() as session:
        counted = await parts(session, uid)
    stored = b"".join([await registry.store.read_part(uid, part.part) for part in counted])
    assert digest(stored) == upload.sha256 == digest(data)
    await registry.servicer.DeleteUpload(registry_pb2.DeleteUploadRequest(name=upload.name), None)

"""Weights on this machine: whole, checked, kept once, and dropped only when nobody uses them."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from services.deploy.weights.cache import CacheLimits, WeightsCache
from services.deploy.weights.interface import WeightsInterrupted, WeightsRefused
from tests.infra.instances import wait_until
from tests.infra.weights import WeightsInMemory, a_file

CONTENT = b"forty-two bytes of weights, give or take.."
LOST = WeightsInterrupted("the line is dead")
# Attempts follow each other at once.
EAGER = CacheLimits(bytes_max=100, attempts_max=3, backoff_s=0)


@pytest.fixture
def source() -> WeightsInMemory:
    return WeightsInMemory()


@pytest.fixture
def cache(tmp_path: Path, source: WeightsInMemory) -> WeightsCache:
    return WeightsCache(tmp_path / "weights", source, EAGER)


async def test_a_file_is_pulled_once(cache: WeightsCache, source: WeightsInMemory) -> None:
    """Two versions that share a content share the file, each under its own name."""
    file = source.add(CONTENT)
    same = a_file(CONTENT, "other.bin")
    paths = await cache.fetch([file, same])
    assert paths == await cache.fetch([same, file])
    assert {path.read_bytes() for path in paths.values()} == {CONTENT}
    assert source.asked == [(file.sha256, 0)]


async def test_many_at_once_pull_it_once(cache: WeightsCache, source: WeightsInMemory) -> None:
    """Instances of one deployment start together."""
    file = source.add(CONTENT)
    await asyncio.gather(*(cache.fetch([file]) for _ in range(5)))
    assert len(source.asked) == 1


async def test_it_goes_on_where_it_was_interrupted(cache: WeightsCache, source: WeightsInMemory) -> None:
    """Nothing comes twice; attempts that brought something do not count as failed."""
    file = source.add(CONTENT)
    source.faults += [(2, LOST)] * 5
    assert (await cache.fetch([file]))[file.name].read_bytes() == CONTENT
    assert [offset for _, offset in source.asked] == [0, 8, 16, 24, 32, 40]


async def test_another_process_goes_on_too(tmp_path: Path, cache: WeightsCache, source: WeightsInMemory) -> None:
    """What came lies on disk: the next process asks for the rest only."""
    file = source.add(CONTENT)
    source.free_pieces = 3
    source.gate.clear()
    pulling = asyncio.ensure_future(cache.fetch([file]))
    await wait_until(lambda: cache.received_bytes([file]) == 12)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)
    source.gate.set()
    await WeightsCache(tmp_path / "weights", source, EAGER).fetch([file])
    assert [offset for _, offset in source.asked] == [0, 12]


async def test_it_gives_up_when_nothing_comes(cache: WeightsCache, source: WeightsInMemory) -> None:
    """After the attempts it may make; what had come stays."""
    file = source.add(CONTENT)
    source.faults += [(1, LOST), (0, LOST), (0, LOST)]
    with pytest.raises(WeightsInterrupted, match="the line is dead"):
        await cache.fetch([file])
    assert cache.received_bytes([file]) == 4
    assert not cache.path(file.sha256).exists()


async def test_a_source_that_ends_early_is_asked_again(cache: WeightsCache, source: WeightsInMemory) -> None:
    """A stream that just stops is an interruption, not a file."""
    file = source.add(CONTENT)
    source.contents[file.sha256] = CONTENT[:10]
    with pytest.raises(WeightsInterrupted, match="ended after 10 of 42 bytes"):
        await cache.fetch([file])


@pytest.mark.parametrize("wrong", [CONTENT[::-1], CONTENT + b"more"], ids=["other bytes", "more bytes"])
async def test_another_content_is_never_kept(cache: WeightsCache, source: WeightsInMemory, wrong: bytes) -> None:
    """It is pulled anew once, from its start; then the source is to blame."""
    file = source.add(CONTENT)
    source.contents[file.sha256] = wrong
    with pytest.raises(WeightsRefused, match="are expected"):
        await cache.fetch([file])
    assert [offset for _, offset in source.asked] == [0, 0]
    assert cache.received_bytes([file]) == 0


async def test_a_damaged_beginning_is_found(tmp_path: Path, cache: WeightsCache, source: WeightsInMemory) -> None:
    """What lay there is hashed with what comes: a torn part costs one more pull and nothing else."""
    file = source.add(CONTENT)
    (tmp_path / "weights" / "partial" / file.sha256).write_bytes(b"\0" * 9)
    assert (await cache.fetch([file]))[file.name].read_bytes() == CONTENT
    assert [offset for _, offset in source.asked] == [9, 0]


async def test_a_file_that_lost_its_end_is_pulled_anew(cache: WeightsCache, source: WeightsInMemory) -> None:
    """A size that is not the file's is no file."""
    file = source.add(CONTENT)
    path = (await cache.fetch([file]))[file.name]
    path.chmod(0o600)
    path.write_bytes(CONTENT[:5])
    assert (await cache.fetch([file]))[file.name].read_bytes() == CONTENT


async def test_an_empty_file(cache: WeightsCache, source: WeightsInMemory) -> None:
    """Nothing is asked for, and nothing is missing."""
    file = source.add(b"")
    assert (await cache.fetch([file]))[file.name].read_bytes() == b""
    assert source.asked == []


async def test_the_longest_unused_makes_room(cache: WeightsCache, source: WeightsInMemory) -> None:
    """Asking for a file is a use of it."""
    old, older, new = (source.add(bytes([number]) * 40) for number in range(3))
    for file in (old, older):
        await cache.fetch([file])
    os.utime(cache.path(older.sha256), (1, 1))
    await cache.fetch([new])
    assert [cache.path(file.sha256).exists() for file in (old, older, new)] == [True, False, True]


async def test_what_is_in_use_stays(cache: WeightsCache, source: WeightsInMemory) -> None:
    """Rather is the new one refused, with what is missing and the way out."""
    used, unused, new = (source.add(bytes([number]) * 40) for number in range(3))
    for file in (used, unused):
        await cache.fetch([file])
    os.utime(cache.path(used.sha256), (1, 1))
    await cache.fetch([new], in_use={used.sha256})
    assert [cache.path(file.sha256).exists() for file in (used, unused)] == [True, False]
    with pytest.raises(WeightsRefused, match="MODELYARD_DEPLOY_WEIGHTS_BYTES_MAX"):
        await cache.fetch([unused], in_use={used.sha256, new.sha256})


async def test_running_pulls_have_their_room(cache: WeightsCache, source: WeightsInMemory) -> None:
    """Two that fit one by one do not fit together, and neither takes the other's place."""
    first, second = source.add(b"1" * 60), source.add(b"2" * 60)
    source.gate.clear()
    pulling = asyncio.ensure_future(cache.fetch([first]))
    await wait_until(lambda: bool(source.asked))
    with pytest.raises(WeightsRefused, match="do not fit"):
        await cache.fetch([second])
    source.gate.set()
    assert await pulling
    assert await cache.fetch([second])


async def test_a_file_that_just_became_whole_counts_once(
    cache: WeightsCache, source: WeightsInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room is still promised to the one that pulled it; another that needs it finds room all the same."""
    file, ready, real = source.add(b"1" * 60), threading.Event(), os.utime
    monkeypatch.setattr(os, "utime", lambda path: ready.wait(60) and real(path))
    pulling = asyncio.ensure_future(cache.fetch([file]))
    await wait_until(cache.path(file.sha256).exists)
    beside = asyncio.ensure_future(cache.fetch([file]))
    await asyncio.wait([beside], timeout=0.2)
    ready.set()
    assert await pulling == await beside


async def test_what_never_came_whole_makes_room_first(
    tmp_path: Path, cache: WeightsCache, source: WeightsInMemory
) -> None:
    """Parts of a version that nobody wants any more do not fill the folder."""
    (tmp_path / "weights" / "partial" / "ab").write_bytes(b"x" * 90)
    file = source.add(CONTENT)
    await cache.fetch([file])
    assert not (tmp_path / "weights" / "partial" / "ab").exists()

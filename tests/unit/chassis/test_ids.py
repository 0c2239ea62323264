"""Identifiers are well formed, ordered in time, and derived ones never meet by accident."""

from __future__ import annotations

import time
import uuid

import pytest

from chassis import ids
from chassis.ids import derived_uid, new_uid, uid_time_ms


def test_a_new_uid_is_a_uuid7_of_now() -> None:
    """Version 7, RFC variant, lower case, with the current time inside."""
    before = time.time_ns() // 1_000_000
    parsed = uuid.UUID(uid := new_uid())
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, uid)
    assert before <= uid_time_ms(uid) <= time.time_ns() // 1_000_000 + 10


def test_uids_of_one_process_sort_in_the_order_they_were_made() -> None:
    """Also those of one millisecond."""
    made = [new_uid() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_uids_sort_while_the_wall_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stepped clock neither repeats nor reorders."""
    first = new_uid()
    real = time.time_ns
    monkeypatch.setattr(ids.time, "time_ns", lambda: real() - 3_600 * 10**9)
    assert new_uid() > first


def test_a_given_time_is_inside() -> None:
    """Callers with a clock of their own stamp the id themselves."""
    assert uid_time_ms(new_uid(1_700_000_000_123)) == 1_700_000_000_123
    with pytest.raises(ValueError, match="does not fit"):
        new_uid(1 << 48)


def test_only_uuid7_has_a_time() -> None:
    """Other versions carry none."""
    with pytest.raises(ValueError, match="no UUIDv7"):
        uid_time_ms(str(uuid.uuid4()))


def test_derived_uids_keep_their_parts_apart() -> None:
    """Same parts, same id; parts that only look alike when joined, another."""
    assert derived_uid("window", "a", "b") == derived_uid("window", "a", "b")
    others = [("window", "ab"), ("window", "a", "b", ""), ("window", "b", "a"), ("line", "a", "b")]
    assert len({derived_uid(*parts) for parts in [*others, ("window", "a", "b")]}) == 5

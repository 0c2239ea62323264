"""Filters and orders as people write them."""

from __future__ import annotations

from datetime import date

import pytest

from chassis.errors import InvalidArgument
from services.catalog.domain.lifecycle import Stage
from services.catalog.domain.search import (
    FACETS,
    NANO,
    Limits,
    Operator,
    Order,
    published_day,
    read_filter,
    read_order,
    value_words,
)


@pytest.mark.parametrize(
    ("facet", "text", "value"),
    [
        ("license", " Apache-2.0 ", "apache-2.0"),
        ("context_tokens", "131072", 131_072),
        ("context_tokens", "128k", 128_000),
        ("parameter_count", "1.5B", 1_500_000_000),
        ("parameter_count", "7b", 7_000_000_000),
        ("size_bytes", "0", 0),
        ("input_price", "0.15", 15 * NANO // 100),
        ("output_price", "0.000000001", 1),
        ("create_time", "2026-01-31", date(2026, 1, 31).toordinal()),
        ("stage", "Legacy", Stage.LEGACY),
    ],
)
def test_values_are_read_by_their_facet(facet: str, text: str, value: object) -> None:
    """Words without regard to case; numbers short or long."""
    assert read_filter(facet, Operator.EQ, [text], Limits()).values == (value,)


@pytest.mark.parametrize(
    ("facet", "text"),
    [
        ("license", "  "),
        ("context_tokens", "1.5"),
        ("context_tokens", "-1"),
        ("context_tokens", "NaN"),
        ("context_tokens", "1e999"),
        ("context_tokens", "k"),
        ("input_price", "free"),
        ("create_time", "2026-02-30"),
        ("stage", "gone"),
    ],
)
def test_other_values_are_refused(facet: str, text: str) -> None:
    """With the facet and what it takes."""
    with pytest.raises(InvalidArgument, match=facet):
        read_filter(facet, Operator.EQ, [text], Limits())


@pytest.mark.parametrize("facet", [facet for facet in FACETS.values() if facet.is_number], ids=lambda facet: facet.name)
def test_numbers_are_written_as_they_are_read(facet: object) -> None:
    """What a count shows can be used as a filter."""
    value = 734_567
    text = value_words(facet, value)  # type: ignore[arg-type]
    assert read_filter(facet.name, Operator.EQ, [text], Limits()).values == (value,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", Order()),
        ("relevance", Order()),
        ("context_tokens", Order(FACETS["context_tokens"])),
        ("input_price asc", Order(FACETS["input_price"])),
        (" create_time desc ", Order(FACETS["create_time"], descending=True)),
    ],
)
def test_orders(text: str, order: Order) -> None:
    assert read_order(text) == order


@pytest.mark.parametrize(
    ("text", "day"),
    [("2025-07-28", date(2025, 7, 28)), ("2024-04", date(2024, 4, 1)), ("June 2024", None), ("", None)],
)
def test_days_as_sources_write_them(text: str, day: date | None) -> None:
    """Those that cannot be ordered are left alone."""
    assert published_day(text) == (day.toordinal() if day else None)

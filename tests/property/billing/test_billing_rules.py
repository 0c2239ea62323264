"""Rules of prices, windows, watermarks and records that hold for every input."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from modelyard.type.v1 import usage_pb2

from chassis.clock import time_from_us
from services.billing.domain.bill import AMOUNT_PLACES, LineKey, Sum, charge_line, total
from services.billing.domain.meters import CALL_METERS, Meter
from services.billing.domain.periods import period_of, posting_period
from services.billing.domain.prices import UNITS_PER_PRICE, OfferKind, Price
from services.billing.domain.usage import UsageFact, contiguous, digest
from services.billing.domain.windows import HOUR_MS, Life, cut
from services.billing.events.consumed import usage_from_proto
from services.billing.events.published import usage_to_proto
from services.billing.storage.reads import fact_from_row, price_from_row
from services.billing.storage.tables import PriceRow, UsageRow
from services.billing.usecases.post_usage import usage_values
from services.billing.usecases.prices import price_values
from tests.integration.billing.build import tokens_price, usage

quantities = st.integers(0, 10**15)
amounts = st.decimals(min_value=0, max_value=10**6, places=9, allow_nan=False, allow_infinity=False)
moments = st.integers(0, 5 * 24 * HOUR_MS)
times = st.integers(1_600_000_000_000_000, 4_000_000_000_000_000).map(time_from_us)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40)

KEY = LineKey("d", "m", Meter.INPUT_TOKENS, "p", "k")


def price_of(amount: Decimal) -> Price:
    return Price("p", "r", OfferKind.SERVERLESS, "USD", {Meter.INPUT_TOKENS: amount}, 0, datetime.now(UTC), "s")


def charged(amount: Decimal, quantity: int) -> Decimal:
    return charge_line(KEY, price_of(amount).rate(Meter.INPUT_TOKENS), Sum(quantity, 0, 1)).amount


@given(amounts, quantities, quantities)
def test_more_usage_never_costs_less(amount: Decimal, quantity: int, more: int) -> None:
    """Rounding included."""
    assert charged(amount, quantity) <= charged(amount, quantity + more)


@given(amounts, st.lists(quantities, max_size=20))
def test_a_line_does_not_depend_on_how_usage_was_split(amount: Decimal, parts: list[int]) -> None:
    """The line is charged for the sum, rounded once; posted and open alike."""
    rate = price_of(amount).rate(Meter.INPUT_TOKENS)
    whole = charge_line(KEY, rate, Sum(sum(parts), 0, len(parts)))
    split = charge_line(KEY, rate, Sum(sum(parts[1:]), sum(parts[:1]), len(parts)))
    assert (whole.exact, whole.amount) == (split.exact, split.amount)
    assert sum((charge_line(KEY, rate, Sum(part, 0, 1)).exact for part in parts), Fraction(0)) == whole.exact


@given(amounts, quantities, st.sampled_from(sorted(UNITS_PER_PRICE)))
def test_a_charge_is_the_price_by_the_part(amount: Decimal, quantity: int, meter: Meter) -> None:
    """Of a million tokens, a minute of audio, a thousand images: exactly, and off by half of the last place at most
    once rounded."""
    price = Price("p", "r", OfferKind.SERVERLESS, "USD", {meter: amount}, 0, datetime.now(UTC), "s")
    line = charge_line(replace(KEY, meter=meter), price.rate(meter), Sum(quantity, 0, 1))
    assert line.exact * UNITS_PER_PRICE[meter] == Fraction(amount) * quantity
    assert abs(Fraction(line.amount) - line.exact) * 2 <= Fraction(1, 10**AMOUNT_PLACES)


@given(st.lists(st.tuples(amounts, quantities), max_size=10))
def test_the_total_is_what_the_lines_add_up_to(lines: list[tuple[Decimal, int]]) -> None:
    """In any order, with every digit."""
    charged_lines = [
        charge_line(KEY, price_of(amount).rate(Meter.INPUT_TOKENS), Sum(quantity, 0, 1)) for amount, quantity in lines
    ]
    expected = sum((Fraction(line.amount) for line in charged_lines), Fraction(0))
    assert Fraction(total(charged_lines)) == Fraction(total(charged_lines[::-1])) == expected


@given(st.integers(1, 64), moments, moments, st.none() | moments)
def test_windows_cover_a_life_exactly(vcpus: int, allocate: int, through: int, release: int | None) -> None:
    """No gap, no overlap, none over a full hour, every core-millisecond once."""
    life = Life("i", vcpus, allocate, through, release)
    windows = cut(life)
    edges = [life.allocate_ms, *(window.end_ms for window in windows)]
    assert [window.start_ms for window in windows] == edges[:-1]
    assert edges[-1] == life.end_ms
    assert sum(window.core_ms for window in windows) == vcpus * (life.end_ms - life.allocate_ms)
    for window in windows:
        assert window.start_ms < window.end_ms
        assert window.start_ms // HOUR_MS == (window.end_ms - 1) // HOUR_MS
    assert [window for window in windows if not window.closed] == [
        window for window in windows[-1:] if release is None and life.end_ms % HOUR_MS
    ]


@given(moments, st.lists(moments, max_size=10), moments)
def test_windows_are_the_same_whenever_the_instance_was_looked_at(
    allocate: int, sightings: list[int], release: int
) -> None:
    """Posting what is closed at each sighting and at the end gives what the end alone gives."""
    posted = []
    open_from: int | None = None
    through = 0
    for sighting in sightings:
        through = max(through, sighting)
        closed = [window for window in cut(Life("i", 2, allocate, through, None), open_from) if window.closed]
        posted += closed
        open_from = closed[-1].end_ms if closed else open_from
    end = max(release, through, allocate)
    posted += cut(Life("i", 2, allocate, through, end), open_from)
    assert posted == cut(Life("i", 2, allocate, 0, end))


@given(st.permutations(range(1, 9)), st.integers(0, 3))
def test_a_watermark_is_contiguous(order: list[int], repeats: int) -> None:
    """After each arrival it stands just before the first one that is missing."""
    present: list[int] = []
    committed = 0
    for sequence in order:
        present = sorted([*present, sequence, *present[:repeats]])
        committed = contiguous(committed, [known for known in present if known > committed])
        missing = next(number for number in range(1, 10) if number not in present)
        assert committed == missing - 1


@given(times, times, st.sets(times.map(period_of)))
def test_a_record_is_posted_into_an_open_month(occurred: datetime, now: datetime, closed: set[str]) -> None:
    """Its own while that is open, else the first one that is from the running one on, as a correction."""
    period, correction = posting_period(period_of(occurred), period_of(now), closed)
    assert period not in closed
    assert correction == (period_of(occurred) in closed)
    assert (period >= period_of(now)) if correction else (period == period_of(occurred))


facts = st.builds(
    usage,
    number=st.integers(1, 10**6),
    model_version=words,
    key_id=words,
    price_version=words,
    quote=words,
    outcome=st.integers(1, 5),
    occur_time=times,
    request_id=words,
    quantities=st.dictionaries(st.sampled_from(CALL_METERS), st.integers(0, 10**12)).map(
        lambda counted: tuple(sorted((int(meter), value) for meter, value in counted.items()))
    ),
)


@given(facts)
def test_a_record_comes_back_from_its_message(fact: UsageFact) -> None:
    """Record to message, over the wire, to record; the digest stays."""
    message = usage_pb2.UsageRecord.FromString(usage_to_proto(fact).SerializeToString())
    assert usage_from_proto(message) == fact
    assert digest(usage_from_proto(message)) == digest(fact)


@given(facts)
def test_a_record_comes_back_from_its_row(fact: UsageFact) -> None:
    """Also what was not counted: nothing and zero are two things."""
    row = UsageRow(**usage_values(fact, digest(fact), "2026-01", False, fact.occur_time))
    assert fact_from_row(row) == fact


@given(amounts, amounts, times)
def test_a_price_comes_back_from_its_row(amount: Decimal, other: Decimal, effective: datetime) -> None:
    """Digit by digit."""
    price = tokens_price(amount=f"{amount:f}", effective=effective)
    price.amounts[Meter.OUTPUT_TOKENS] = other
    assert price_from_row(PriceRow(**price_values(price))) == price

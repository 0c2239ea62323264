"""Rules of the pure values that hold for every input."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import time_from_us, us_from_time
from chassis.errors import PageTokenInvalid
from chassis.events import decode_projection, encode_projection
from chassis.ids import derived_uid, new_uid, uid_time_ms
from chassis.money import Rate, charge, decimal_string, round_half_even
from chassis.names import ResourcePattern, check_id
from chassis.paging import page_token_decode, page_token_encode
from chassis.timestamps import timestamp

rates = st.builds(
    Rate,
    currency=st.just("USD"),
    amount=st.decimals(min_value=0, max_value=10**6, places=9, allow_nan=False, allow_infinity=False),
    per=st.integers(1, 10**9),
    unit=st.just("token"),
)
quantities = st.integers(0, 10**18)
milliseconds = st.integers(0, (1 << 48) - 1)
segments = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}", fullmatch=True)
keys = st.text(max_size=50).filter(str.isprintable)
positions = st.lists(st.one_of(keys, st.integers(0, 2**63 - 1)), max_size=5).map(tuple)
VERSION = ResourcePattern("publishers/{publisher}/models/{model}/versions/{version}")


@given(rates, quantities, quantities)
def test_more_never_costs_less(rate: Rate, quantity: int, more: int) -> None:
    """Monotone."""
    assert charge(quantity, rate) <= charge(quantity + more, rate)


@given(rates, st.lists(quantities, max_size=20))
def test_a_charge_does_not_depend_on_how_usage_is_split(rate: Rate, parts: list[int]) -> None:
    """The sum of the parts is the price of the sum, exactly."""
    assert sum((charge(part, rate) for part in parts), Fraction(0)) == charge(sum(parts), rate)


@given(st.fractions(min_value=-(10**30), max_value=10**30), st.integers(0, 12))
def test_rounding_moves_by_half_a_digit_at_most(amount: Fraction, places: int) -> None:
    """And has exactly that many digits."""
    rounded = round_half_even(amount, places)
    assert abs(Fraction(rounded) - amount) * 2 <= Fraction(1, 10**places)
    assert -rounded.as_tuple().exponent == places  # type: ignore[operator]


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20))
def test_decimal_strings_are_exact(amount: Decimal) -> None:
    """Reading one back gives the same amount."""
    text = decimal_string(amount)
    assert "E" not in text.upper()
    assert Decimal(text) == amount


@given(milliseconds, milliseconds)
def test_uids_sort_by_their_time(one: int, other: int) -> None:
    """As text, as databases and buckets compare them."""
    first, second = new_uid(one), new_uid(other)
    assert uid_time_ms(first) == one
    if one != other:
        assert (first < second) == (one < other)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_derived_uids_are_equal_only_for_equal_parts(one: list[str], other: list[str]) -> None:
    """No joint of parts is mistaken for a part."""
    assert (derived_uid("n", *one) == derived_uid("n", *other)) == (one == other)


@given(segments, segments, segments)
def test_names_round_trip(publisher: str, model: str, version: str) -> None:
    """Format, then parse."""
    name = VERSION.format(publisher=publisher, model=model, version=version)
    assert VERSION.parse(name) == {"publisher": publisher, "model": model, "version": version}


@given(st.from_regex(r"[a-z](-?[a-z0-9]){2,15}", fullmatch=True))
def test_checked_ids_fit_into_names(value: str) -> None:
    """What a user may choose is always a valid segment."""
    check_id(value, "name")
    assert VERSION.parse(VERSION.format(publisher=value, model=value, version=value))["model"] == value


@given(st.text(max_size=100), positions)
def test_page_tokens_round_trip(scope: str, position: tuple[str | int, ...]) -> None:
    """The position comes back for the same scope."""
    assert page_token_decode(page_token_encode(scope, position), scope, position) == position


@given(st.text(max_size=50), st.text(max_size=50), positions)
def test_page_tokens_are_refused_elsewhere(scope: str, other: str, position: tuple[str | int, ...]) -> None:
    """Another method or filter is another scope."""
    token = page_token_encode(scope, position)
    if scope != other:
        with pytest.raises(PageTokenInvalid):
            page_token_decode(token, other, position)


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_refused(token: str) -> None:
    """Nothing a client sends raises anything else."""
    try:
        page_token_decode(token, "ListModels", ("",))
    except PageTokenInvalid:
        return
    assert token == ""


@given(st.integers(0, (1 << 63) - 1), st.binary(max_size=100))
def test_projections_round_trip(sequence: int, value: bytes) -> None:
    """And frames compare like their sequences."""
    assert decode_projection(encode_projection(sequence, value)) == (sequence, value)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_microseconds_round_trip(at: datetime) -> None:
    """Exactly."""
    assert time_from_us(us_from_time(at)) == at
    assert timestamp(at).ToDatetime(UTC) == at

"""Bill lines, prices and periods."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from chassis.money import Rate
from services.billing.domain.bill import LineKey, Sum, arithmetic, charge_line, total
from services.billing.domain.errors import OfferNotAvailable, PeriodInvalid, PriceNotFound
from services.billing.domain.meters import Meter
from services.billing.domain.periods import check_period, next_period, period_of, posting_period
from services.billing.domain.prices import OfferKind, check_same_shape, current_price, current_prices
from tests.integration.billing.build import MODEL, hour_price, tokens_price

NOW = datetime(2026, 3, 15, tzinfo=UTC)
KEY = LineKey("d", "m", Meter.INPUT_TOKENS, "p@1/m", "k")
RATE = Rate("USD", Decimal("0.0375"), 1_000_000, "token")


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [
        (0, "0.000000"),
        (1_000_000, "0.037500"),
        (1, "0.000000"),
        (40, "0.000002"),  # 0.0000015: half, to the even digit
        (67, "0.000003"),  # 0.0000025125
    ],
)
def test_a_line_is_rounded_half_even_once(quantity: int, amount: str) -> None:
    """To six places, always written with all six."""
    assert str(charge_line(KEY, RATE, Sum(quantity, 0, 1)).amount) == amount


def test_a_line_charges_posted_and_open_together() -> None:
    """Rounding once, over the whole."""
    line = charge_line(KEY, RATE, Sum(10, 10, 2))
    assert (line.exact, str(line.amount)) == (Fraction(75, 10**8), "0.000001")


def test_the_total_of_nothing_is_nothing() -> None:
    """With six places."""
    assert str(total([])) == "0.000000"


def test_a_total_keeps_all_its_digits() -> None:
    """More than the 28 that decimals keep by themselves."""
    dear = Rate("USD", Decimal(10) ** 25, 1, "token")
    lines = [charge_line(KEY, dear, Sum(1, 0, 1)), charge_line(KEY, RATE, Sum(1_000_000, 0, 1))]
    assert str(total(lines)) == "10000000000000000000000000.037500"


@pytest.mark.parametrize("field", [field.name for field in fields(LineKey)])
def test_lines_of_other_keys_have_other_ids(field: str) -> None:
    """Everything a line groups by is part of its id."""
    other = replace(KEY, **{field: Meter.OUTPUT_TOKENS if field == "meter" else "other"})
    assert other.line_id != KEY.line_id


def test_a_line_id_is_not_confused_by_joints() -> None:
    """Where one part ends and the next begins."""
    assert LineKey("a", "b", Meter.REQUESTS, "", "").line_id != LineKey("ab", "", Meter.REQUESTS, "", "").line_id


def test_the_arithmetic_can_be_checked_by_hand() -> None:
    """Quantity, rate, exact fraction and rounding, in one sentence."""
    assert arithmetic(charge_line(KEY, RATE, Sum(40, 0, 1))) == (
        "40 tokens x 0.0375 USD / 1000000 tokens = 3/2000000 USD = 0.000002 USD, rounded half-even to 6 places"
    )


def test_an_hour_of_an_instance_is_spread_over_its_cores() -> None:
    """The rate is per core-millisecond: hourly price / (cores x 3,600,000)."""
    rate = hour_price(vcpus=4).rate(Meter.CORE_MILLISECONDS)
    assert (str(rate.amount), rate.per, rate.unit) == ("0.096", 4 * 3_600_000, "core-millisecond")


def test_a_meter_without_a_price_has_no_rate() -> None:
    """The message names price and meter."""
    with pytest.raises(PriceNotFound, match="REQUESTS"):
        tokens_price().rate(Meter.REQUESTS)


def test_the_newest_price_in_effect_is_current() -> None:
    """From its first moment on; what comes later does not count yet."""
    prices = [
        tokens_price("test@1/talker", effective=NOW - timedelta(days=2)),
        tokens_price("test@3/talker", effective=NOW + timedelta(microseconds=1)),
        tokens_price("test@2/talker", effective=NOW),
    ]
    assert current_price(prices, MODEL, OfferKind.SERVERLESS, NOW).price_version == "test@2/talker"


def test_two_prices_of_one_day_are_chosen_from_alike() -> None:
    """In whatever order they come, and in lists as in quotes."""
    prices = [tokens_price("b@1/talker"), tokens_price("a@1/talker")]
    chosen = {current_price(order, MODEL, OfferKind.SERVERLESS, NOW).price_version for order in (prices, prices[::-1])}
    assert chosen == {price.price_version for price in current_prices(prices, NOW)} == {"a@1/talker"}


@pytest.mark.parametrize(
    ("resource", "kind"), [("publishers/acme/models/mute", OfferKind.SERVERLESS), (MODEL, OfferKind.MANAGED)]
)
def test_what_is_not_listed_has_no_price(resource: str, kind: OfferKind) -> None:
    """Not even of another kind."""
    with pytest.raises(PriceNotFound, match=resource):
        current_price([tokens_price()], resource, kind, NOW)


def test_an_hourly_price_is_for_one_shape() -> None:
    """A type whose cores differ from the price's is not offered."""
    check_same_shape(hour_price(vcpus=2), 2)
    with pytest.raises(OfferNotAvailable, match="2 cores"):
        check_same_shape(hour_price(vcpus=2), 4)


def test_a_period_is_a_month_of_utc() -> None:
    """To the last microsecond."""
    last = datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert [period_of(last), period_of(last + timedelta(microseconds=1))] == ["2026-01", "2026-02"]


def test_an_empty_period_is_the_running_one() -> None:
    """A caller need not know the date."""
    assert check_period("", NOW) == "2026-03"


@pytest.mark.parametrize(
    "period",
    ["2026", "2026-00", "2026-13", "2026-3", "26-03", "2026-03-01", "march", "2026-03 ", "2026-03\n", "２０２６-03"],
)
def test_what_is_no_month_is_refused(period: str) -> None:
    """Naming the form."""
    with pytest.raises(PeriodInvalid, match="YYYY-MM"):
        check_period(period, NOW)


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        (set(), ("2026-11", False)),
        ({"2026-11"}, ("2026-12", True)),
        ({"2026-10"}, ("2026-11", False)),
        ({"2026-11", "2026-12"}, ("2027-01", True)),
    ],
)
def test_a_record_of_a_closed_month_is_a_correction(closed: set[str], expected: tuple[str, bool]) -> None:
    """In the running month, or the next one where that was closed by a clock ahead of ours; never in a closed one."""
    assert posting_period("2026-11", "2026-12", closed) == expected


def test_after_december_comes_january() -> None:
    """Of the next year; the year keeps four digits."""
    assert [next_period("2026-12"), next_period("2026-01"), next_period("0999-12")] == ["2027-01", "2026-02", "1000-01"]

"""Bill lines: what they group by, and how they are charged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from chassis.money import Rate, charge, decimal_string, round_half_even
from services.billing.domain.meters import Meter

AMOUNT_PLACES = 6


@dataclass(frozen=True, slots=True, order=True)
class LineKey:
    """What one line sums: one rate of one deployment, one version and one key."""

    deployment_uid: str
    model_version: str
    meter: Meter
    price_version: str
    key_id: str

    @property
    def line_id(self) -> str:
        """Stable name of the line within its bill."""
        content = "\0".join((self.deployment_uid, self.model_version, self.meter.name, self.price_version, self.key_id))
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Sum:
    """A line's quantity: posted and still open, and how many records it sums."""

    posted: int
    open: int
    record_count: int

    @property
    def quantity(self) -> int:
        return self.posted + self.open


@dataclass(frozen=True, slots=True)
class Line:
    """One charged line; `exact` is rounded once into `amount`."""

    key: LineKey
    rate: Rate
    sum: Sum
    exact: Fraction
    amount: Decimal


def charge_line(key: LineKey, rate: Rate, total: Sum) -> Line:
    """Charge a summed quantity, rounding half-even once."""
    exact = charge(total.quantity, rate)
    return Line(key, rate, total, exact, round_half_even(exact, AMOUNT_PLACES))


def total(lines: list[Line]) -> Decimal:
    """The sum of the rounded amounts: what the lines show is what is owed."""
    # Not a sum of decimals, whose context would cap the digits.
    return round_half_even(sum((Fraction(line.amount) for line in lines), Fraction(0)), AMOUNT_PLACES)


def arithmetic(line: Line) -> str:
    """The line's sum in words, to check with a pocket calculator."""
    rate = line.rate
    return (
        f"{line.sum.quantity} {rate.unit}s x {decimal_string(rate.amount)} {rate.currency} / {rate.per} {rate.unit}s "
        f"= {line.exact.numerator}/{line.exact.denominator} {rate.currency} "
        f"= {decimal_string(line.amount)} {rate.currency}, rounded half-even to {AMOUNT_PLACES} places"
    )

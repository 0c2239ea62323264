"""Exact money: a rate times a whole quantity, rounded once."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from chassis.errors import Code, Problem


class NegativeQuantity(Problem):
    """A quantity below zero; a correction voids a record and adds another."""

    code = Code.INVALID_ARGUMENT
    reason = "NEGATIVE_QUANTITY"


@dataclass(frozen=True, slots=True)
class Rate:
    """What `per` whole units cost, e.g. 0.0375 USD per 1_000_000 tokens.

    `amount` is exact and >= 0; `per` >= 1; `unit` is the meter's unit ("token", "core-millisecond").
    """

    currency: str
    amount: Decimal
    per: int
    unit: str

    def __post_init__(self) -> None:
        if self.per < 1:
            raise ValueError(f"rate per {self.per} {self.unit}s; at least 1 is allowed")
        if not self.amount.is_finite() or self.amount < 0:
            raise ValueError(f"rate amount {self.amount}; a finite amount of at least 0 is allowed")


def charge(quantity: int, rate: Rate) -> Fraction:
    """Price a metered quantity exactly; the caller rounds once, per invoice line.

    Args:
        quantity: Whole `rate.unit`s, >= 0.
        rate: Price of `rate.per` units.

    Returns:
        Unrounded amount in `rate.currency`.

    Raises:
        NegativeQuantity: a correction voids a record and adds another.
    """
    if quantity < 0:
        raise NegativeQuantity(f"quantity {quantity} {rate.unit}s; at least 0 is allowed")
    return Fraction(rate.amount) * quantity / rate.per


def round_half_even(amount: Fraction, places: int) -> Decimal:
    """Round to `places` decimal places, ties to the even digit, exactly (no float, no context precision)."""
    scaled = round(amount * 10**places)  # Fraction.__round__ is half-even
    return Decimal(scaled).scaleb(-places) if abs(scaled) < 10**27 else _exact_scale(scaled, places)


def _exact_scale(scaled: int, places: int) -> Decimal:
    """Shift the decimal point without the context's 28 digits, which would round a very large amount."""
    sign, digits = (1 if scaled < 0 else 0), tuple(int(digit) for digit in str(abs(scaled)))
    return Decimal((sign, digits, -places))


def decimal_string(amount: Decimal) -> str:
    """Plain decimal digits, never an exponent."""
    return f"{amount:f}"

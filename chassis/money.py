"""Exact prices: rationals inside, decimals outside, never a float."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from chassis.errors import Code, Problem


class NegativeQuantity(Problem):
    """A quantity below zero was to be priced."""

    code = Code.INVALID_ARGUMENT
    reason = "NEGATIVE_QUANTITY"


@dataclass(frozen=True, slots=True)
class Rate:
    """Price of `per` whole units.

    Attributes:
        currency: ISO 4217 code, such as "USD".
        amount: Price of `per` units, >= 0, finite.
        per: Whole units the amount pays for, >= 1.
        unit: What is counted, such as "token".
    """

    currency: str
    amount: Decimal
    per: int
    unit: str

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal):
            raise TypeError(f"rate amount {self.amount!r} is no Decimal; money is never a float")
        if not self.amount.is_finite() or self.amount < 0:
            raise ValueError(f"rate amount {self.amount} is not a finite number >= 0")
        if self.per < 1:
            raise ValueError(f"rate is per {self.per} units; at least 1 is needed")


def charge(quantity: int, rate: Rate) -> Fraction:
    """Price a metered quantity exactly; the caller rounds once, per invoice line.

    Args:
        quantity: Whole `rate.unit`s (tokens, core-milliseconds), >= 0.
        rate: Price of `rate.per` units, e.g. 0.0375 USD per 1_000_000 tokens.

    Returns:
        Unrounded amount in `rate.currency`.

    Raises:
        NegativeQuantity: a correction voids a record and adds another.
    """
    if quantity < 0:
        raise NegativeQuantity(f"quantity {quantity} {rate.unit} is below zero; void the record and add another")
    return Fraction(rate.amount) * quantity / rate.per


def round_half_even(amount: Fraction, places: int) -> Decimal:
    """Round once, to `places` decimal digits (>= 0), ties to the even digit."""
    # Not `quantize`, whose context would cap the digits of a large amount.
    scaled = round(amount * 10**places)
    return Decimal(f"{'-' if scaled < 0 else ''}{abs(scaled)}E-{places}")


def decimal_string(amount: Decimal) -> str:
    """Write an amount without an exponent, digits as they are: 1E+3 becomes "1000", 0.50 stays "0.50"."""
    return format(amount, "f")

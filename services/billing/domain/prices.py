"""Prices as lists state them: dated, versioned, never edited."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import IntEnum

from chassis.clock import us_from_time
from chassis.money import Rate
from services.billing.domain.errors import OfferNotAvailable, PriceNotFound
from services.billing.domain.meters import Meter
from services.billing.domain.windows import HOUR_MS

# Whole units that the price of a call's meter pays for.
UNITS_PER_PRICE = {
    Meter.INPUT_TOKENS: 1_000_000,
    Meter.OUTPUT_TOKENS: 1_000_000,
    Meter.AUDIO_MILLISECONDS: 60_000,
    Meter.IMAGES: 1_000,
}


class OfferKind(IntEnum):
    """What a price is for; the numbers are those of `modelyard.billing.v1.OfferKind`."""

    MANAGED = 1
    SERVERLESS = 2


@dataclass(frozen=True, slots=True)
class Price:
    """One price of one version of one list.

    `amounts` are exact, by meter: per 1,000,000 tokens, minute of audio or 1,000 images, or per hour of the whole
    instance for core-milliseconds. `vcpus` is the core count an hourly price was stated for; 0 for the others.
    """

    price_version: str
    resource: str
    kind: OfferKind
    currency: str
    amounts: dict[Meter, Decimal]
    vcpus: int
    effective_time: datetime
    source: str

    def rate(self, meter: Meter) -> Rate:
        """The exact rate of one meter.

        Raises:
            PriceNotFound: the price has none for it.
        """
        if meter not in self.amounts:
            raise PriceNotFound(f"price {self.price_version!r} has no rate for {meter.name}")
        per = self.vcpus * HOUR_MS if self.kind is OfferKind.MANAGED else UNITS_PER_PRICE[meter]
        return Rate(self.currency, self.amounts[meter], per, meter.unit)


def current_prices(prices: Iterable[Price], now: datetime) -> list[Price]:
    """The newest price in effect of each resource and kind, newest first; of one day, the first version."""
    newest: dict[tuple[str, OfferKind], Price] = {}
    for price in sorted(prices, key=newest_first):
        if price.effective_time <= now:
            newest.setdefault((price.resource, price.kind), price)
    return list(newest.values())


def newest_first(price: Price) -> tuple[int, str]:
    """Sorts prices by the day they take effect, the latest first, and then by version."""
    return -us_from_time(price.effective_time), price.price_version


def current_price(prices: Iterable[Price], resource: str, kind: OfferKind, now: datetime) -> Price:
    """The newest price of a resource that is in effect.

    Raises:
        PriceNotFound: none is.
    """
    for price in current_prices(prices, now):
        if (price.resource, price.kind) == (resource, kind):
            return price
    raise PriceNotFound(
        f"no price list has a {kind.name.lower()} price for {resource!r} now; the operator adds one to the price lists"
    )


def check_same_shape(price: Price, vcpus: int) -> None:
    """An hourly price is for one core count; the catalog must agree.

    Raises:
        OfferNotAvailable: it does not.
    """
    if price.vcpus != vcpus:
        raise OfferNotAvailable(
            f"price {price.price_version!r} is for {price.vcpus} cores and the catalog says {vcpus}; the operator corrects one"
        )

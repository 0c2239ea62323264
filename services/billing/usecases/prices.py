"""Load price lists: a version that was loaded once is never changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from chassis.database import Database
from chassis.names import ResourcePattern
from services.billing.domain.errors import PriceListInvalid
from services.billing.domain.meters import Meter
from services.billing.domain.prices import OfferKind, Price
from services.billing.storage import reads
from services.billing.storage.ledger import table
from services.billing.storage.tables import PriceRow

# A YAML float has lost digits already: amounts are strings of plain digits.
Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_TYPE = ResourcePattern("instanceTypes/{instance_type}")
_MODEL = ResourcePattern("publishers/{publisher}/models/{model}")
# Models of projects' own, by what they do and how large they are: nobody lists them one by one.
_OWN = ResourcePattern("ownModels/{price_class}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Entry(_Strict):
    resource: str
    source: str
    per_million_input_tokens: Amount | None = None
    per_million_output_tokens: Amount | None = None
    per_audio_minute: Amount | None = None
    per_thousand_images: Amount | None = None
    per_hour: Amount | None = None
    vcpus: int = Field(default=0, ge=1)

    @model_validator(mode="after")
    def _for_one_thing(self) -> _Entry:
        by_use = (
            self.per_million_input_tokens
            or self.per_million_output_tokens
            or self.per_audio_minute
            or self.per_thousand_images
        )
        if _TYPE.matches(self.resource):
            if not self.per_hour or not self.vcpus or by_use:
                raise ValueError("an instance type has per_hour with vcpus, not per_million_input_tokens or the like")
        elif not _MODEL.matches(self.resource) and not _OWN.matches(self.resource):
            raise ValueError("resource is instanceTypes/*, publishers/*/models/* or ownModels/*")
        elif not by_use or self.per_hour or self.vcpus:
            raise ValueError("a model has per_million_input_tokens and the like, not per_hour with vcpus")
        return self

    def amounts(self) -> dict[Meter, Decimal]:
        said = {
            Meter.INPUT_TOKENS: self.per_million_input_tokens,
            Meter.OUTPUT_TOKENS: self.per_million_output_tokens,
            Meter.AUDIO_MILLISECONDS: self.per_audio_minute,
            Meter.IMAGES: self.per_thousand_images,
            Meter.CORE_MILLISECONDS: self.per_hour,
        }
        return {meter: Decimal(digits) for meter, digits in said.items() if digits is not None}


class _List(_Strict):
    list: Word
    version: Word
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    effective: date
    prices: tuple[_Entry, ...] = Field(strict=False)


def read_price_list(path: Path) -> list[Price]:
    """The prices of one file.

    Raises:
        PriceListInvalid: naming the file, the field, its value and what is allowed.
    """
    try:
        content = _List.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        field = ".".join(str(step) for step in first["loc"])
        raise PriceListInvalid(
            f"{path.name}: {field or 'the file'} is {str(first['input'])[:200]!r}: {first['msg']}", field=field
        ) from None
    except yaml.YAMLError as unreadable:
        raise PriceListInvalid(f"{path.name} is not YAML: {unreadable}") from None
    return [_price(content, entry) for entry in content.prices]


def _price(content: _List, entry: _Entry) -> Price:
    return Price(
        price_version=f"{content.list}@{content.version}/{entry.resource.rpartition('/')[2]}",
        resource=entry.resource,
        kind=OfferKind.MANAGED if entry.per_hour else OfferKind.SERVERLESS,
        currency=content.currency,
        amounts=entry.amounts(),
        vcpus=entry.vcpus,
        effective_time=datetime.combine(content.effective, time(), UTC),
        source=entry.source,
    )


async def load_price_lists(database: Database, folder: Path) -> int:
    """Store every price that is new; return how many.

    Raises:
        PriceListInvalid: a price that was loaded before has changed; a change needs a new version.
    """
    return await store_prices(
        database, [price for path in sorted(folder.glob("*.yaml")) for price in read_price_list(path)]
    )


async def store_prices(database: Database, listed: Sequence[Price]) -> int:
    """Store every price that is new; return how many.

    Raises:
        PriceListInvalid: a price that was stored before has changed, two share a version, or two currencies are used: a
            bill has one total.
    """
    by_version: dict[str, Price] = {}
    for price in listed:
        if price.price_version in by_version:
            raise PriceListInvalid(
                f"price {price.price_version!r} stands for {by_version[price.price_version].resource!r} and for "
                f"{price.resource!r}; give one of them a list of its own"
            )
        by_version[price.price_version] = price
    async with database.unit_of_work() as uow:
        stored = {price.price_version: price for price in await reads.prices(uow.session)}
        currencies = sorted({price.currency for price in (*stored.values(), *listed)})
        if len(currencies) > 1:
            raise PriceListInvalid(
                f"prices are in {' and '.join(currencies)}; a bill has one currency", field="currency"
            )
        for version, price in by_version.items():
            if version in stored and stored[version] != price:
                raise PriceListInvalid(
                    f"price {version!r} has changed since it was loaded; give the list a new version instead"
                )
        rows = [price_values(price) for version, price in by_version.items() if version not in stored]
        prices = table(PriceRow)
        added = await database.insert_ignoring(uow, prices, rows, returning=[prices.c.price_version]) if rows else []
    return len(added)


def price_values(price: Price) -> dict[str, Any]:
    """A price as its row holds it."""
    return {
        "price_version": price.price_version,
        "resource": price.resource,
        "kind": int(price.kind),
        "currency": price.currency,
        "amounts": {str(int(meter)): f"{amount:f}" for meter, amount in price.amounts.items()},
        "vcpus": price.vcpus,
        "effective_time": price.effective_time,
        "source": price.source,
    }

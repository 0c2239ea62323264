"""Load price lists: a version that was loaded once is never changed."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from chassis.database import Database
from services.billing.domain.errors import PriceListInvalid
from services.billing.domain.meters import Meter
from services.billing.domain.prices import OfferKind, Price
from services.billing.storage import reads
from services.billing.storage.ledger import table
from services.billing.storage.tables import PriceRow

_LIST_FIELDS = {"list", "version", "currency", "effective", "prices"}
_PRICE_FIELDS = {"resource", "source", "per_million_input_tokens", "per_million_output_tokens", "per_hour", "vcpus"}
_AMOUNT_FIELDS = {
    "per_million_input_tokens": Meter.INPUT_TOKENS,
    "per_million_output_tokens": Meter.OUTPUT_TOKENS,
    "per_hour": Meter.CORE_MILLISECONDS,
}


def read_price_list(path: Path) -> list[Price]:
    """The prices of one file.

    Raises:
        PriceListInvalid: naming the file, the field, its value and what is allowed.
    """
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or set(content) != _LIST_FIELDS:
        raise PriceListInvalid(f"{path.name}: a price list has exactly the fields {sorted(_LIST_FIELDS)}")
    if not isinstance(content["effective"], date):
        raise PriceListInvalid(f"{path.name}: effective {content['effective']!r} is not a date")
    return [_price(path, content, entry) for entry in content["prices"]]


def _price(path: Path, content: dict[str, Any], entry: dict[str, Any]) -> Price:
    where = f"{path.name}: {entry.get('resource', 'a price without resource')}"
    if unknown := set(entry) - _PRICE_FIELDS:
        raise PriceListInvalid(f"{where}: unknown field {sorted(unknown)[0]!r}; allowed are {sorted(_PRICE_FIELDS)}")
    for needed in ("resource", "source"):
        if not isinstance(entry.get(needed), str):
            raise PriceListInvalid(f"{where}: {needed} is missing")
    amounts = {meter: _amount(where, field, entry[field]) for field, meter in _AMOUNT_FIELDS.items() if field in entry}
    managed = Meter.CORE_MILLISECONDS in amounts
    if not amounts or (managed and len(amounts) > 1) or managed != ("vcpus" in entry):
        raise PriceListInvalid(f"{where}: a price is per_hour with vcpus, or per million tokens")
    sku = entry["resource"].rpartition("/")[2]
    return Price(
        price_version=f"{content['list']}@{content['version']}/{sku}",
        resource=entry["resource"],
        kind=OfferKind.MANAGED if managed else OfferKind.SERVERLESS,
        currency=content["currency"],
        amounts=amounts,
        vcpus=int(entry.get("vcpus", 0)),
        effective_time=datetime.combine(content["effective"], time(), UTC),
        source=entry["source"],
    )


def _amount(where: str, field: str, value: object) -> Decimal:
    # A YAML float has lost digits already: amounts are written as strings.
    if not isinstance(value, str):
        raise PriceListInvalid(f"{where}: {field} {value!r} is not a string of decimal digits, such as '0.0375'")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise PriceListInvalid(f"{where}: {field} {value!r} is not a decimal") from None
    if not amount.is_finite() or amount < 0:
        raise PriceListInvalid(f"{where}: {field} {value!r}; a finite amount of at least 0 is allowed")
    return amount


async def load_price_lists(database: Database, folder: Path) -> int:
    """Store every price that is new; return how many.

    Raises:
        PriceListInvalid: a price that was loaded before has changed; a change needs a new version.
    """
    listed = [price for path in sorted(folder.glob("*.yaml")) for price in read_price_list(path)]
    async with database.unit_of_work() as uow:
        stored = await reads.prices_by_version(uow.session, [price.price_version for price in listed])
        for price in listed:
            known = stored.get(price.price_version)
            if known is not None and known != price:
                raise PriceListInvalid(
                    f"price {price.price_version!r} has changed since it was loaded; give the list a new version instead"
                )
        rows = [_row(price) for price in listed if price.price_version not in stored]
        prices = table(PriceRow)
        added = await database.insert_ignoring(uow, prices, rows, returning=[prices.c.price_version]) if rows else []
    return len(added)


def _row(price: Price) -> dict[str, Any]:
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

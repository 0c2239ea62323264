"""On which instance types a version fits, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from modelyard.type.v1 import money_pb2
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.errors import Problem
from services.catalog.domain.checks import Finding, check_offered
from services.catalog.domain.errors import InstanceTypeNotQuotable
from services.catalog.domain.fit import Shape, misfits
from services.catalog.storage.queries import pages
from services.catalog.storage.tables import InstanceTypeRow
from services.catalog.usecases.check_model import needs_of, shape_of
from services.catalog.usecases.find import Named

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Priced:
    """What billing quotes for an instance type: a rate whose amount pays one hour of the whole instance."""

    price_version: str
    rate: money_pb2.Rate

    @property
    def core_hour_price(self) -> Fraction:
        """What one core costs for one hour, exactly."""
        return Fraction(self.rate.amount) / self.vcpus

    @property
    def vcpus(self) -> Fraction:
        """How many cores the price is stated for."""
        return Fraction(self.rate.per, _HOUR_MS)


@dataclass(frozen=True, slots=True)
class Fit:
    """How one version and one instance type go together."""

    shape: Shape
    # None where the publisher names a type that nobody described.
    row: InstanceTypeRow | None
    fits: bool
    quotable: bool
    # Why it does not fit or cannot be quoted.
    refusals: list[Problem]
    recommended: bool
    price: Priced | None


async def instance_type_fits(session: AsyncSession, named: Named, prices: Mapping[str, Priced]) -> list[Fit]:
    """Every instance type there is, and those that only the publisher names, by id."""
    stated = named.version.facts.get("inference_hardware") or {}
    rows = {row.id: row for row in await pages.all_instance_types(session)}
    names = {*rows, *stated.get("allowed", ()), *stated.get("recommended", ())}
    return [
        _fit(named, name, rows.get(name), prices.get(name), recommended=name in stated.get("recommended", ()))
        for name in sorted(names)
    ]


def _fit(named: Named, name: str, row: InstanceTypeRow | None, price: Priced | None, *, recommended: bool) -> Fit:
    shape = Shape(name) if row is None else shape_of(row)
    unfit = list(misfits(named.version.name, needs_of(named.version), shape))
    unquotable = [*_problems(list(check_offered(shape))), *_price_problems(shape, price)]
    return Fit(
        shape=shape,
        row=row,
        fits=shape.is_known and not unfit,
        quotable=not unquotable,
        refusals=unfit + unquotable,
        recommended=recommended,
        price=price,
    )


def _problems(findings: list[Finding]) -> list[Problem]:
    return [finding.problem for finding in findings if finding.problem is not None]


def _price_problems(shape: Shape, price: Priced | None) -> list[Problem]:
    if price is None:
        return [
            InstanceTypeNotQuotable(
                f"no price list has a price for {shape.id} now; the operator adds one to the price lists"
            )
        ]
    if shape.is_known and price.vcpus != shape.vcpus:
        return [
            InstanceTypeNotQuotable(
                f"price {price.price_version!r} is for {price.vcpus} cores and {shape.id} has {shape.vcpus}; the operator "
                "corrects one"
            )
        ]
    return []

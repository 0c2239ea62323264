"""What may be asked of search: facets, filters on them, orders; each checked before anything is looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum

from chassis.errors import InvalidArgument
from services.catalog.domain.lifecycle import Stage


class FacetKind(Enum):
    """How the values of a facet are written and compared."""

    # A word, without regard to case; `gt` and `lt` go by its letters.
    TEXT = "text"
    # A whole number; "k", "M", "B" and "T" stand for thousands and on.
    COUNT = "count"
    # Money for a million units, with up to nine decimals.
    PRICE = "price"
    # `YYYY-MM-DD`, UTC.
    DAY = "day"
    # A stage of a version's life, as it is when it is asked for; `gt` means later in it.
    STAGE = "stage"


@dataclass(frozen=True, slots=True)
class Facet:
    """One thing that models differ in.

    Attributes:
        edges: Lower ends of the ranges that numbers are counted in; the first range begins below all of them.
    """

    name: str
    kind: FacetKind
    edges: tuple[int, ...] = ()

    @property
    def is_number(self) -> bool:
        return self.kind in (FacetKind.COUNT, FacetKind.PRICE, FacetKind.DAY)


# Prices are counted in billionths.
NANO = 10**9
_CENT = NANO // 100
_TEXTS = (
    "collection",
    "publisher",
    "license",
    "inference_task",
    "fine_tune_task",
    "deployment_option",
    "modality",
    "input_modality",
    "output_modality",
    "language",
    "industry",
    "capability",
    "usability",
    "tag",
)
_PRICE_EDGES = (10 * _CENT, 50 * _CENT, 1 * NANO, 5 * NANO, 20 * NANO)
FACETS: dict[str, Facet] = {
    facet.name: facet
    for facet in (
        *(Facet(name, FacetKind.TEXT) for name in _TEXTS),
        Facet("stage", FacetKind.STAGE),
        Facet("context_tokens", FacetKind.COUNT, (4_096, 16_384, 32_768, 131_072, 1_000_000)),
        Facet("parameter_count", FacetKind.COUNT, (10**9, 3 * 10**9, 10**10, 3 * 10**10, 10**11)),
        Facet("size_bytes", FacetKind.COUNT, (10**9, 5 * 10**9, 20 * 10**9, 100 * 10**9)),
        Facet("input_price", FacetKind.PRICE, _PRICE_EDGES),
        Facet("output_price", FacetKind.PRICE, _PRICE_EDGES),
        Facet("release_date", FacetKind.DAY),
        Facet("create_time", FacetKind.DAY),
    )
}
STAGE_WORDS = {stage.name.lower(): stage for stage in Stage}
_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_INTEGER_MAX = 2**62


class Operator(Enum):
    """How a filter compares. A model with several values of a facet is `eq` where any of them is."""

    EQ = "eq"
    # None of its values is; also true of a model without any.
    NE = "ne"
    GT = "gt"
    LT = "lt"
    # Any of several values.
    IN = "in"


# Text, or a number: of whatever is counted, of days, of a stage.
Value = str | int


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition; values are read as their facet's kind says."""

    facet: Facet
    operator: Operator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one search may ask for."""

    query_length_max: int = 512
    words_max: int = 24
    filters_max: int = 24
    filter_values_max: int = 100
    value_length_max: int = 256
    facet_values_max: int = 100


@dataclass(frozen=True, slots=True)
class Order:
    """By what results are ordered; no facet means by how well they match."""

    facet: Facet | None = None
    descending: bool = False


class Reason(Enum):
    """Where the words of a question were found; the best place counts."""

    # Nothing was asked for in words, or the order is by a number.
    LISTED = "listed"
    EXACT_NAME = "exact_name"
    NAME_BEGINS = "name_begins"
    NAME = "name"
    PUBLISHER = "publisher"
    # Tags, tasks, capabilities, industries, licence, collection.
    LABELS = "labels"
    CARD = "card"
    # Not all words, but most.
    MOST_WORDS = "most_words"
    # Its name comes near to them.
    NEAR = "near"


@dataclass(frozen=True, slots=True)
class Question:
    """A search, read and checked."""

    text: str
    filters: tuple[Filter, ...] = ()
    order: Order = Order()
    facets: tuple[Facet, ...] = ()
    facet_values: int = 20


def facet_of(name: str, field: str) -> Facet:
    """The facet called so.

    Raises:
        InvalidArgument: there is none; names those that are.
    """
    if name not in FACETS:
        raise InvalidArgument(f"{field} {_shown(name)} is no facet; there are {', '.join(FACETS)}", field=field)
    return FACETS[name]


def read_filter(facet: str, operator: Operator, values: Sequence[str], limits: Limits) -> Filter:
    """Check a filter and read its values.

    Raises:
        InvalidArgument: names the value, what is allowed, and the way out.
    """
    known = facet_of(facet, "filters.field")
    least, most = (1, limits.filter_values_max) if operator is Operator.IN else (1, 1)
    if not least <= len(values) <= most:
        allowed = f"{least} to {most}" if most > least else "exactly one"
        raise InvalidArgument(
            f"filter on {facet} has {len(values)} values; {operator.value!r} takes {allowed}", field="filters.values"
        )
    too_long = next((value for value in values if len(value) > limits.value_length_max), None)
    if too_long is not None:
        raise InvalidArgument(
            f"filter value {_shown(too_long)} has {len(too_long)} characters; {limits.value_length_max} are allowed",
            field="filters.values",
        )
    return Filter(known, operator, tuple(_read(known, value) for value in values))


def read_order(text: str) -> Order:
    """Read `FACET`, `FACET desc` or nothing.

    Raises:
        InvalidArgument: not of this form, or the facet is no number.
    """
    name, _, direction = text.strip().partition(" ")
    if not name or name == "relevance":
        return Order()
    facet = FACETS.get(name)
    if facet is None or not facet.is_number or direction.strip() not in ("", "asc", "desc"):
        numbers = ", ".join(facet.name for facet in FACETS.values() if facet.is_number)
        raise InvalidArgument(
            f"order_by {_shown(text)} is not of the form `FIELD` or `FIELD desc` with a field of {numbers}; leave it "
            "empty to have the best matches first",
            field="order_by",
        )
    return Order(facet, direction.strip() == "desc")


def value_words(facet: Facet, value: int) -> str:
    """A number of a facet as filters take it."""
    if facet.kind is FacetKind.PRICE:
        return f"{Decimal(value) / NANO:f}"
    if facet.kind is FacetKind.DAY:
        return date.fromordinal(value).isoformat()
    return str(value)


def published_day(text: str) -> int | None:
    """The day a source names, `YYYY-MM-DD` or a month's first for `YYYY-MM`; None where it is written otherwise."""
    try:
        return date.fromisoformat(text if len(text) > len("YYYY-MM") else f"{text}-01").toordinal()
    except ValueError:
        return None


def day_number(moment: datetime) -> int:
    """Days are counted from 1 January of the year 1."""
    return moment.astimezone(UTC).date().toordinal()


def _read(facet: Facet, text: str) -> Value:
    readers: dict[FacetKind, Callable[[str], Value]] = {
        FacetKind.TEXT: _text,
        FacetKind.COUNT: _count,
        FacetKind.PRICE: _price,
        FacetKind.DAY: _day,
        FacetKind.STAGE: _stage,
    }
    try:
        return readers[facet.kind](text.strip())
    except (ValueError, InvalidOperation) as error:
        wanted = {
            FacetKind.TEXT: "a word",
            FacetKind.COUNT: "a whole number such as 32768, 128k or 7B",
            FacetKind.PRICE: "an amount for a million units with at most 9 decimals, such as 0.15",
            FacetKind.DAY: "a day such as 2026-01-31",
            FacetKind.STAGE: f"one of {', '.join(STAGE_WORDS)}",
        }[facet.kind]
        raise InvalidArgument(f"{facet.name} {_shown(text)} is not {wanted}", field="filters.values") from error


def _text(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return text.casefold()


def _count(text: str) -> int:
    scale = _SCALES.get(text[-1:].lower(), 1)
    return _whole(Decimal(text if scale == 1 else text[:-1]) * scale)


def _price(text: str) -> int:
    return _whole(Decimal(text) * NANO)


def _whole(number: Decimal) -> int:
    if not number.is_finite() or number != number.to_integral_value() or not 0 <= number < _INTEGER_MAX:
        raise ValueError("not whole, below zero or too large")
    return int(number)


def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal()


def _stage(text: str) -> Stage:
    if text.casefold() not in STAGE_WORDS:
        raise ValueError("no stage")
    return STAGE_WORDS[text.casefold()]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")

"""Filters and visibility as queries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import tantivy

from services.catalog.domain.lifecycle import Stage
from services.catalog.domain.search import FacetKind, Filter, Operator, day_number
from services.catalog.search import schema
from services.catalog.search.reader import Reader, both, either, without

_STAGE_DAYS = {
    Stage.LEGACY: schema.LEGACY_DAY,
    Stage.DEPRECATED: schema.DEPRECATION_DAY,
    Stage.RETIRED: schema.RETIREMENT_DAY,
}


# As many values are looked up one by one; more are gathered first.
_TERMS_MAX = 16


def required(
    reader: Reader, projects: Collection[str] | None, filters: Sequence[Filter], now: datetime
) -> list[tantivy.Query]:
    """What every model that is shown fulfils besides the words that are asked for; empty where any will do.

    Args:
        projects: Uids of those whose own models are seen besides everybody's; None sees all.
        filters: All have to hold at this moment.
    """
    seen = [] if projects is None else [_any_of(reader, schema.PROJECT, [schema.PUBLIC, *sorted(projects)])]
    return [*seen, *(_one(reader, wanted, now) for wanted in filters)]


def every_model(reader: Reader) -> tantivy.Query:
    """All models: the index holds one document more. No word leads to that one."""
    return without(tantivy.Query.all_query(), [reader.term(schema.NAME, schema.POSITION_KEY)])


def stage_query(reader: Reader, stage: Stage, now: datetime) -> tantivy.Query:
    """Models whose newest version is in a stage at a moment: read from its dates, so that no index has to be told."""
    if stage >= Stage.LEGACY:
        later = [] if stage is Stage.RETIRED else [reached(reader, Stage(stage + 1), now)]
        return without(reached(reader, stage, now), later)
    preview = both(reader.between(schema.PREVIEW, 1, 1), reader.between(schema.ANNOUNCED, None, int(Stage.PREVIEW)))
    later = [reached(reader, Stage.LEGACY, now)]
    if stage is Stage.PREVIEW:
        return without(preview, later)
    return without(tantivy.Query.all_query(), [*later, preview])


def reached(reader: Reader, stage: Stage, now: datetime) -> tantivy.Query:
    """Models in this stage or a later one, LEGACY at least: by its dates, or because that was announced, which is never taken back."""
    today = day_number(now)
    begun = [
        reader.between(field, None, today) for one, field in _STAGE_DAYS.items() if one >= max(stage, Stage.LEGACY)
    ]
    return either([*begun, reader.between(schema.ANNOUNCED, int(stage), None)])


def _one(reader: Reader, wanted: Filter, now: datetime) -> tantivy.Query:
    if wanted.operator is Operator.NE:
        same = Filter(wanted.facet, Operator.EQ, wanted.values)
        return without(tantivy.Query.all_query(), [_one(reader, same, now)])
    if wanted.facet.kind is FacetKind.STAGE:
        return either([stage_query(reader, stage, now) for stage in _stages(wanted)])
    if wanted.facet.kind is FacetKind.TEXT:
        values = _texts(reader, wanted)
        return _any_of(reader, wanted.facet.name, values)
    return _number(reader, wanted)


def _any_of(reader: Reader, field: str, values: Sequence[str]) -> tantivy.Query:
    """Models that have one of these values."""
    if len(values) == 1:
        return reader.term(field, values[0])
    if len(values) <= _TERMS_MAX:
        return either([reader.term(field, value) for value in values])
    return tantivy.Query.term_set_query(reader.schema, field, list(values))


def _stages(wanted: Filter) -> list[Stage]:
    stages = [Stage(int(value)) for value in wanted.values]
    if wanted.operator is Operator.GT:
        return [stage for stage in Stage if stage > stages[0]]
    if wanted.operator is Operator.LT:
        return [stage for stage in Stage if stage < stages[0]]
    return stages


def _texts(reader: Reader, wanted: Filter) -> list[str]:
    """The values that fulfil the filter; for `gt` and `lt` those that models have."""
    values = [str(value) for value in wanted.values]
    if wanted.operator in (Operator.EQ, Operator.IN):
        return values
    known = (value for value, _ in reader.searcher.terms_with_prefix(wanted.facet.name, ""))
    is_greater = wanted.operator is Operator.GT
    return sorted(value for value in known if value and (value > values[0] if is_greater else value < values[0]))


def _number(reader: Reader, wanted: Filter) -> tantivy.Query:
    field, numbers = wanted.facet.name, [int(value) for value in wanted.values]
    if wanted.operator is Operator.GT:
        return reader.between(field, numbers[0] + 1, None)
    if wanted.operator is Operator.LT:
        return reader.between(field, None, numbers[0] - 1)
    return either([reader.between(field, number, number) for number in numbers])

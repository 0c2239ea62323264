"""SearchService."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from modelyard.catalog.v1 import search_pb2, search_pb2_grpc

from chassis.access import current_caller
from chassis.access.caller import CallerKind
from chassis.clock import Clock
from chassis.database import Database
from chassis.errors import InvalidArgument
from chassis.paging import page_size, page_token_decode, page_token_encode
from chassis.timestamps import timestamp
from services.catalog.domain.search import Limits, Operator, Question, facet_of, read_filter, read_order
from services.catalog.domain.words import words_of
from services.catalog.rpc.convert import model_to_proto
from services.catalog.search.facets import FacetCounts
from services.catalog.search.reader import Hit
from services.catalog.usecases.project_search import SearchProjection
from services.catalog.usecases.search_models import NearLimits, Result, SearchPage, search_models

_FACET_VALUES_DEFAULT = 20
Context = Any


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Reads the question, asks, and says what was found.

    Args:
        projects_of: Uids of the projects that a principal is a member of.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        projection: SearchProjection,
        projects_of: Callable[[str], Collection[str]],
        limits: Limits,
        near: NearLimits,
    ) -> None:
        self._database = database
        self._clock = clock
        self._projection = projection
        self._projects_of = projects_of
        self._limits = limits
        self._near = near

    async def SearchModels(
        self, request: search_pb2.SearchModelsRequest, context: Context
    ) -> search_pb2.SearchModelsResponse:
        question = self._question(request)
        scope = _scope(request)
        page = await search_models(
            self._database,
            self._clock,
            self._projection,
            question,
            self._seen_projects(),
            after=_after(request.page_token, scope),
            limit=page_size(request.page_size),
            near=self._near,
        )
        return self._response(page, scope)

    def _question(self, request: search_pb2.SearchModelsRequest) -> Question:
        limits = self._limits
        _check_at_most(len(request.query), limits.query_length_max, "characters", "query")
        words = words_of(request.query)
        _check_at_most(len(words), limits.words_max, "words", "query")
        if request.query.strip() and not words:
            raise InvalidArgument(
                f"query {request.query!r} has no words; write letters or digits, or leave it empty to list all",
                field="query",
            )
        _check_at_most(len(request.filters), limits.filters_max, "filters", "filters")
        if not 0 <= request.facet_values_max <= limits.facet_values_max:
            raise InvalidArgument(
                f"facet_values_max {request.facet_values_max} is not within 0 to {limits.facet_values_max}",
                field="facet_values_max",
            )
        if len(set(request.facets)) != len(request.facets):
            raise InvalidArgument("facets names one twice; name each once", field="facets")
        return Question(
            text=request.query,
            filters=tuple(
                read_filter(one.field, _operator(one.operator), one.values, limits) for one in request.filters
            ),
            order=read_order(request.order_by),
            facets=tuple(facet_of(name, "facets") for name in request.facets),
            facet_values=request.facet_values_max or _FACET_VALUES_DEFAULT,
        )

    def _seen_projects(self) -> Collection[str] | None:
        caller = current_caller()
        if caller.is_admin:
            return None
        return self._projects_of(caller.principal) if caller.kind is CallerKind.USER else ()

    def _response(self, page: SearchPage, scope: str) -> search_pb2.SearchModelsResponse:
        now = self._clock.now()
        last = page.last
        return search_pb2.SearchModelsResponse(
            results=[
                search_pb2.FoundModel(
                    model=model_to_proto(result.model, result.version, now),
                    reason=search_pb2.MatchReason.Value(f"MATCH_REASON_{result.reason.value.upper()}"),
                    matches=_matches(result),
                    distance=result.distance,
                )
                for result in page.results
            ],
            next_page_token=page_token_encode(scope, [last.tier, last.value, last.rank, last.name]) if last else "",
            total_count=page.answer.total,
            is_total_exact=page.answer.is_total_exact,
            facet_counts=[_facet_counts(counts) for counts in page.answer.facets],
            suggestions=page.answer.suggestions,
            unfiltered_count=page.answer.unfiltered,
            index_time=timestamp(page.index_time) if page.index_time else None,
            pending_changes=page.pending,
        )


def _check_at_most(count: int, most: int, what: str, field: str) -> None:
    if count > most:
        raise InvalidArgument(f"{field} has {count} {what}; at most {most} are allowed", field=field)


def _operator(number: int) -> Operator:
    known = search_pb2.FilterOperator.DESCRIPTOR.values_by_number
    if number not in known or not number:
        raise InvalidArgument(f"filter operator {number} is not known here; 1 to {max(known)} are", field="filters")
    return Operator(known[number].name.removeprefix("FILTER_OPERATOR_").lower())


def _scope(request: search_pb2.SearchModelsRequest) -> str:
    """What a page token is bound to: all that decides which models come in what order."""
    filters = [[one.field, one.operator, *one.values] for one in request.filters]
    return f"SearchModels/{json.dumps([request.query, filters, request.order_by])}"


def _after(token: str, scope: str) -> Hit | None:
    if not token:
        return None
    return Hit(*page_token_decode(token, scope, (0, 0, 0, "")))


def _matches(result: Result) -> list[search_pb2.Match]:
    return [search_pb2.Match(field=found.field, text=found.text, words=found.words) for found in result.highlights]


def _facet_counts(counts: FacetCounts) -> search_pb2.FacetCounts:
    return search_pb2.FacetCounts(
        field=counts.facet.name,
        values=[
            search_pb2.FacetValue(value=value.value, count=value.count, least=value.least, below=value.below)
            for value in counts.values
        ],
        has_more=counts.more,
        without_value=counts.without_value,
    )

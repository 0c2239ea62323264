"""Search models by words and filters, with counts."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from modelyard.catalog.v1 import catalog_pb2, search_pb2
from modelyard_client import Modelyard

from cli.commands.discover import models
from cli.output import Json, enum_word, json_document, moment, out, short_name, table
from cli.session import UsageMistake, run

# Facets that are counted where none is named.
_FACETS = ("collection", "license", "inference_task", "usability", "deployment_option", "context_tokens", "stage")
_OPERATORS = {
    "!=": search_pb2.FILTER_OPERATOR_NE,
    "=": search_pb2.FILTER_OPERATOR_EQ,
    ">": search_pb2.FILTER_OPERATOR_GT,
    "<": search_pb2.FILTER_OPERATOR_LT,
}
_FILTER = re.compile(r"\s*(?P<field>[a-z_]+)\s*(?P<operator>!=|=|>|<|\s+in\s+)\s*(?P<value>.+?)\s*")


def add_to(_: typer.Typer) -> None:
    """Register these commands."""
    models.command("search")(search)


def search(
    query: Annotated[str, typer.Argument(help="Words of names, publishers, tags, tasks and cards.")] = "",
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            help="'license=mit', 'context_tokens>100k', 'language!=en', 'license in mit,apache-2.0'; all must hold.",
        ),
    ] = None,
    order: Annotated[str, typer.Option(help="'context_tokens desc', 'input_price', …; the best matches first.")] = "",
    with_facets: Annotated[bool, typer.Option("--facets", help="Count what was found by common facets.")] = False,
    facet: Annotated[list[str] | None, typer.Option(help="Count by this facet; may be given again.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most models to show.")] = 20,
    page_token: Annotated[str, typer.Option(help="From the page before.")] = "",
    as_json: Json = False,
) -> None:
    """Search models."""
    request = search_pb2.SearchModelsRequest(
        query=query,
        filters=[read_filter(text) for text in filters or ()],
        order_by=order,
        facets=facet or (_FACETS if with_facets else ()),
        page_size=limit,
        page_token=page_token,
    )

    async def work(modelyard: Modelyard) -> None:
        found = await modelyard.search.SearchModels(request)
        if as_json:
            json_document(found)
        else:
            print_found(found)

    run(work)


def read_filter(text: str) -> search_pb2.Filter:
    """A filter as it is typed.

    Raises:
        UsageMistake: not of the form FIELD OPERATOR VALUE.
    """
    typed = _FILTER.fullmatch(text)
    if typed is None:
        raise UsageMistake(
            f"filter {text!r} is not of the form 'FIELD=VALUE', with '=', '!=', '>', '<', or ' in ' before values with "
            "commas between them"
        )
    operator = typed["operator"].strip()
    values = [value.strip() for value in typed["value"].split(",")] if operator == "in" else [typed["value"]]
    return search_pb2.Filter(
        field=typed["field"],
        operator=_OPERATORS.get(operator, search_pb2.FILTER_OPERATOR_IN),
        values=values,
    )


def print_found(found: search_pb2.SearchModelsResponse) -> None:
    """Models, counts, and what to do where there is little."""
    table(
        "",
        ("model", "found by", "usable here", "licence", "context", "where"),
        (
            (
                short_name(one.model.name),
                enum_word(search_pb2.MatchReason, one.reason, "MATCH_REASON_"),
                enum_word(catalog_pb2.Usability, one.model.usability, "USABILITY_"),
                one.model.license.id,
                f"{one.model.context_tokens:,}" if one.model.context_tokens else "",
                "; ".join(f"{match.field}: {match.text}" for match in one.matches if match.field != "name"),
            )
            for one in found.results
        ),
        right=("context",),
        whole=("model",),
    )
    for counts in found.facet_counts:
        table(
            counts.field,
            ("value", "models"),
            [
                *((value.value, f"{value.count:,}") for value in counts.values),
                *([("…", "")] if counts.has_more else []),
                *([("(none)", f"{counts.without_value:,}")] if counts.without_value else []),
            ],
            right=("models",),
        )
    _print_ways_on(found)


def _print_ways_on(found: search_pb2.SearchModelsResponse) -> None:
    more = "" if found.is_total_exact else "at least "
    out.print(f"[dim]{len(found.results):,} of {more}{found.total_count:,} models[/]")
    if found.suggestions:
        out.print(f"did you mean {' or '.join(repr(one) for one in found.suggestions)}?", markup=False)
    if found.unfiltered_count:
        out.print(f"without the filters {found.unfiltered_count:,} models match")
    if found.next_page_token:
        out.print(f"more: --page-token {found.next_page_token}", markup=False, soft_wrap=True)
    if found.pending_changes:
        since = f"; it holds what was there at {moment(found.index_time)}" if found.HasField("index_time") else ""
        out.print(f"the index is {found.pending_changes:,} changes behind{since}")

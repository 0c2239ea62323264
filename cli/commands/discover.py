"""Discover: models, their cards, collections, publishers, instance types."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2, search_pb2
from modelyard_client import Modelyard, ModelyardError

from cli.output import GIB, Json, enum_word, json_document, out, rate_words, short_name, table
from cli.session import UsageMistake, collect, run

models = typer.Typer(help="What there is, and what runs here.")
# A name that search does not know may be of a model that it has yet to hear of: how often it has to have been in step
# with the catalog since, how long that may take, and how often to look, seconds.
_IN_STEP_TIMES, _ARRIVE_S_MAX, _LOOK_S = 2, 5.0, 0.2
_QUERY_LENGTH_MAX = 512


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(models, name="models", rich_help_panel="Discover")
    app.command("collections")(collections)
    app.command("publishers")(publishers)
    app.command("instance-types")(instance_types)


@models.callback(invoke_without_command=True)
def list_models(
    context: typer.Context,
    collection: Annotated[str, typer.Option(help="Only models of this collection.")] = "",
    task: Annotated[str, typer.Option(help="chat-completion, embeddings, transcription, …")] = "",
    runs_here: Annotated[bool, typer.Option("--runs-here", help="Only models that run on this platform.")] = False,
    as_json: Json = False,
) -> None:
    """List models."""
    if context.invoked_subcommand is not None:
        return
    request = catalog_pb2.ListModelsRequest(
        parent="publishers/-",
        collection=f"collections/{collection}" if collection else "",
        task=_task(task),
        usability=catalog_pb2.USABILITY_RUNS_HERE if runs_here else catalog_pb2.USABILITY_UNSPECIFIED,
    )

    async def work(modelyard: Modelyard) -> None:
        found = await collect(modelyard.catalog.ListModels, request, "models")
        if as_json:
            json_document(found)
        else:
            print_models(found)

    run(work)


def print_models(found: list[catalog_pb2.Model]) -> None:
    """A line a model."""
    table(
        "",
        ("model", "collection", "tasks", "usable here", "licence", "parameters", "context"),
        (
            (
                short_name(model.name),
                model.collection.removeprefix("collections/"),
                ", ".join(enum_word(catalog_pb2.Task, task, "TASK_") for task in model.tasks),
                enum_word(catalog_pb2.Usability, model.usability, "USABILITY_"),
                model.license.id,
                _short_count(model.parameter_count),
                f"{model.context_tokens:,}" if model.context_tokens else "",
            )
            for model in found
        ),
        right=("parameters", "context"),
        whole=("model",),
    )
    if any(model.usability == catalog_pb2.USABILITY_NEEDS_INSTALL for model in found):
        out.print("needs install: `modelyard models install MODEL` fetches its files", markup=False)


async def find_model(
    modelyard: Modelyard,
    name: str,
    text_format: catalog_pb2.TextFormat.ValueType = catalog_pb2.TEXT_FORMAT_UNSPECIFIED,
) -> catalog_pb2.Model:
    """The model that a whole or a short name means.

    Args:
        text_format: How its card is given.

    Raises:
        UsageMistake: a short name that means several, or none; the nearest ones are named.
        ModelyardError: MODEL_NOT_FOUND.
    """
    whole = name.partition("/versions/")[0]
    publisher, _, model = whole.partition("/")
    if model and "/" not in model:
        try:
            whole_name = f"publishers/{publisher}/models/{model}"
            return await modelyard.catalog.GetModel(
                catalog_pb2.GetModelRequest(name=whole_name, text_format=text_format)
            )
        except ModelyardError as refused:
            if refused.reason != "MODEL_NOT_FOUND":
                raise
    if not whole.startswith(("publishers/", "projects/")):
        whole = await _meant(modelyard, whole)
    request = catalog_pb2.GetModelRequest(name=whole, text_format=text_format)
    answer: catalog_pb2.Model = await modelyard.catalog.GetModel(request)
    return answer


async def _meant(modelyard: Modelyard, wanted: str) -> str:
    """The resource name of the one model called `wanted`, NAME or PUBLISHER/NAME.

    Search may not have heard yet of a model that was added a moment ago, so a name that it does not know is looked up
    until it has been in step with the catalog twice since.
    """
    request = search_pb2.SearchModelsRequest(query=wanted[:_QUERY_LENGTH_MAX], page_size=1000)
    in_step: list[Timestamp] = []
    give_up_at = time.monotonic() + _ARRIVE_S_MAX
    while True:
        response = await modelyard.search.SearchModels(request)
        names = {short_name(one.model.name): one.model.name for one in response.results}
        if (found := the_one(names, wanted)) is not None:
            return found
        if not in_step or response.index_time != in_step[-1]:
            in_step.append(response.index_time)
        if len(in_step) > _IN_STEP_TIMES or time.monotonic() > give_up_at:
            near = list(names)[:3]
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageMistake(f"no model is called {wanted!r}; {hint}`modelyard models search` finds others")
        await asyncio.sleep(_LOOK_S)


def the_one(names: dict[str, str], wanted: str) -> str | None:
    """The resource name of the one model called `wanted`, among names by PUBLISHER/NAME; None where none is.

    Raises:
        UsageMistake: several are.
    """
    found = [short for short in names if wanted in (short, short.partition("/")[2])]
    if len(found) > 1:
        raise UsageMistake(f"{wanted!r} means {' and '.join(sorted(found))}; name one of them")
    return names[found[0]] if found else None


async def find_version(modelyard: Modelyard, name: str) -> str:
    """The resource name of the version that a name means: the newest one where it names none."""
    model = await find_model(modelyard, name)
    version = name.partition("/versions/")[2]
    return f"{model.name}/versions/{version}" if version else model.latest_version


def collections(as_json: Json = False) -> None:
    """List collections: who supports which models."""

    async def work(modelyard: Modelyard) -> None:
        found = await collect(modelyard.catalog.ListCollections, catalog_pb2.ListCollectionsRequest(), "collections")
        if as_json:
            json_document(found)
        else:
            print_collections(found)

    run(work)


def print_collections(found: list[catalog_pb2.Collection]) -> None:
    """A line a collection."""
    table(
        "",
        ("collection", "kind", "models", "support"),
        (
            (
                collection.name.removeprefix("collections/"),
                enum_word(catalog_pb2.CollectionKind, collection.kind, "COLLECTION_KIND_"),
                collection.model_count,
                collection.description,
            )
            for collection in found
        ),
        right=("models",),
    )


def publishers(as_json: Json = False) -> None:
    """List publishers."""

    async def work(modelyard: Modelyard) -> None:
        found = await collect(modelyard.catalog.ListPublishers, catalog_pb2.ListPublishersRequest(), "publishers")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("publisher", "name", "website"),
            ((one.name.removeprefix("publishers/"), one.display_name, one.website) for one in found),
        )

    run(work)


def instance_types(
    available: Annotated[bool, typer.Option("--available", help="Only types that can be deployed to here.")] = False,
    as_json: Json = False,
) -> None:
    """List instance types with their prices."""

    async def work(modelyard: Modelyard) -> None:
        request = catalog_pb2.ListInstanceTypesRequest(available_only=available)
        found = await collect(modelyard.catalog.ListInstanceTypes, request, "instance_types")
        if as_json:
            json_document(found)
            return
        prices = await collect(modelyard.billing.ListPrices, billing_pb2.ListPricesRequest(current_only=True), "prices")
        rates = {price.resource: price.rates[0] for price in prices if price.rates}
        table(
            "",
            ("instance type", "cores", "memory", "accelerators", "here", "per hour", "rate"),
            (
                (
                    one.name.removeprefix("instanceTypes/"),
                    one.vcpus,
                    f"{one.memory_bytes / GIB:g} GiB",
                    f"{one.gpu_count} x {one.gpu_model}" if one.gpu_count else "",
                    one.provider or "–",
                    f"{rates[one.name].amount} {rates[one.name].currency}" if one.name in rates else "no price",
                    rate_words(rates[one.name]) if one.name in rates else "",
                )
                for one in found
            ),
            right=("cores", "memory", "per hour"),
        )

    run(work)


def _task(word: str) -> catalog_pb2.Task.ValueType:
    if not word:
        return catalog_pb2.TASK_UNSPECIFIED
    known = {name.removeprefix("TASK_").lower().replace("_", "-"): number for name, number in catalog_pb2.Task.items()}
    if word not in known or not known[word]:
        raise UsageMistake(f"task {word!r} is not known; use {', '.join(list(known)[1:])}")
    return known[word]


def _short_count(count: int) -> str:
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count) if count else ""

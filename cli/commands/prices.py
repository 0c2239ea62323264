"""Prices and quotes."""

from __future__ import annotations

from typing import Annotated

import typer
from modelyard.billing.v1 import billing_pb2
from modelyard.type.v1 import money_pb2
from modelyard_client import Modelyard

from cli.commands.discover import find_version
from cli.output import Json, enum_word, facts, json_document, moment, out, rate_words, short_name, table
from cli.session import Project, UsageMistake, collect, project_name, run


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("prices")(prices)
    app.command("quote")(quote)
    app.command("quotes")(quotes)


def prices(
    every_version: Annotated[bool, typer.Option("--all", help="Also prices that newer ones replaced.")] = False,
    as_json: Json = False,
) -> None:
    """List prices."""

    async def work(modelyard: Modelyard) -> None:
        request = billing_pb2.ListPricesRequest(current_only=not every_version)
        found = await collect(modelyard.billing.ListPrices, request, "prices")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("for", "rate", "since", "price version", "source"),
            (
                (
                    short_name(price.resource),
                    rate_words(rate),
                    moment(price.effective_time)[:10],
                    price.price_version,
                    price.source,
                )
                for price in found
                for rate in price.rates
            ),
        )

    run(work)


def quote(
    model: Annotated[
        str, typer.Argument(help="Model that is to be deployed; serverless without --instance-type.")
    ] = "",
    project: Project = "",
    instance_type: Annotated[
        str, typer.Option(help="Instance type for a quote of managed compute, for this model or for any.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Take a quote: the price of one unit, for one project, held for a while."""

    async def work(modelyard: Modelyard) -> None:
        taken = await take_quote(modelyard, project, model=model, instance_type=instance_type)
        if as_json:
            json_document(taken)
        else:
            print_quote(taken)

    run(work)


async def take_quote(
    modelyard: Modelyard, project: str, *, model: str = "", instance_type: str = ""
) -> billing_pb2.Quote:
    """A new quote, for a model's tokens, or for an instance type's core-hour, with or without the model it is for.

    Raises:
        UsageMistake: neither of the two.
    """
    if not model and not instance_type:
        raise UsageMistake("name a model for a serverless quote, --instance-type for managed compute, or both")
    request = billing_pb2.CreateQuoteRequest(
        parent=project_name(project),
        model_version=await find_version(modelyard, model) if model else "",
        instance_type=type_name(instance_type),
    )
    taken: billing_pb2.Quote = await modelyard.billing.CreateQuote(request)
    return taken


def type_name(instance_type: str) -> str:
    """`instanceTypes/{instance_type}` from what was typed; empty from empty."""
    prefix = "instanceTypes/"
    return instance_type if instance_type.startswith(prefix) or not instance_type else prefix + instance_type


def print_quote(taken: billing_pb2.Quote) -> None:
    """A quote with everything that decides the bill."""
    managed = taken.kind == billing_pb2.OFFER_KIND_MANAGED
    facts(
        [
            ("quote", taken.name),
            ("for", taken.model_version or "any model"),
            ("on", taken.instance_type),
            ("way", "managed compute" if managed else "serverless API"),
            ("cores", taken.vcpus or ""),
            ("per hour", f"{taken.rates[0].amount} {taken.rates[0].currency} the instance" if managed else ""),
            *((_rate_name(rate), rate_words(rate)) for rate in taken.rates),
            ("price version", taken.price_version),
            ("holds until", f"{moment(taken.expire_time)} UTC"),
            ("supported by", taken.supported_by),
            ("contact", taken.support_contact),
            ("SLA", taken.sla),
        ]
    )


def _rate_name(rate: money_pb2.Rate) -> str:
    return {
        money_pb2.METER_INPUT_TOKENS: "input",
        money_pb2.METER_OUTPUT_TOKENS: "output",
        money_pb2.METER_CORE_MILLISECONDS: "core-hour",
        money_pb2.METER_AUDIO_MILLISECONDS: "audio",
        money_pb2.METER_IMAGES: "images",
    }.get(rate.meter, "rate")


def quotes(project: Project = "", as_json: Json = False) -> None:
    """List a project's quotes, newest first."""

    async def work(modelyard: Modelyard) -> None:
        request = billing_pb2.ListQuotesRequest(parent=project_name(project))
        found = await collect(modelyard.billing.ListQuotes, request, "quotes")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("quote", "way", "for", "rates", "holds until"),
            (
                (
                    one.name.rpartition("/")[2],
                    enum_word(billing_pb2.OfferKind, one.kind, "OFFER_KIND_"),
                    " on ".join(short_name(name) for name in (one.model_version, one.instance_type) if name),
                    "\n".join(rate_words(rate) for rate in one.rates),
                    moment(one.expire_time),
                )
                for one in found
            ),
        )
        if not found:
            out.print("`modelyard quote MODEL` takes one.")

    run(work)

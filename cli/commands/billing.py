"""The bill, its lines' events, usage, and the proof that they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer
from modelyard.billing.v1 import billing_pb2
from modelyard.type.v1 import money_pb2, usage_pb2
from modelyard_client import Modelyard, watch_usage

from cli.output import (
    Json,
    enum_word,
    facts,
    json_document,
    json_line,
    meter_word,
    moment,
    out,
    quantity_words,
    rate_words,
    short_name,
    table,
)
from cli.session import Project, UsageMistake, collect, every, project_name, run

Period = Annotated[str, typer.Option(help="Month, YYYY-MM, UTC; the running one if not set.")]
USAGE_SHOWN = 50


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("bill")(bill)
    app.command("usage")(usage)
    app.command("watch-usage")(watch)
    app.command("reconcile")(reconcile)


def bill(
    project: Project = "",
    period: Period = "",
    explain: Annotated[str, typer.Option(metavar="LINE", help="Explain this line down to its events.")] = "",
    as_json: Json = False,
) -> None:
    """Show the bill so far, line by line; or explain one line."""

    async def work(modelyard: Modelyard) -> None:
        parent = project_name(project)
        if explain:
            line, events, arithmetic = await explain_line(modelyard, parent, period, explain)
            if as_json:
                json_document({"line": line, "events": events, "arithmetic": arithmetic})
            else:
                print_explained(line, events, arithmetic)
            return
        found = await modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=parent, period=period))
        if as_json:
            json_document(found)
        else:
            print_bill(found)

    run(work)


def print_bill(found: billing_pb2.Bill) -> None:
    """Every line with meter, quantity, rate and amount, and the total."""
    table(
        f"Bill of {found.project.removeprefix('projects/')}, {found.period} so far",
        ("line", "deployment", "key", "records", "quantity", "rate", "amount"),
        (
            (
                line.id[:8],
                line.deployment.partition("/endpoints/")[2].replace("/deployments/", "/") or line.deployment_uid,
                line.key_id[:6],
                f"{line.record_count:,}",
                quantity_words(line.rate.meter, line.quantity)
                + (f"\n{line.open_quantity:,} in the running hour" if line.open_quantity else ""),
                rate_words(line.rate),
                f"{line.amount} {line.rate.currency}",
            )
            for line in found.lines
        ),
        right=("records", "quantity", "amount"),
        whole=("line",),
    )
    out.print(f"[bold]Total {found.total} {found.currency}[/], complete up to {moment(found.as_of_time)} UTC")
    if found.unrated:
        counted = ", ".join(f"{quantity.value:,} {meter_word(quantity.meter)}" for quantity in found.unrated)
        out.print(f"[dim]Counted without a rate: {counted}[/]")


async def explain_line(
    modelyard: Modelyard, parent: str, period: str, wanted: str
) -> tuple[billing_pb2.BillLine, list[billing_pb2.LineEvent], str]:
    """A line with all its events. `wanted` is a line's id, or the beginning of one.

    Raises:
        UsageMistake: several lines begin so.
    """
    found = await modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=parent, period=period))
    beginning = [line.id for line in found.lines if line.id.startswith(wanted)]
    if len(beginning) > 1:
        raise UsageMistake(f"{len(beginning)} lines begin with {wanted!r}; write more of the one you mean")
    request = billing_pb2.ExplainLineRequest(
        parent=parent, period=period, line=beginning[0] if beginning else wanted, page_size=1000
    )
    events: list[billing_pb2.LineEvent] = []
    while True:
        page = await modelyard.billing.ExplainLine(request)
        events += page.events
        if not page.next_page_token:
            return page.line, events, page.arithmetic
        request.page_token = page.next_page_token


def print_explained(line: billing_pb2.BillLine, events: list[billing_pb2.LineEvent], arithmetic: str) -> None:
    """A line, its events and its arithmetic."""
    facts(
        [
            ("line", line.id),
            ("deployment", line.deployment),
            ("model version", line.model_version),
            ("meter", meter_word(line.rate.meter)),
            ("price version", line.price_version),
        ]
    )
    core_hours = line.rate.meter == money_pb2.METER_CORE_MILLISECONDS
    table(
        f"{len(events):,} events, oldest first",
        ("event", "from (UTC)", "to" if core_hours else "ended", "quantity", "instance" if core_hours else "request"),
        (
            (
                event.record_id,
                moment(event.occur_time),
                (moment(event.end_time) + (" (open)" if event.open else ""))
                if core_hours
                else enum_word(usage_pb2.Outcome, event.outcome, "OUTCOME_"),
                f"{event.quantity:,}",
                event.instance_uid or event.request_id,
            )
            for event in events
        ),
        right=("quantity",),
        whole=("event",),
    )
    out.print(f"Events sum to {sum(event.quantity for event in events):,}; the line says {line.quantity:,}.")
    out.print(arithmetic)


def usage(
    project: Project = "",
    key: Annotated[str, typer.Option("--key-id", help="Only records of this key.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="Most records; 0 for all.")] = USAGE_SHOWN,
    as_json: Json = False,
) -> None:
    """List usage records, newest first."""

    async def work(modelyard: Modelyard) -> None:
        request = billing_pb2.ListUsageRequest(
            parent=project_name(project), key_id=key, page_size=min(limit, 1000) if limit else 1000
        )
        found: list[billing_pb2.PostedUsage] = []
        async for posted in every(modelyard.billing.ListUsage, request, "usage"):
            found.append(posted)
            if limit and len(found) == limit:
                break
        if as_json:
            json_document(found)
        else:
            print_usage(found)

    run(work)


def print_usage(found: list[billing_pb2.PostedUsage]) -> None:
    """A line a record."""
    table(
        "",
        ("record", "when (UTC)", "model version", "key", "ended", "read", "made"),
        (_usage_row(posted) for posted in found),
        right=("read", "made"),
    )


def _usage_row(posted: billing_pb2.PostedUsage) -> tuple[object, ...]:
    record = posted.record
    amounts: dict[int, int] = {quantity.meter: quantity.value for quantity in record.quantities}
    return (
        record.id,
        moment(record.occur_time),
        short_name(record.model_version),
        record.key_id[:8],
        enum_word(usage_pb2.Outcome, record.outcome, "OUTCOME_"),
        _read_words(amounts),
        f"{amounts.get(money_pb2.METER_OUTPUT_TOKENS, 0):,}",
    )


def _read_words(amounts: Mapping[int, int]) -> str:
    """What the model read: tokens, or where it heard or saw something that with its unit."""
    for meter in (money_pb2.METER_AUDIO_MILLISECONDS, money_pb2.METER_IMAGES):
        if amounts.get(meter):
            return quantity_words(meter, amounts[meter])
    return f"{amounts.get(money_pb2.METER_INPUT_TOKENS, 0):,}"


def watch(
    project: Project = "",
    resume: Annotated[str, typer.Option(metavar="TOKEN", help="Go on where an earlier watch ended.")] = "",
    as_json: Json = False,
) -> None:
    """Show usage as it is posted to the ledger; with --json each line carries the token to go on with."""

    async def work(modelyard: Modelyard) -> None:
        async for response in watch_usage(modelyard, project_name(project), resume):
            if as_json:
                json_line(response)
                continue
            for posted in response.usage:
                record, when, version, key, ended, read, made = _usage_row(posted)
                out.print(f"{when}  {version}  key {key}  {ended}  {read} in  {made} out  {record}", soft_wrap=True)

    run(work)


def reconcile(project: Project = "", period: Period = "", as_json: Json = False) -> None:
    """Recompute the bill from its records and list every difference; exit status 1 when there is one."""

    async def work(modelyard: Modelyard) -> None:
        found = await modelyard.billing.Reconcile(
            billing_pb2.ReconcileRequest(parent=project_name(project), period=period)
        )
        if as_json:
            json_document(found)
        else:
            _print_reconciled(found)
        if found.differences:
            raise typer.Exit(1)

    run(work)


def _print_reconciled(found: billing_pb2.ReconcileResponse) -> None:
    rollups = {quantity.meter: quantity.value for quantity in found.rollups}
    table(
        f"{found.record_count:,} usage records",
        ("meter", "sum of records", "sum of rollups"),
        (
            (meter_word(quantity.meter), f"{quantity.value:,}", f"{rollups.get(quantity.meter, 0):,}")
            for quantity in found.records
        ),
        right=("sum of records", "sum of rollups"),
    )
    if found.differences:
        table("Differences", ("kind", "detail"), ((one.kind, one.detail) for one in found.differences))
    else:
        out.print("No difference.")


async def usage_of(modelyard: Modelyard, parent: str) -> list[billing_pb2.PostedUsage]:
    """Every usage record of a project, newest first."""
    return await collect(modelyard.billing.ListUsage, billing_pb2.ListUsageRequest(parent=parent), "usage")

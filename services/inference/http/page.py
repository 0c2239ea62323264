"""GET /: models, prices, and with a key its endpoints and bill; plain, self-contained, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from string import Template
from time import monotonic
from typing import Any

import grpc
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from modelyard.deploy.v1 import routes_pb2
from modelyard.type.v1 import money_pb2
from starlette.responses import HTMLResponse, Response

from chassis.telemetry import get_logger
from services.inference.access.routes import RouteDirectory
from services.inference.http.answers import JsonResponse

log = get_logger(__name__)

_CSP = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'"
_AWAY = "<p class=away>{} does not answer now; `modelyard status` says why.</p>"
_ASK_S_MAX = 5.0
_CORE_HOUR_MS = 3_600_000
# What a price is for, in the words that people buy by.
_PER = {
    (money_pb2.METER_INPUT_TOKENS, 1_000_000): "1M input tokens",
    (money_pb2.METER_OUTPUT_TOKENS, 1_000_000): "1M output tokens",
    (money_pb2.METER_AUDIO_MILLISECONDS, 60_000): "minute of audio",
}


class Page:
    """Public facts are fetched from the catalog and billing, as the service `inference`, and kept for a while.

    Args:
        keep_s: How long fetched facts are shown, seconds.
    """

    def __init__(
        self, routes: RouteDirectory, catalog: grpc.aio.Channel, billing: grpc.aio.Channel, *, keep_s: float = 10.0
    ) -> None:
        self._routes = routes
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(catalog)
        self._billing = billing_pb2_grpc.BillingServiceStub(billing)
        self._template = Template(Path(__file__).with_name("page.html").read_text())
        self._keep_s = keep_s
        self._shown: tuple[float, str, str] | None = None

    async def html(self, base: str) -> Response:
        """The page; it says plainly which part does not answer."""
        if self._shown is None or monotonic() - self._shown[0] > self._keep_s:
            rates = await self._rates()
            self._shown = (monotonic(), await self._models(rates), await self._types(rates))
        _, models, types = self._shown
        text = self._template.substitute(models=models, types=types, base=html.escape(base))
        return HTMLResponse(text, headers={"content-security-policy": _CSP, "x-content-type-options": "nosniff"})

    async def project(self, key: routes_pb2.KeyAccess) -> Response:
        """What a key may see: its project's endpoints and the bill so far."""
        endpoints = [
            {
                "model": name,
                "version": _short(destination.deployment.model_version),
                "kind": "serverless" if destination.route.serverless else "managed",
                "instances": len(destination.deployment.targets),
            }
            for name, destination in self._routes.callable_with(key)
        ]
        facts: dict[str, Any] = {"endpoints": endpoints, "bill": None, "why": ""}
        if key.endpoint_uids:
            facts["why"] = "This key is for some endpoints only, so it does not show the project's bill."
        else:
            try:
                request = billing_pb2.GetBillRequest(parent=f"projects/{key.project_uid}")
                facts["bill"] = _bill(await self._billing.GetBill(request, timeout=_ASK_S_MAX))
            except grpc.aio.AioRpcError:
                facts["why"] = "Billing does not answer now; usage is kept in the journal meanwhile."
        return JsonResponse(facts, headers={"cache-control": "no-store"})

    async def _rates(self) -> dict[str, dict[int, money_pb2.Rate]] | None:
        """Current rates by resource and meter; None while billing is away."""
        request = billing_pb2.ListPricesRequest(current_only=True, page_size=1000)
        try:
            answer = await self._billing.ListPrices(request, timeout=_ASK_S_MAX)
        except grpc.aio.AioRpcError as error:
            log.warning("the page has no prices", error=error.code().name)
            return None
        return {price.resource: {rate.meter: rate for rate in price.rates} for price in answer.prices}

    async def _models(self, rates: dict[str, dict[int, money_pb2.Rate]] | None) -> str:
        request = catalog_pb2.ListModelsRequest(usability=catalog_pb2.USABILITY_RUNS_HERE, page_size=1000)
        try:
            answer = await self._catalog.ListModels(request, timeout=_ASK_S_MAX)
        except grpc.aio.AioRpcError as error:
            log.warning("the page has no models", error=error.code().name)
            return _AWAY.format("The catalog")
        rows = [
            (
                f"{model.display_name}\n{_short(model.name)}\nmodels/{_short(model.name)}",
                model.summary,
                model.license.id,
                _prices((rates or {}).get(model.name, {})),
            )
            for model in answer.models
        ]
        listed = table(("model", "what it does", "licence", "price"), rows)
        return listed if rates is not None else _AWAY.format("Billing") + listed

    async def _types(self, rates: dict[str, dict[int, money_pb2.Rate]] | None) -> str:
        try:
            request = catalog_pb2.ListInstanceTypesRequest(page_size=1000)
            answer = await self._catalog.ListInstanceTypes(request, timeout=_ASK_S_MAX)
        except grpc.aio.AioRpcError:
            return _AWAY.format("The catalog")

        def rows(types: Sequence[catalog_pb2.InstanceType]) -> list[tuple[str, ...]]:
            return [
                (
                    _short(one.name),
                    str(one.vcpus),
                    f"{one.memory_bytes / 2**30:g} GiB",
                    f"{one.gpu_count} x {one.gpu_model}" if one.gpu_count else "",
                    *_hourly((rates or {}).get(one.name, {}).get(money_pb2.METER_CORE_MILLISECONDS)),
                )
                for one in types
            ]

        head = ("type", "cores#", "memory#", "accelerators", "per hour#", "rate#")
        here = [one for one in answer.instance_types if one.provider]
        elsewhere = [one for one in answer.instance_types if not one.provider]
        return (
            table(head, rows(here))
            + f"<details><summary>{len(elsewhere)} more for comparison</summary>{table(head, rows(elsewhere))}</details>"
        )


def _bill(bill: billing_pb2.Bill) -> dict[str, Any]:
    lines = [
        [
            line.deployment.partition("/endpoints/")[2].replace("/deployments/", "/") or line.deployment_uid,
            f"{line.quantity:,}",
            meter_words(line.rate.meter),
            rate_words(line.rate),
            f"{line.amount} {line.rate.currency}",
        ]
        for line in bill.lines
    ]
    return {"period": bill.period, "total": bill.total, "currency": bill.currency, "lines": lines}


def _short(resource: str) -> str:
    """`publishers/P/models/M/versions/V`, or a project's own model, as `P/M vV`; anything else as its last part."""
    parts = resource.split("/")
    if parts[0] in ("publishers", "projects") and len(parts) >= 4 and parts[2] == "models":
        return f"{parts[1]}/{parts[3]}" + (f" v{parts[5]}" if len(parts) == 6 else "")
    return parts[-1]


def meter_words(meter: int) -> str:
    return money_pb2.Meter.Name(money_pb2.Meter.ValueType(meter)).removeprefix("METER_").lower().replace("_", " ")


def rate_words(rate: money_pb2.Rate | None) -> str:
    """A rate in the unit people buy in."""
    if rate is None:
        return "–"
    if rate.meter == money_pb2.METER_CORE_MILLISECONDS:
        return _hourly(rate)[1]
    return f"{rate.amount} {rate.currency} / {_PER.get((rate.meter, rate.per)) or f'{rate.per:,} {meter_words(rate.meter)}'}"


def _prices(rates: Mapping[int, money_pb2.Rate]) -> str:
    """Every rate of a model."""
    return ", ".join(rate_words(rates[meter]) for meter in sorted(rates)) or "–"


def _hourly(rate: money_pb2.Rate | None) -> tuple[str, str]:
    """The price of the whole instance's hour, and of one core's, which may be no finite decimal."""
    if rate is None:
        return "–", "no price"
    cores = rate.per // _CORE_HOUR_MS
    per_core = Fraction(rate.amount) / cores
    shown = f"{float(per_core):.6g}" if cores > 1 else rate.amount
    about = "" if Fraction(shown) == per_core else "≈ "
    return f"{rate.amount} {rate.currency}", f"{about}{shown} {rate.currency} / core-hour"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """An HTML table; columns whose names end in `#` hold numbers, and the first line of a cell is its name."""
    numbers = [name.endswith("#") for name in head]

    def cells(tag: str, row: tuple[str, ...]) -> str:
        return "".join(
            f"<{tag}{' class=number' if number else ''}>{_cell(text)}</{tag}>"
            for text, number in zip(row, numbers, strict=True)
        )

    names = tuple(name.rstrip("#") for name in head)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', names)}</tr>{body}</table>"


def _cell(text: str) -> str:
    """A name; with a second line what it is called in commands, with a third where it leads."""
    name, more, address = (*text.split("\n"), "", "")[:3]
    shown = f'<a href="{html.escape(address)}">{html.escape(name)}</a>' if address else html.escape(name)
    return shown + (f"<br><code>{html.escape(more)}</code>" if more else "")

"""GET /: models, prices, and with a key its endpoints and bill; plain, self-contained, nothing loaded from elsewhere."""

from __future__ import annotations

import html
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

_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Modelyard</title><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1e293b}}
table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #e2e8f0}}
td.n{{text-align:right;font-variant-numeric:tabular-nums}}pre{{background:#f1f5f9;padding:1rem;overflow:auto}}
.away{{color:#b45309}}input{{font:inherit;width:28rem;max-width:100%;padding:.3rem}}button{{font:inherit;padding:.3rem 1rem}}
</style>
<h1>Modelyard</h1>
<h2>Models that run here</h2>{models}
<h2>Prices</h2>{prices}
<h2>Your endpoints and bill</h2>
<p>Paste an inference key; it stays in this tab.</p>
<p><label>Key <input id=key type=password autocomplete=off placeholder="my_…"></label> <button id=show>Show</button></p>
<div id=project></div>
<h2>Call it</h2>
<pre>curl {base}v1/chat/completions \\
  -H "Authorization: Bearer $MODELYARD_KEY" -H "Content-Type: application/json" \\
  -d '{{"model": "ENDPOINT", "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 40}}'</pre>
<script>
const key=document.getElementById("key"),box=document.getElementById("project");
key.value=sessionStorage.getItem("key")||"";
function row(cells,tag){{const r=document.createElement("tr");for(const c of cells){{const d=document.createElement(tag);
d.textContent=c;r.append(d)}}return r}}
function table(head,rows){{const t=document.createElement("table");t.append(row(head,"th"));rows.forEach(c=>t.append(row(c,"td")));return t}}
document.getElementById("show").onclick=async()=>{{sessionStorage.setItem("key",key.value);
const a=await fetch("page/project",{{headers:{{Authorization:"Bearer "+key.value}}}}),f=await a.json();box.replaceChildren();
if(!a.ok){{box.textContent=f.error.message;return}}
box.append(table(["model","version","kind","instances"],f.endpoints.map(e=>[e.model,e.version,e.kind,e.instances])));
const p=document.createElement("p");p.textContent=f.bill?("Bill of "+f.bill.period+" so far: "+f.bill.total+" "+f.bill.currency):f.why;box.append(p);
if(f.bill)box.append(table(["deployment","meter","quantity","rate","amount"],f.bill.lines))}};
</script></html>"""


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
        self._keep_s = keep_s
        self._shown: tuple[float, str, str] | None = None

    async def html(self, base: str) -> Response:
        """The page; it says plainly which part does not answer."""
        if self._shown is None or monotonic() - self._shown[0] > self._keep_s:
            self._shown = (monotonic(), await self._models(), await self._prices())
        _, models, prices = self._shown
        text = _PAGE.format(models=models, prices=prices, base=html.escape(base))
        return HTMLResponse(text, headers={"content-security-policy": _CSP, "x-content-type-options": "nosniff"})

    async def project(self, key: routes_pb2.KeyAccess, base: str) -> Response:
        """What a key may see: its project's endpoints and the bill so far."""
        endpoints = [
            {
                "model": name,
                "version": destination.deployment.model_version,
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
                bill = await self._billing.GetBill(request, timeout=5)
                facts["bill"] = _bill(bill)
            except grpc.aio.AioRpcError:
                facts["why"] = "Billing does not answer now; usage is kept in the journal meanwhile."
        return JsonResponse(facts, headers={"cache-control": "no-store"})

    async def _models(self) -> str:
        try:
            request = catalog_pb2.ListModelsRequest(usability=catalog_pb2.USABILITY_RUNS_HERE, page_size=50)
            answer = await self._catalog.ListModels(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            log.warning("the page has no models", error=error.code().name)
            return _AWAY.format("The catalog")
        rows = [(model.display_name, model.name, model.summary, model.license.id) for model in answer.models]
        return _table(("model", "name", "what it does", "licence"), rows)

    async def _prices(self) -> str:
        try:
            answer = await self._billing.ListPrices(
                billing_pb2.ListPricesRequest(current_only=True, page_size=100), timeout=5
            )
        except grpc.aio.AioRpcError as error:
            log.warning("the page has no prices", error=error.code().name)
            return _AWAY.format("Billing")
        rows = [(price.resource, _rate(rate), price.source) for price in answer.prices for rate in price.rates]
        return _table(("for", "price", "source"), rows)


def _bill(bill: billing_pb2.Bill) -> dict[str, Any]:
    lines = [
        [
            line.deployment.rpartition("/")[2] or line.deployment_uid,
            _meter(line.rate.meter),
            str(line.quantity),
            _rate(line.rate),
            f"{line.amount} {line.rate.currency}",
        ]
        for line in bill.lines
    ]
    return {"period": bill.period, "total": bill.total, "currency": bill.currency, "lines": lines}


def _meter(meter: int) -> str:
    return money_pb2.Meter.Name(money_pb2.Meter.ValueType(meter)).removeprefix("METER_").lower().replace("_", " ")


def _rate(rate: money_pb2.Rate) -> str:
    return f"{rate.amount} {rate.currency} per {rate.per} {_meter(rate.meter)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{cells}</table>"

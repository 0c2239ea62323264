"""GET /models/{publisher}/{model}: a model's card as a page; plain, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import grpc
from modelyard.billing.v1 import billing_pb2, billing_pb2_grpc
from modelyard.catalog.v1 import (
    benchmarks_pb2,
    benchmarks_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    code_samples_pb2,
    code_samples_pb2_grpc,
)
from starlette.responses import HTMLResponse, Response

from chassis.rpc import problem_from_rpc_error
from services.inference.http.page import rate_words, table

# Cards of any origin are shown here: no script runs, and nothing is loaded.
_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_ASK_S_MAX = 5.0
_VERSIONS_SHOWN, _SCORES_SHOWN = 20, 100
_USABLE = {
    catalog_pb2.USABILITY_RUNS_HERE: "runs here",
    catalog_pb2.USABILITY_NEEDS_HARDWARE: "needs hardware",
    catalog_pb2.USABILITY_NEEDS_PROVIDER_CREDENTIAL: "needs provider credential",
}


class ModelPage:
    """Asks the catalog and billing as the service `inference`."""

    def __init__(self, catalog: grpc.aio.Channel, billing: grpc.aio.Channel) -> None:
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(catalog)
        self._benchmarks = benchmarks_pb2_grpc.BenchmarkServiceStub(catalog)
        self._samples = code_samples_pb2_grpc.CodeSampleServiceStub(catalog)
        self._billing = billing_pb2_grpc.BillingServiceStub(billing)
        self._template = Template(Path(__file__).with_name("model_page.html").read_text())

    async def html(self, name: str, base: str) -> Response:
        """The page of one model.

        Args:
            name: `publishers/{publisher}/models/{model}`.
            base: Address of the REST face, ending in `/`.

        Raises:
            Problem: MODEL_NOT_FOUND, or what else the catalog answered.
        """
        asked = catalog_pb2.GetModelRequest(name=name, text_format=catalog_pb2.TEXT_FORMAT_HTML)
        try:
            model = await self._catalog.GetModel(asked, timeout=_ASK_S_MAX)
            versions = await self._catalog.ListModelVersions(
                catalog_pb2.ListModelVersionsRequest(parent=name, page_size=_VERSIONS_SHOWN), timeout=_ASK_S_MAX
            )
            scores = await self._benchmarks.ListScores(
                benchmarks_pb2.ListScoresRequest(parent=name, page_size=_SCORES_SHOWN), timeout=_ASK_S_MAX
            )
            prices = await self._billing.ListPrices(
                billing_pb2.ListPricesRequest(resource=name, current_only=True), timeout=_ASK_S_MAX
            )
            samples = await self._samples.GetCodeSamples(
                code_samples_pb2.GetCodeSamplesRequest(name=name, rest_url=base.rstrip("/")), timeout=_ASK_S_MAX
            )
        except grpc.aio.AioRpcError as error:
            raise problem_from_rpc_error(error) from error
        text = self._template.substitute(
            title=html.escape(model.display_name),
            summary=html.escape(model.summary),
            facts=table(("", ""), _facts(model, prices.prices)),
            versions=table(("version", "stage", "file", "bytes#", "sha256"), _versions(versions.model_versions)),
            # Sanitised by the catalog.
            card=model.card,
            notes=f"<h2>Responsible use</h2>{model.notes}" if model.notes else "",
            evaluation=model.evaluation,
            benchmarks=_scores(scores.scores),
            samples=_bodies(model.samples),
            code=_code(samples.samples),
            license=_licence(model.license),
        )
        return HTMLResponse(text, headers={"content-security-policy": _CSP, "x-content-type-options": "nosniff"})


def _facts(model: catalog_pb2.Model, prices: Sequence[billing_pb2.Price]) -> list[tuple[str, ...]]:
    pairs = [
        ("name", model.name),
        ("collection", model.collection.removeprefix("collections/")),
        ("stage", catalog_pb2.LifecycleStage.Name(model.stage).removeprefix("LIFECYCLE_STAGE_").lower()),
        ("usable here", _USABLE.get(model.usability, "")),
        ("why not", model.usability_detail),
        (
            "price",
            ", ".join(rate_words(rate) for price in prices for rate in price.rates),
        ),
        ("licence", model.license.id),
        ("does", ", ".join(model.inference_tasks)),
        ("takes", ", ".join(model.input_modalities)),
        ("gives", ", ".join(model.output_modalities)),
        ("capabilities", ", ".join(model.capabilities)),
        ("languages", ", ".join(model.languages)),
        ("parameters", f"{model.parameter_count:,}" if model.parameter_count else ""),
        ("context", f"{model.context_tokens:,} tokens" if model.context_tokens else ""),
        ("supported by", model.support.supported_by),
        ("contact", model.support.contact),
        ("availability", model.support.sla),
        ("sources", ", ".join(f"{source.location} ({source.date})" for source in model.sources)),
    ]
    return [pair for pair in pairs if pair[1]]


def _versions(versions: Iterable[catalog_pb2.ModelVersion]) -> list[tuple[str, ...]]:
    return [
        (
            version.name.rpartition("/")[2],
            catalog_pb2.LifecycleStage.Name(version.stage).removeprefix("LIFECYCLE_STAGE_").lower(),
            artifact.name,
            f"{artifact.size_bytes:,}" if artifact.size_bytes else "",
            artifact.sha256,
        )
        for version in versions
        for artifact in version.artifacts or [catalog_pb2.Artifact(name="none here")]
    ]


def _scores(scores: Sequence[benchmarks_pb2.Score]) -> str:
    if not scores:
        return ""
    rows = [
        (score.dataset, score.value, score.metric, score.shots, score.detail, score.date, score.source)
        for score in scores
    ]
    head = ("dataset", "score#", "metric", "shots", "", "date", "source")
    return f"<h2>Benchmarks</h2>{table(head, rows)}"


def _bodies(samples: Iterable[catalog_pb2.Sample]) -> str:
    return "".join(
        f"<h3>{html.escape(sample.title)}</h3>"
        + "".join(f"<pre>{html.escape(body)}</pre>" for body in (sample.input, sample.output) if body)
        for sample in samples
    )


def _code(samples: Iterable[code_samples_pb2.CodeSample]) -> str:
    return "".join(
        f"<details><summary>{_purpose(sample.purpose)} with {html.escape(sample.client)}</summary>"
        f"<pre>{html.escape(sample.code)}</pre></details>"
        for sample in samples
    )


def _purpose(purpose: code_samples_pb2.CodeSamplePurpose.ValueType) -> str:
    return code_samples_pb2.CodeSamplePurpose.Name(purpose).removeprefix("CODE_SAMPLE_PURPOSE_").lower()


def _licence(license_: catalog_pb2.License) -> str:
    if not license_.text:
        return ""
    asked = " It has to be accepted before the model is quoted or deployed." if license_.acceptance_required else ""
    return f"<details><summary>Text of {html.escape(license_.id)}.{asked}</summary><pre>{html.escape(license_.text)}</pre></details>"

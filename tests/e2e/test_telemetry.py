"""Traces by real OTLP from the call to the ledger, and metrics as Prometheus reads them."""

from __future__ import annotations

import json
import re
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from openai import OpenAI

from tests.infra.otlp import OtlpReceiver, otlp_receiver
from tests.infra.up import Up, running_up

SERVICES = ("catalog", "deploy", "billing", "inference")
PROMPT = "a prompt nobody else should read"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def traced(receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A platform that sends its traces, with one endpoint and its key in MODELYARD_KEY."""
    settings = {f"MODELYARD_{service.upper()}_OTLP_ENDPOINT": receiver.address for service in SERVICES}
    with running_up(tmp_path_factory.mktemp("traced") / "home", settings) as up:
        up.run("project", "create", "shop")
        up.run("deploy", "smollm2-135m-instruct", "-p", "shop", "--endpoint", "chat", "--serverless")
        yield up


@pytest.fixture(scope="module")
def key(traced: Up) -> str:
    secret: str = traced.json("key", "create", "-p", "shop")["secret"]
    return secret


@pytest.fixture(scope="module")
def trace_id(traced: Up, key: str) -> str:
    """The trace of one streamed call, begun by its client."""
    trace = secrets.token_hex(16)
    with OpenAI(base_url=f"{traced.addresses['rest']}/v1", api_key=key) as client:
        stream = client.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=5,
            stream=True,
            extra_headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"},
        )
        for _ in stream:
            pass
    return trace


def until(holds: Callable[[], bool], *, s_max: float = 20) -> None:
    deadline = time.monotonic() + s_max
    while not holds():
        assert time.monotonic() < deadline, "it does not hold"
        time.sleep(0.05)


def test_one_trace_goes_from_the_call_to_the_engine(receiver: OtlpReceiver, trace_id: str) -> None:
    """REST, the generation and Triton nest in the trace that the client began."""
    names = ["POST /v1/chat/completions", "chat", "inference.GRPCInferenceService/ModelStreamInfer"]

    def seen(name: str) -> list[str]:
        return [span.span_id for span in receiver.spans(name, "inference") if span.trace_id == trace_id]

    until(lambda: all(seen(name) for name in names))
    by_name = {span.name: span for span in receiver.spans(service="inference") if span.trace_id == trace_id}
    for outer, inner in pairwise(names):
        assert by_name[inner].parent_id == by_name[outer].span_id


def test_the_usage_record_carries_the_trace(traced: Up, trace_id: str) -> None:
    """Whoever reads the ledger finds the call."""

    def carried() -> bool:
        records = traced.json("usage", "-p", "shop")
        return any(trace_id in one["record"]["traceparent"] for one in records)

    until(carried)


@pytest.mark.parametrize(("name", "service"), [("send usage", "inference"), ("post usage", "billing")])
def test_batches_link_to_the_calls_they_hold(receiver: OtlpReceiver, trace_id: str, name: str, service: str) -> None:
    """A batch has a trace of its own; from it every call is found, on its way and in the ledger."""
    until(lambda: any(trace_id in span.links for span in receiver.spans(name, service)))


def test_control_calls_are_traced_from_service_to_service(receiver: OtlpReceiver, traced: Up) -> None:
    """A quote's trace reaches the catalog, which billing asked."""

    def joined() -> bool:
        quotes = {span.trace_id for span in receiver.spans("modelyard.billing.v1.BillingService/CreateQuote")}
        return any(span.trace_id in quotes for span in receiver.spans(service="catalog"))

    until(joined)


def test_events_are_traced_from_their_cause_to_their_effect(receiver: OtlpReceiver, traced: Up) -> None:
    """Creating a project is the cause of billing knowing its name."""

    def joined() -> bool:
        created = {span.trace_id for span in receiver.spans("modelyard.deploy.v1.ProjectService/CreateProject")}
        return any(span.trace_id in created for span in receiver.spans("process billing-projects", "billing"))

    until(joined)


def test_no_span_holds_a_prompt_or_a_key(receiver: OtlpReceiver, trace_id: str, key: str) -> None:
    """Ids and counts are enough."""
    until(lambda: bool(receiver.spans("post usage")))
    written = "".join(f"{span.name}{span.attributes}" for span in receiver.spans())
    assert PROMPT not in written
    assert key not in written


METRICS = {
    "catalog": ["rpc_server_duration_seconds_count", "modelyard_outbox_depth"],
    "deploy": ["rpc_server_duration_seconds_count", "modelyard_outbox_depth", "modelyard_consumer_lag"],
    "billing": ["rpc_server_duration_seconds_count", "modelyard_consumer_lag", "modelyard_billing_usage_posted_total"],
    "inference": [
        *("http_server_request_duration_seconds_count", "gen_ai_server_request_duration_seconds_count"),
        *("gen_ai_server_time_to_first_token_duration_seconds_count", "gen_ai_client_token_usage"),
        *("modelyard_journal_size_bytes", "modelyard_journal_commit_duration_seconds_count"),
        *("modelyard_routes_staleness_seconds", "modelyard_keys_staleness_seconds"),
    ],
}


@pytest.mark.parametrize("service", SERVICES)
def test_prometheus_reads_every_service(traced: Up, trace_id: str, service: str) -> None:
    """The addresses stand in addresses.json; what a service does is there by name."""
    with urllib.request.urlopen(traced.addresses["metrics"][service], timeout=10) as answer:  # noqa: S310
        text = answer.read().decode()
    for name in METRICS[service]:
        assert re.search(rf"^{name}", text, re.MULTILINE), f"{name} is not there"


def test_series_name_no_tenant(traced: Up, trace_id: str) -> None:
    """The number of series does not grow with projects, endpoints or keys."""
    for service in SERVICES:
        with urllib.request.urlopen(traced.addresses["metrics"][service], timeout=10) as answer:  # noqa: S310
            assert "shop" not in answer.read().decode()


GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard and the alert rules."""
    dashboard = json.loads((GRAFANA / "modelyard.json").read_text())
    rules = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]] + [
        rule["expr"] for group in rules["groups"] for rule in group["rules"]
    ]


def test_dashboards_and_alerts_name_metrics_that_exist(traced: Up, trace_id: str) -> None:
    """A renamed metric must not leave an alert that never fires."""
    named = {
        name
        for expr in expressions()
        for name in re.findall(r"\b(?:modelyard|gen_ai|http|rpc)_\w+(?=[\[{)\s]|$)", expr)
    }
    labels = {"modelyard_outcome", "gen_ai_token_type", "http_response_status_code", "http_route", "modelyard_state"}
    labels |= {"rpc_method", "rpc_grpc_status_code", "rpc_server"}
    exported = set()
    for service in SERVICES:
        with urllib.request.urlopen(traced.addresses["metrics"][service], timeout=10) as answer:  # noqa: S310
            exported |= set(re.findall(r"^(\w+)[{ ]", answer.read().decode(), re.MULTILINE))
    assert named - labels - exported == set()
    assert len(named - labels) >= 15

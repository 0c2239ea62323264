"""Measure models on real deployments, and list what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from modelyard.catalog.v1 import benchmarks_pb2, catalog_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard_client import Modelyard
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.commands.calls import read_files
from cli.commands.discover import find_model
from cli.measure import (
    Ask,
    Measured,
    MeasuringFailed,
    Protocol,
    Timing,
    ask_chat,
    ask_classification,
    ask_embedding,
    ask_transcription,
    measure,
)
from cli.output import Json, enum_word, err, facts, json_document, moment, out, problem, short_name, table
from cli.session import Project, UsageMistake, collect, connect, project_name, run
from cli.temporary import temporary_deployment

benchmark = typer.Typer(help="Measure models on deployments of your own.", no_args_is_help=True)
# Room for the answer and for what the chat template adds.
_TEMPLATE_TOKENS = 64
_MEASURED = (
    catalog_pb2.TASK_CHAT_COMPLETION,
    catalog_pb2.TASK_EMBEDDINGS,
    catalog_pb2.TASK_TRANSCRIPTION,
    catalog_pb2.TASK_IMAGE_CLASSIFICATION,
)
_OF_FILES = (catalog_pb2.TASK_TRANSCRIPTION, catalog_pb2.TASK_IMAGE_CLASSIFICATION)


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(benchmark, name="benchmark", rich_help_panel="Discover")
    benchmark.command("run")(run_benchmark)
    benchmark.command("list")(list_runs)


def run_benchmark(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    project: Project = "",
    instance_type: Annotated[str, typer.Option(help="Instance type to measure on.")] = "local-1",
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Trials; 336 in Azure's protocol.")] = Protocol.trials,
    requests: Annotated[int, typer.Option(min=1, max=100, help="Requests a trial.")] = Protocol.requests_per_trial,
    interval_s: Annotated[
        int, typer.Option(min=0, max=86_400, help="Seconds between trials; 3600 in Azure's protocol.")
    ] = Protocol.interval_s,
    input_tokens: Annotated[int, typer.Option(min=1, help="Tokens in.")] = Protocol.input_tokens,
    output_tokens: Annotated[int, typer.Option(min=1, help="Tokens out, at most.")] = Protocol.output_tokens,
    file: Annotated[Path | None, typer.Option(help="Recording or image, for models that take one.")] = None,
    as_json: Json = False,
) -> None:
    """Deploy a model on an instance of its own, measure how fast it answers, delete it, and keep the figures."""
    parent = project_name(project)

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name)
        version = await modelyard.catalog.GetModelVersion(catalog_pb2.GetModelVersionRequest(name=model.latest_version))
        task = next((task for task in _MEASURED if task in version.tasks), None)
        if task is None:
            raise UsageMistake(f"{model.name} does nothing that can be measured; {_words_of_tasks()} can")
        if (file is not None) != (task in _OF_FILES):
            takes = "a recording or an image: name one with --file" if task in _OF_FILES else "text, and no --file"
            raise UsageMistake(f"{model.name} takes {takes}")
        lengths = _fitting(version, task, input_tokens, output_tokens)
        protocol = Protocol(trials, requests, interval_s, *lengths)
        content = read_files([file])[0] if file else b""
        async with (
            temporary_deployment(modelyard, parent, model.latest_version, instance_type, "benchmark") as (
                deployment,
                key,
            ),
            connect(key=key) as caller,
        ):
            measured = await _measured(caller, deployment, protocol, task, content)
        stored = await modelyard.benchmarks.CreatePerformanceRun(
            benchmarks_pb2.CreatePerformanceRunRequest(
                parent=parent,
                performance_run=_run(model.latest_version, instance_type, deployment, protocol, measured),
            )
        )
        if as_json:
            json_document(stored)
            return
        _print_run(stored)
        out.print(f"[dim]its core-hours stand on the bill: `modelyard bill -p {parent.removeprefix('projects/')}`[/]")

    run(work)


def _words_of_tasks() -> str:
    return ", ".join(enum_word(catalog_pb2.Task, task, "TASK_") for task in _MEASURED)


def _fitting(version: catalog_pb2.ModelVersion, task: int, input_tokens: int, output_tokens: int) -> tuple[int, int]:
    """Lengths that fit the served context; none where a file is sent."""
    context = version.serving.context_tokens
    if task in _OF_FILES:
        return 0, 0
    if task == catalog_pb2.TASK_EMBEDDINGS:
        return min(input_tokens, context - _TEMPLATE_TOKENS), 0
    output = min(output_tokens, max(1, context // 4))
    return min(input_tokens, context - output - _TEMPLATE_TOKENS), output


async def _asking(caller: Modelyard, endpoint: str, protocol: Protocol, task: int, content: bytes) -> Ask:
    if task == catalog_pb2.TASK_CHAT_COMPLETION:
        return await ask_chat(caller, endpoint, protocol)
    if task == catalog_pb2.TASK_EMBEDDINGS:
        return await ask_embedding(caller, endpoint, protocol)
    if task == catalog_pb2.TASK_TRANSCRIPTION:
        return await ask_transcription(caller, endpoint, content)
    return await ask_classification(caller, endpoint, content)


async def _measured(
    caller: Modelyard, deployment: deploy_pb2.Deployment, protocol: Protocol, task: int, content: bytes
) -> Measured:
    ask = await _asking(caller, deployment.name.split("/")[3], protocol, task, content)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        bar = progress.add_task("measuring", total=protocol.request_count)
        try:
            return await measure(ask, protocol, lambda done: progress.update(bar, completed=done))
        except MeasuringFailed as failed:
            problem(str(failed))
            raise typer.Exit(1) from None


def _run(
    version: str, instance_type: str, deployment: deploy_pb2.Deployment, protocol: Protocol, measured: Measured
) -> benchmarks_pb2.PerformanceRun:
    return benchmarks_pb2.PerformanceRun(
        model_version=version,
        instance_type=instance_type,
        deployment=deployment.name,
        protocol={
            "trials": protocol.trials,
            "requests_per_trial": protocol.requests_per_trial,
            "interval_s": protocol.interval_s,
            "concurrency": 1,
            "failed": len(measured.failures),
            **_of_each(protocol, measured.timings[0]),
        },
        metrics={name: f"{value:.6f}" for name, value in measured.metrics().items()},
        host=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"[:200],
    )


def _of_each(protocol: Protocol, timing: Timing) -> dict[str, int]:
    """What each request holds."""
    if timing.audio_s:
        return {"audio_milliseconds": round(timing.audio_s * 1000)}
    if timing.images:
        return {"images": timing.images}
    return {"input_tokens": protocol.input_tokens, "output_tokens": protocol.output_tokens}


def _print_run(stored: benchmarks_pb2.PerformanceRun) -> None:
    facts(
        [
            ("model version", short_name(stored.model_version)),
            ("instance type", stored.instance_type),
            ("measured", moment(stored.run_time)),
            *((name.replace("_", " "), value) for name, value in sorted(stored.protocol.items())),
            *((name.replace("_", " "), value) for name, value in sorted(stored.metrics.items())),
        ]
    )


def list_runs(
    name: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only of this model.")] = "",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """List what was measured: by the project, and what ships with the platform."""

    async def work(modelyard: Modelyard) -> None:
        model = (await find_model(modelyard, name)).name if name else ""
        request = benchmarks_pb2.ListPerformanceRunsRequest(parent=project_name(project), model=model)
        found = await collect(modelyard.benchmarks.ListPerformanceRuns, request, "performance_runs")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("model version", "instance type", "measured", "first token, s", "p50, s", "p99, s", "throughput", "by"),
            (
                (
                    short_name(one.model_version),
                    one.instance_type,
                    moment(one.run_time)[:10],
                    one.metrics.get("first_token_mean_s", "–"),
                    one.metrics.get("latency_p50_s", "–"),
                    one.metrics.get("latency_p99_s", "–"),
                    _throughput(one.metrics),
                    "shipped" if one.shared else "this project",
                )
                for one in found
            ),
            right=("first token, s", "p50, s", "p99, s", "throughput"),
        )

    run(work)


def _throughput(metrics: Mapping[str, str]) -> str:
    """In what the model counts."""
    units = {
        "generated_tokens_per_s": "tokens / s",
        "total_tokens_per_s": "tokens / s",
        "audio_s_per_s": "s of audio / s",
        "images_per_s": "images / s",
    }
    return next((f"{float(metrics[name]):,.1f} {unit}" for name, unit in units.items() if name in metrics), "–")

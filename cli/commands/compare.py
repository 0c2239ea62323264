"""Compare: models side by side, leaderboards, and what quality costs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from modelyard.catalog.v1 import benchmarks_pb2
from modelyard_client import Modelyard

from cli.charts import Bars, Point, grouped_bars, scatter
from cli.commands.discover import find_model
from cli.output import GIB, Json, json_document, out, short_name, table
from cli.session import UsageMistake, collect, run

Svg = Annotated[Path | None, typer.Option("--svg", help="Write a chart to this file.", dir_okay=False)]


class Against(StrEnum):
    """What quality is weighed against."""

    COST = "cost"
    THROUGHPUT = "throughput"


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("compare", rich_help_panel="Discover")(compare)
    app.command("leaderboard", rich_help_panel="Discover")(leaderboard)
    app.command("trade-off", rich_help_panel="Discover")(trade_off)


def compare(
    names: Annotated[list[str], typer.Argument(help="Two to ten models.")],
    svg: Svg = None,
    as_json: Json = False,
) -> None:
    """Set models side by side: benchmarks, prices, context, licence, hardware."""
    if len(names) < 2:
        raise UsageMistake("name at least two models; `modelyard models` lists them")

    async def work(modelyard: Modelyard) -> None:
        found = [(await find_model(modelyard, name)).name for name in names]
        answer = await modelyard.benchmarks.CompareModels(benchmarks_pb2.CompareModelsRequest(names=found))
        if svg is not None:
            svg.write_text(_comparison_chart(list(answer.models)))
        if as_json:
            json_document(answer)
            return
        _print_comparison(list(answer.models))
        if svg is not None:
            out.print(f"[dim]chart: {svg}[/]")

    run(work)


def _print_comparison(models: list[benchmarks_pb2.ComparedModel]) -> None:
    def line(name: str, cells: list[str]) -> tuple[str, ...]:
        return (name, *(cell or "–" for cell in cells))

    rows = [
        line("licence", [one.model.license.id for one in models]),
        line("usable here", [_usable(one) for one in models]),
        line("context", [f"{one.model.context_tokens:,}" if one.model.context_tokens else "" for one in models]),
        line("parameters", [f"{one.model.parameter_count:,}" if one.model.parameter_count else "" for one in models]),
        line("input, USD / 1M", [one.input_price for one in models]),
        line("output, USD / 1M", [one.output_price for one in models]),
        line("3:1 blend, USD / 1M", [one.blended_price for one in models]),
        line("least hardware", [_hardware(one) for one in models]),
        line("quality index", [one.quality_index.value for one in models]),
        line("tokens / s", [_newest(one, "generated_tokens_per_s") for one in models]),
        line("first token, s", [_newest(one, "first_token_mean_s") for one in models]),
    ]
    datasets = sorted({score.dataset for one in models for score in one.scores})
    for dataset in datasets:
        rows.append(line(dataset, [_value(one, dataset) for one in models]))
    table("", ("", *(short_name(one.model.name) for one in models)), rows)
    for one in models:
        if not one.quality_index.value:
            out.print(f"[dim]{short_name(one.model.name)} has no quality index: {_missing(one)}[/]")


def _usable(one: benchmarks_pb2.ComparedModel) -> str:
    return "runs here" if not one.model.usability_detail else one.model.usability_detail


def _hardware(one: benchmarks_pb2.ComparedModel) -> str:
    if not one.HasField("inference_hardware"):
        return ""
    needs = one.inference_hardware
    gpus = f", {needs.gpus} GPU" if needs.gpus else ""
    return f"{needs.vcpus} cores{gpus}, {needs.memory_bytes / GIB:g} GiB"


def _newest(one: benchmarks_pb2.ComparedModel, metric: str) -> str:
    return one.performance_runs[0].metrics.get(metric, "") if one.performance_runs else ""


def _value(one: benchmarks_pb2.ComparedModel, dataset: str) -> str:
    return next((score.value for score in one.scores if score.dataset == dataset), "")


def _missing(one: benchmarks_pb2.ComparedModel) -> str:
    return f"it needs 5 of 8 sets and lacks {', '.join(one.quality_index.missing)}"


def _comparison_chart(models: list[benchmarks_pb2.ComparedModel]) -> str:
    """Each row of numbers as a group of bars, in shares of the row's largest."""
    rows: list[tuple[str, list[str]]] = [
        (dataset, [_value(one, dataset) for one in models])
        for dataset in sorted({score.dataset for one in models for score in one.scores})
    ]
    rows += [
        ("3:1 blend, USD / 1M", [one.blended_price for one in models]),
        ("context", [str(one.model.context_tokens or "") for one in models]),
        ("tokens / s", [_newest(one, "generated_tokens_per_s") for one in models]),
    ]
    groups = []
    for label, cells in rows:
        numbers = [float(cell) if cell else None for cell in cells]
        largest = max((number for number in numbers if number is not None), default=0)
        if largest:
            shares = [None if number is None else number / largest for number in numbers]
            groups.append(Bars(label, shares, [cell or "–" for cell in cells]))
    return grouped_bars("Models side by side", [short_name(one.model.name) for one in models], groups)


def leaderboard(
    scenario: Annotated[str, typer.Argument(help="Scenario; without it, all are listed.")] = "",
    top: Annotated[int, typer.Option(help="Models per dataset.")] = 3,
    as_json: Json = False,
) -> None:
    """Show the best models on each dataset of a scenario, with metric, shots, date and source of every score."""

    async def work(modelyard: Modelyard) -> None:
        if not scenario:
            request = benchmarks_pb2.ListScenariosRequest()
            found = await collect(modelyard.benchmarks.ListScenarios, request, "scenarios")
            if as_json:
                json_document(found)
                return
            table(
                "",
                ("scenario", "about", "datasets"),
                ((one.id, one.description, ", ".join(dataset.id for dataset in one.datasets)) for one in found),
            )
            return
        board = await modelyard.benchmarks.GetLeaderboard(
            benchmarks_pb2.GetLeaderboardRequest(scenario=scenario, top=top)
        )
        if as_json:
            json_document(board)
            return
        for one in board.boards:
            table(
                one.dataset,
                ("model", "score", "metric", "shots", "date", "source"),
                (
                    (
                        short_name(score.model),
                        score.value,
                        score.metric + (f" ({score.detail})" if score.detail else ""),
                        score.shots,
                        score.date + (" (read)" if score.date_kind == "read" else ""),
                        score.source,
                    )
                    for score in one.scores
                ),
                right=("score",),
                whole=("model",),
            )

    run(work)


def trade_off(
    quality: Annotated[
        str, typer.Option(help="quality-index, or a dataset of `modelyard leaderboard`.")
    ] = "quality-index",
    against: Annotated[Against, typer.Option(help="What quality is weighed against.")] = Against.COST,
    svg: Svg = None,
    as_json: Json = False,
) -> None:
    """Show what quality costs, in money or in speed, and the models that no other one beats."""
    axis = {
        Against.COST: benchmarks_pb2.TRADE_OFF_AXIS_COST,
        Against.THROUGHPUT: benchmarks_pb2.TRADE_OFF_AXIS_THROUGHPUT,
    }[against]
    unit = {Against.COST: "USD / 1M tokens, 3:1", Against.THROUGHPUT: "generated tokens / s"}[against]

    async def work(modelyard: Modelyard) -> None:
        request = benchmarks_pb2.GetTradeOffRequest(quality=quality, against=axis)
        answer = await modelyard.benchmarks.GetTradeOff(request)
        if svg is not None:
            points = [
                Point(point.display_name, float(point.against), float(point.quality), point.on_front)
                for point in answer.points
            ]
            svg.write_text(scatter(f"{quality} against {against.value}", unit, quality, points))
        if as_json:
            json_document(answer)
            return
        table(
            f"{quality} against {against.value}",
            ("model", quality, unit, "on the front"),
            (
                (short_name(point.model), point.quality, point.against, "yes" if point.on_front else "")
                for point in answer.points
            ),
            right=(quality, unit),
            whole=("model",),
        )
        if answer.left_out:
            out.print(f"[dim]{answer.left_out} more have a score but no {against.value}[/]")
        if svg is not None:
            out.print(f"[dim]chart: {svg}[/]")

    run(work)

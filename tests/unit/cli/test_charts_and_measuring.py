"""Charts are well-formed whatever models are called; figures come from all requests."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from cli.charts import Bars, Point, grouped_bars, scatter
from cli.measure import Measured, Timing, percentile

HOSTILE = '<script>alert("&")</script>'


def texts(svg: str) -> list[str]:
    """Every word of a chart; reading it fails where it is not well-formed."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]  # noqa: S314 - our own


def test_a_scatter_chart_names_every_point() -> None:
    """Also one whose name is no name."""
    svg = scatter(
        "Title", "cost", "quality", [Point(HOSTILE, 1, 0.5, True), Point("b", 2, 0.9, True), Point("c", 3, 0.1, False)]
    )
    assert {HOSTILE, "b", "c", "cost", "quality", "Title"} <= set(texts(svg))
    assert "<script" not in svg


@pytest.mark.parametrize("points", [[], [Point("a", 0, 0, True)], [Point("a", 1, 1, True), Point("b", 1, 1, True)]])
def test_few_or_equal_points_are_drawn_too(points: list[Point]) -> None:
    """Nothing divides by nothing."""
    assert len([word for word in texts(scatter("t", "x", "y", points)) if word in "ab"]) == len(points)


def test_a_missing_value_is_a_dash_and_no_bar() -> None:
    """Never a bar of no height."""
    svg = grouped_bars("t", ["a", HOSTILE], [Bars("g", [0.5, None], ["0.5", "–"])])
    bars = [element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("rect")]  # noqa: S314 - our own
    # The background, one bar, and two squares of the legend.
    assert len(bars) == 4
    assert "–" in texts(svg)


def test_a_percentile_lies_between_its_neighbours() -> None:
    """By linear interpolation; the ends are the smallest and the largest."""
    values = [1.0, 2.0, 3.0, 4.0]
    assert [percentile(values, share) for share in (0, 0.5, 1)] == [1.0, 2.5, 4.0]
    assert percentile([7.0], 0.99) == 7.0


def test_figures_of_a_stream() -> None:
    """Ten tokens in two seconds, the first after one: nine gaps in the other second."""
    metrics = Measured([Timing(2.0, 1.0, 90, 10)] * 3).metrics()
    assert metrics["first_token_mean_s"] == 1.0
    assert metrics["generated_tokens_per_s"] == 5.0
    assert metrics["total_tokens_per_s"] == 50.0
    assert metrics["between_tokens_mean_s"] == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("timing", "rate", "per_s"),
    [(Timing(2.0, audio_s=7.0), "audio_s_per_s", 3.5), (Timing(0.5, images=1), "images_per_s", 2.0)],
)
def test_figures_of_what_has_no_tokens(timing: Timing, rate: str, per_s: float) -> None:
    """How long it took, and how much of it a second."""
    metrics = Measured([timing] * 2).metrics()
    assert metrics[rate] == per_s
    assert {name.partition("_")[0] for name in set(metrics) - {rate}} == {"latency"}


def test_without_a_stream_the_first_token_comes_at_the_median() -> None:
    """And there are no gaps between tokens."""
    metrics = Measured([Timing(latency, None, 100, 0) for latency in (1.0, 2.0, 9.0)]).metrics()
    assert metrics["first_token_mean_s"] == metrics["latency_p50_s"] == 2.0
    assert "between_tokens_mean_s" not in metrics

"""Charts as SVG: no library, nothing loaded from elsewhere, readable in any browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 960, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 220, 60, 70
_INK, _MUTED, _LINE = "#1e293b", "#64748b", "#e2e8f0"
_COLOURS = (
    "#2563eb",
    "#ea580c",
    "#16a34a",
    "#9333ea",
    "#0891b2",
    "#dc2626",
    "#ca8a04",
    "#4f46e5",
    "#db2777",
    "#475569",
)
_TICKS = 5


@dataclass(frozen=True)
class Point:
    """A model on a scatter chart."""

    label: str
    x: float
    y: float
    on_front: bool


@dataclass(frozen=True)
class Bars:
    """One group of bars: a value a model, each 0 to 1 of the best possible; None where there is none."""

    label: str
    values: Sequence[float | None]
    shown: Sequence[str]


def scatter(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> str:
    """Points with the front that no other one beats drawn through."""
    xs, ys = _scale([point.x for point in points]), _scale([point.y for point in points])
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(point: Point) -> tuple[float, float]:
        x = _LEFT + plot_w * (point.x - xs[0]) / (xs[1] - xs[0])
        y = _TOP + plot_h * (1 - (point.y - ys[0]) / (ys[1] - ys[0]))
        return round(x, 1), round(y, 1)

    parts = [_axes(x_label, y_label, xs, ys)]
    front = sorted((place(point) for point in points if point.on_front), key=lambda spot: spot[0])
    if len(front) > 1:
        path = " ".join(f"{x},{y}" for x, y in front)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[0]}" stroke-dasharray="4 4"/>')
    for point in points:
        x, y = place(point)
        colour = _COLOURS[0] if point.on_front else _MUTED
        parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>')
        parts.append(_text(x + 9, y + 4, point.label, size=12, colour=_INK if point.on_front else _MUTED))
    return _document(title, parts)


def grouped_bars(title: str, models: Sequence[str], groups: Sequence[Bars]) -> str:
    """Models side by side in every group; a missing value is a dash, never a bar of no height."""
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    group_w = plot_w / max(1, len(groups))
    bar_w = min(36.0, group_w * 0.8 / max(1, len(models)))
    parts = [_grid()]
    for number, group in enumerate(groups):
        left = _LEFT + group_w * number + (group_w - bar_w * len(models)) / 2
        for position, (value, shown) in enumerate(zip(group.values, group.shown, strict=True)):
            x = round(left + bar_w * position, 1)
            height = round(plot_h * (value or 0), 1)
            y = round(_TOP + plot_h - height, 1)
            if value is not None:
                colour = _COLOURS[position % len(_COLOURS)]
                parts.append(f'<rect x="{x}" y="{y}" width="{bar_w - 3:.1f}" height="{height}" fill="{colour}"/>')
            parts.append(_text(x + bar_w / 2, y - 5, shown, size=10, anchor="middle", colour=_MUTED))
        parts.append(_text(left + bar_w * len(models) / 2, _HEIGHT - _BOTTOM + 20, group.label, anchor="middle"))
    for position, model in enumerate(models):
        y = _TOP + 20 * position
        colour = _COLOURS[position % len(_COLOURS)]
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 20}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 38, y + 11, model, size=12))
    return _document(title, parts)


def _document(title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif"><title>{escape(title)}</title>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    )
    return "\n".join([head, _text(_LEFT, 32, title, size=18), *parts, "</svg>\n"])


def _axes(x_label: str, y_label: str, xs: tuple[float, float], ys: tuple[float, float]) -> str:
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = [_grid()]
    for tick in range(_TICKS):
        share = tick / (_TICKS - 1)
        parts.append(
            _text(
                _LEFT + plot_w * share,
                _HEIGHT - _BOTTOM + 18,
                f"{xs[0] + (xs[1] - xs[0]) * share:.4g}",
                size=11,
                anchor="middle",
                colour=_MUTED,
            )
        )
        parts.append(
            _text(
                _LEFT - 8,
                _TOP + plot_h * (1 - share) + 4,
                f"{ys[0] + (ys[1] - ys[0]) * share:.4g}",
                size=11,
                anchor="end",
                colour=_MUTED,
            )
        )
    parts.append(_text(_LEFT + plot_w / 2, _HEIGHT - 22, x_label, anchor="middle"))
    middle = _TOP + plot_h / 2
    parts.append(
        f'<text x="24" y="{middle}" font-size="13" fill="{_INK}" text-anchor="middle" '
        f'transform="rotate(-90 24 {middle})">{escape(y_label)}</text>'
    )
    return "\n".join(parts)


def _grid() -> str:
    plot_h = _HEIGHT - _TOP - _BOTTOM
    return "\n".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_TOP + plot_h * tick / (_TICKS - 1)}" '
        f'y2="{_TOP + plot_h * tick / (_TICKS - 1)}" stroke="{_LINE}"/>'
        for tick in range(_TICKS)
    )


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """From and to, a little wider than the values, from 0 where that is near."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < high * 0.5 else low - margin), high + margin


def _text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'

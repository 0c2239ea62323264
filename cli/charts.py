"""Charts as SVG: no library, nothing loaded from elsewhere, readable in any browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

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
_STEPS = 5


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
    xs, ys = _Scale.of([point.x for point in points]), _Scale.of([point.y for point in points])
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(point: Point) -> tuple[float, float]:
        return round(_LEFT + plot_w * xs.share(point.x), 1), round(_TOP + plot_h * (1 - ys.share(point.y)), 1)

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
    """Models side by side in every group; a missing value is a dash, never a bar of no length."""
    bar_h, head_h, gap = 18, 26, 14
    left, width = 260, 560
    parts, y = [], _TOP
    for group in groups:
        parts.append(_text(left - 10, y + 14, group.label, anchor="end"))
        for position, (value, shown) in enumerate(zip(group.values, group.shown, strict=True)):
            colour = _COLOURS[position % len(_COLOURS)]
            length = round(width * (value or 0), 1)
            if value is not None:
                parts.append(f'<rect x="{left}" y="{y}" width="{length}" height="{bar_h - 3}" fill="{colour}"/>')
            parts.append(_text(left + length + 6, y + 12, shown, size=11, colour=_MUTED))
            y += bar_h
        y += gap
    y += head_h - gap
    for position, model in enumerate(models):
        colour = _COLOURS[position % len(_COLOURS)]
        parts.append(f'<rect x="{left}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(left + 18, y + 11, model, size=12))
        y += 20
    return _document(title, parts, height=y + 20)


def _document(title: str, parts: Sequence[str], *, height: int = _HEIGHT) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif"><title>{escape(title)}</title>'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    )
    return "\n".join([head, _text(_LEFT, 32, title, size=18), *parts, "</svg>\n"])


def _axes(x_label: str, y_label: str, xs: _Scale, ys: _Scale) -> str:
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = []
    for tick in ys.ticks():
        y = _TOP + plot_h * (1 - ys.share(tick))
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_LINE}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{tick:g}", size=11, anchor="end", colour=_MUTED))
    for tick in xs.ticks():
        x = _LEFT + plot_w * xs.share(tick)
        parts.append(_text(x, _HEIGHT - _BOTTOM + 18, f"{tick:g}", size=11, anchor="middle", colour=_MUTED))
    parts.append(_text(_LEFT + plot_w / 2, _HEIGHT - 22, x_label, anchor="middle"))
    middle = _TOP + plot_h / 2
    parts.append(
        f'<text x="24" y="{middle}" font-size="13" fill="{_INK}" text-anchor="middle" '
        f'transform="rotate(-90 24 {middle})">{escape(y_label)}</text>'
    )
    return "\n".join(parts)


@dataclass(frozen=True)
class _Scale:
    """From a round number to a round number, in round steps."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        """Wide enough for the values; from 0 where that is near."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        if 0 <= low <= high * 0.5:
            low = 0.0
        rough = (high - low or abs(high) or 1.0) / _STEPS
        size = 10.0 ** floor(log10(rough))
        step = next(nice * size for nice in (1, 2, 5, 10) if nice * size >= rough)
        first, last = floor(low / step), ceil(high / step)
        return cls(first * step, (last if last > first else first + 1) * step, step)

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        return [self.low + self.step * number for number in range(round((self.high - self.low) / self.step) + 1)]


def _text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'

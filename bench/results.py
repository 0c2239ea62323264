"""What a benchmark gives: a number, the mark it is held against, and how it came about."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table


@dataclass(frozen=True)
class Mark:
    """A bound that is promised; `why` says what it is made of where it is not a constant."""

    at_least: float | None = None
    at_most: float | None = None
    why: str = ""

    def met_by(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:,.6g}" if self.at_least is not None else f"≤ {self.at_most:,.6g}"
        return f"{bound} ({self.why})" if self.why else bound


@dataclass(frozen=True)
class Result:
    """One number; without a mark it is there to explain others."""

    name: str
    value: float
    unit: str
    note: str
    mark: Mark | None = None

    @property
    def met(self) -> bool | None:
        """None where nothing is promised."""
        return None if self.mark is None else self.mark.met_by(self.value)


def of_runs(
    name: str, values: Sequence[float], unit: str, how: str, mark: Mark | None = None, *, digits: int = 3
) -> Result:
    """The median of several runs; the note says how, and how far the runs lie apart.

    Args:
        how: Processes, concurrency, requests.
        digits: Significant ones.
    """
    median, low, high = (
        float(f"{value:.{digits}g}") for value in (statistics.median(values), min(values), max(values))
    )
    runs = f"median of {len(values)} runs, {low:,.10g} to {high:,.10g}" if len(values) > 1 else "1 run"
    return Result(name, median, unit, f"{how}; {runs}", mark)


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write the results; those of benchmarks that were not run stay as they are."""
    known: list[dict[str, object]] = json.loads(path.read_text())["results"] if path.exists() else []
    new = {
        result.name: {"name": result.name, "value": result.value, "unit": result.unit, "note": result.note}
        for result in results
    }
    kept = [new.pop(str(one["name"]), one) for one in known]
    path.write_text(json.dumps({"results": [*kept, *new.values()]}, indent=2, ensure_ascii=False) + "\n")


def result_table(results: Iterable[Result]) -> Table:
    """For people."""
    table = Table("benchmark", "value", "unit", "mark", "", "note", box=None, header_style="bold")
    table.columns[1].justify = "right"
    for result in results:
        verdict = {None: "", True: "[green]met[/]", False: "[bold red]missed[/]"}[result.met]
        table.add_row(
            result.name, f"{result.value:,.10g}", result.unit, str(result.mark or ""), verdict, f"[dim]{result.note}[/]"
        )
    return table

"""What scores say together: an index that needs enough of them, and which models no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

# The sets of the quality index (reference: Azure AI model benchmarks, "quality index").
QUALITY_DATASETS = (
    "arena-hard",
    "bigbench-hard",
    "gpqa",
    "humanevalplus",
    "ifeval",
    "math",
    "mbppplus",
    "mmlu-pro",
)
# With fewer the mean would compare models by different questions.
QUALITY_DATASETS_MIN = 5


@dataclass(frozen=True, slots=True)
class QualityIndex:
    """The mean of the accuracies a model has; `value` is None where there are too few.

    Attributes:
        value: 0 to 1.
        missing: Sets of the index without a score.
    """

    value: Fraction | None
    missing: tuple[str, ...]


def quality_index(accuracies: Mapping[str, Decimal]) -> QualityIndex:
    """The index from accuracies by dataset, each 0 to 1; other datasets are left aside."""
    known = [Fraction(accuracies[dataset]) for dataset in QUALITY_DATASETS if dataset in accuracies]
    missing = tuple(dataset for dataset in QUALITY_DATASETS if dataset not in accuracies)
    if len(known) < QUALITY_DATASETS_MIN:
        return QualityIndex(None, missing)
    return QualityIndex(sum(known, Fraction()) / len(known), missing)


@dataclass(frozen=True, slots=True)
class TradeOff:
    """One model between quality, larger is better, and what it is weighed against."""

    model: str
    quality: Fraction
    against: Fraction


def pareto_front(points: Sequence[TradeOff], *, smaller_is_better: bool) -> set[str]:
    """Models that no other one beats: at least as good in both, and better in one.

    Args:
        smaller_is_better: Of `against`: true for cost, false for throughput.
    """
    sign = 1 if smaller_is_better else -1
    front: set[str] = set()
    best: tuple[Fraction, Fraction] | None = None
    # From the best `against` on, each point has to be better in quality than all before it; equals stand side by side.
    for cost, quality, model in sorted((sign * point.against, -point.quality, point.model) for point in points):
        if best is None or -quality > best[0] or (-quality == best[0] and cost == best[1]):
            best = (-quality, cost)
            front.add(model)
    return front


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """USD for a million tokens; None where a meter is not priced."""

    input: Fraction | None
    output: Fraction | None

    @property
    def blended(self) -> Fraction | None:
        """Estimated price of a million tokens at three input tokens for each output token."""
        if self.input is None or self.output is None:
            return None
        return (3 * self.input + self.output) / 4

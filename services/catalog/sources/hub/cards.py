"""Model cards: the front matter, the text, and the results in `model-index`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import yaml
from huggingface_hub import EvalResult, RepoCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from services.catalog.sources.interface import PublishedScore

SCORES_MAX = 2_000
_SUMMARY_CHARACTERS_MAX = 300
_PLACES_MAX = 9
_DIGITS = re.compile(r"-?\d{1,9}(\.\d{1,9})?")
_SHOTS_MAX = 64
# Tasks whose result depends on how many examples the prompt shows.
_PROMPTED = {"text-generation", "text2text-generation", "multiple-choice", "question-answering"}
# Lines that are no sentence: headings, tables, quotes, lists, images, badges, HTML, code.
_NO_SENTENCE = re.compile(r"^(?:[#>|<`*\-!]|\[!|---|===|\d+\.\s|$)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


class CardInvalid(Exception):
    """A front matter that cannot be read; says why."""


@dataclass(frozen=True, slots=True)
class Card:
    """A README.

    Attributes:
        data: Its front matter.
        text: What follows it, as it came.
        dropped: Results that were left out, by reason.
    """

    data: Mapping[str, Any]
    text: str
    scores: tuple[PublishedScore, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first sentence or two; empty where none stands among the first lines."""
        for line in self.text.splitlines():
            sentence = _LINK.sub(r"\1", line.strip()).replace("**", "").replace("`", "")
            if _NO_SENTENCE.match(line.strip()) or len(sentence) < 20:
                continue
            if len(sentence) <= _SUMMARY_CHARACTERS_MAX:
                return sentence
            return sentence[:_SUMMARY_CHARACTERS_MAX].rpartition(" ")[0] + " …"
        return ""


def read_card(content: str, address: str) -> Card:
    """The card in a README.

    A result without a metric, a dataset, a number, or the number of examples it was shown is left out and counted: alone
    it would compare nothing.

    Args:
        address: Of the README at its commit; the source of results that name no other.

    Raises:
        CardInvalid: the front matter is no YAML, or no mapping.
    """
    try:
        card = RepoCard(content, ignore_metadata_errors=True)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as invalid:
        raise CardInvalid(
            f"the front matter of its card cannot be read: {str(invalid).splitlines()[0][:200]}"
        ) from None
    data = vars(card.data)
    scores, dropped = _scores(data.get("model-index"), address)
    return Card(data, card.text, scores, dropped)


def _scores(index: Any, address: str) -> tuple[tuple[PublishedScore, ...], dict[str, int]]:
    scores: list[PublishedScore] = []
    dropped: Counter[str] = Counter()
    for entry in index if isinstance(index, list) else []:
        results = entry.get("results") if isinstance(entry, dict) else None
        for result in results if isinstance(results, list) else []:
            # One at a time: the library takes all of them or none.
            try:
                _, found = model_index_to_eval_results([{"name": "", "results": [result]}])
            except (KeyError, TypeError, ValueError, AttributeError):
                dropped["no metric or no dataset"] += 1
                continue
            for one in found:
                score = _score(one, address)
                if isinstance(score, str):
                    dropped[score] += 1
                elif len(scores) >= SCORES_MAX:
                    dropped[f"more than {SCORES_MAX}"] += 1
                else:
                    scores.append(score)
    return tuple(scores), dict(dropped)


def _score(result: EvalResult, address: str) -> PublishedScore | str:
    """A result, or why it is left out."""
    value = _number(result.metric_value)
    if not result.metric_type or not result.dataset_name:
        return "no metric or no dataset"
    if value is None:
        return "no number"
    arguments = result.dataset_args if isinstance(result.dataset_args, dict) else {}
    shots = arguments.get("num_few_shot", None if result.task_type in _PROMPTED else "none")
    if shots != "none" and (isinstance(shots, bool) or not isinstance(shots, int) or not 0 <= shots <= _SHOTS_MAX):
        return "no number of shots"
    return PublishedScore(
        metric=str(result.metric_type),
        dataset=str(result.dataset_name),
        dataset_id=str(result.dataset_type),
        split=str(result.dataset_split or ""),
        shots=str(shots),
        value=value,
        task=str(result.task_type),
        source=str(result.source_url or address),
    )


def _number(value: Any) -> str | None:
    """Decimal digits of a number, also of one that was written as text. A range or an error margin is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = value.strip().rstrip("%") if isinstance(value, str) else str(value)
    try:
        # What floats add behind the ninth place was never published.
        digits = f"{round(Decimal(text), _PLACES_MAX).normalize():f}"
    except InvalidOperation:
        return None
    return digits if _DIGITS.fullmatch(digits) else None

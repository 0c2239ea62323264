"""Cards of a hub: front matter, text, results."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from services.catalog.sources.hub.cards import CardInvalid, read_card

ADDRESS = "https://hub/acme/model/resolve/abc/README.md"


def result(**changes: Any) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {
            "name": "HellaSwag",
            "type": "Rowan/hellaswag",
            "split": "validation",
            "args": {"num_few_shot": 10},
        },
        "metrics": [{"type": "acc_norm", "value": 40.9}],
        **changes,
    }


def readme(*results: Any, **data: Any) -> str:
    front = {**data, "model-index": [{"name": "m", "results": list(results)}]} if results else data
    return f"---\n{yaml.safe_dump(front)}---\n# Title\n\nA model that does one thing and does it well.\n"


def test_front_matter_and_text_are_told_apart() -> None:
    card = read_card(readme(license="mit"), ADDRESS)
    assert card.data["license"] == "mit"
    assert card.text.startswith("# Title")
    assert card.summary == "A model that does one thing and does it well."


def test_a_result_carries_metric_dataset_shots_and_source() -> None:
    (score,) = read_card(readme(result()), ADDRESS).scores
    assert (score.metric, score.value, score.dataset, score.dataset_id) == (
        "acc_norm",
        "40.9",
        "HellaSwag",
        "Rowan/hellaswag",
    )
    assert (score.split, score.shots, score.task, score.source) == ("validation", "10", "text-generation", ADDRESS)


def test_a_result_names_its_own_source() -> None:
    (score,) = read_card(readme(result(source={"name": "Board", "url": "https://board"})), ADDRESS).scores
    assert score.source == "https://board"


@pytest.mark.parametrize(
    ("value", "read"),
    [("29.9", "29.9"), ("73%", "73"), (1, "1"), (0.1 + 0.2, "0.3"), (1e-4, "0.0001"), (-2, "-2"), (100.0, "100")],
)
def test_a_number_keeps_its_published_digits(value: Any, read: str) -> None:
    (score,) = read_card(readme(result(metrics=[{"type": "acc", "value": value}])), ADDRESS).scores
    assert score.value == read


def test_a_result_of_a_prompted_task_without_its_shots_is_dropped_and_counted() -> None:
    """Elsewhere a prompt shows no examples."""
    dataset = {"name": "HellaSwag", "type": "x"}
    card = read_card(readme(result(dataset=dataset), result(dataset=dataset, task={"type": "sts"})), ADDRESS)
    assert [(score.task, score.shots) for score in card.scores] == [("sts", "none")]
    assert card.dropped == {"no number of shots": 1}


@pytest.mark.parametrize("value", ["20.0 ± 1.2", "n/a", True, None, float("nan"), float("inf"), 1e12, "1/2", [1]])
def test_what_is_no_number_is_dropped_and_counted(value: Any) -> None:
    card = read_card(readme(result(metrics=[{"type": "acc", "value": value}])), ADDRESS)
    assert (card.scores, card.dropped) == ((), {"no number": 1})


@pytest.mark.parametrize(
    "broken",
    [
        {"task": {"type": "x"}, "metrics": [{"type": "acc", "value": 1}]},
        result(dataset={"name": "", "type": "x"}),
        result(metrics=[{"value": 1}]),
        result(metrics=7),
        "no mapping",
    ],
)
def test_one_broken_result_does_not_take_the_others_along(broken: Any) -> None:
    card = read_card(readme(broken, result()), ADDRESS)
    assert len(card.scores) == 1
    assert card.dropped == {"no metric or no dataset": 1}


@pytest.mark.parametrize("content", ["---\n[1, 2]\n---\n", "---\na: [\n---\n", "---\n" + "[" * 1200 + "\n---\n"])
def test_a_front_matter_that_cannot_be_read_says_so(content: str) -> None:
    with pytest.raises(CardInvalid, match="front matter of its card cannot be read"):
        read_card(content, ADDRESS)


def test_a_readme_without_front_matter_is_all_text() -> None:
    card = read_card(
        "# Title\n\n<img src=x>\n[![badge](x)](y)\n\nSee [the paper](https://paper) for the whole story.\n", ADDRESS
    )
    assert card.data == {}
    assert card.summary == "See the paper for the whole story."


def test_a_long_sentence_ends_at_a_word() -> None:
    summary = read_card("word " * 100, ADDRESS).summary
    assert len(summary) <= 302
    assert summary.endswith("word …")

"""The shipped scores against the published ones they were taken from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from services.catalog.sources.content_files import SHIPPED, read_content

pytestmark = pytest.mark.samples


def test_scores_are_as_published(samples_dir: Path) -> None:
    """Model, value and source of every one; those that name no metric are not shipped."""
    content = read_content(SHIPPED)
    published_as = {
        found[1]: f"{model.publisher}/{model.id}"
        for model in content.models
        for source in model.sources
        if (found := re.search(r"models\.dev (\S+) \(MIT\)", source.location))
    }
    facts = [json.loads(line) for line in (samples_dir / "model_facts.jsonl").read_text().splitlines()]
    published = sorted(
        (published_as[fact["id"]], repr(score["score"]), score["source"])
        for fact in facts
        for score in fact.get("benchmarks", [])
        if "metric" in score
    )
    assert len(published) == 264
    shipped = sorted((score.model, score.value, score.source) for score in content.benchmarks.scores)
    assert shipped == published

"""An answer holds what a card states, or the places where it does not are told."""

from __future__ import annotations

from typing import Any

import pytest

from cli.replay import differences

ANSWER = {"object": "list", "data": [{"index": 0, "score": 0.921, "embedding": [0.1]}], "usage": {"total_tokens": 12}}


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({}, []),
        ({"object": "list", "usage": {"total_tokens": 12}}, []),
        ({"data": [{"index": 0}]}, []),
        ({"data": [{"score": 0.93}]}, []),
        ({"data": [{"score": 0.95}]}, ["answer.data[0].score is 0.921; 0.95 is stated"]),
        ({"usage": {"total_tokens": 13}}, ["answer.usage.total_tokens is 12; 13 is stated"]),
        ({"model": "x"}, ["answer.model is missing"]),
        ({"object": {"a": 1}}, ['answer.object is "list"; {"a": 1} is stated']),
        (
            {"data": []},
            ['answer.data is [{"index": 0, "score": 0.921, "embedding": [0.1]}]; [] is stated'],
        ),
        (
            {"object": "error", "usage": {"total_tokens": 1}},
            ['answer.object is "list"; "error" is stated', "answer.usage.total_tokens is 12; 1 is stated"],
        ),
    ],
)
def test_what_is_stated_is_compared(stated: dict[str, Any], told: list[str]) -> None:
    """Figures with a fraction may differ a little, whole ones not at all; what is not stated may be anything."""
    assert list(differences(stated, ANSWER)) == told

"""A model is tried without a deployment: it answers, costs nothing, is recorded, and is limited."""

from __future__ import annotations

import pytest
from modelyard.inference.v1 import trials_pb2
from modelyard_client import Modelyard, ModelyardError

from tests.infra.instances import wait_until
from tests.infra.up import Up

PROJECT = "curious"
EMBEDDING_MODEL = "publishers/sentence-transformers/models/all-minilm-l6-v2"
# The default of MODELYARD_INFERENCE_TRIALS_PER_MINUTE_MAX.
PER_MINUTE = 10


@pytest.fixture(scope="module")
def project(up: Up) -> str:
    up.run("project", "create", PROJECT)
    return PROJECT


def test_a_chat_model_answers_in_words(up: Up, project: str) -> None:
    """At most as many tokens as a trial gives, and the usage at the end."""
    *said, last = up.tried("smollm2-135m-instruct", "What is gravity?", project)
    assert "".join(piece["text"] for piece in said)
    assert 0 < int(last["usage"]["output_tokens"]) <= 128


def test_an_embedding_model_answers_in_numbers(up: Up, project: str) -> None:
    """One vector of the model's length."""
    (answer,) = up.tried("all-minilm-l6-v2", "Gravity", project)
    assert len(answer["embedding"]) == 384


async def test_tries_are_recorded_and_cost_nothing(up: Up, project: str) -> None:
    """Under the platform's own project: no token is lost, and nobody pays."""
    await wait_until(lambda: len(up.json("usage", "-p", "modelyard")) >= 2)
    assert {posted["record"]["key_id"] for posted in up.json("usage", "-p", "modelyard")} == {"trial"}
    assert up.json("bill", "-p", "modelyard")["lines"] == []
    assert up.json("bill", "-p", project)["lines"] == []


async def test_beyond_the_limit_it_says_how_long_to_wait(up: Up, project: str) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo; over REST it would be 429."""
    request = trials_pb2.TryModelRequest(parent=f"projects/{project}", model=EMBEDDING_MODEL, text="again")
    async with Modelyard.from_file(up.home / "addresses.json") as modelyard:

        async def try_until_refused() -> None:
            for _ in range(PER_MINUTE + 1):
                assert [piece async for piece in modelyard.trials.TryModel(request)]

        with pytest.raises(ModelyardError) as refused:
            await try_until_refused()
    assert refused.value.reason == "TRIAL_LIMIT_REACHED"
    assert 0 < (refused.value.retry_after_s or 0) <= 60


def test_nobody_takes_the_platforms_name(up: Up) -> None:
    """Its project is its own."""
    assert "PROJECT_EXISTS" in up.run("project", "create", "modelyard", status=1).stderr

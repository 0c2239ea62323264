"""Models that are installed on demand: fetched, priced, deployed both ways, called, and billed in their own units."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
from modelyard.billing.v1 import billing_pb2
from modelyard.type.v1 import money_pb2
from modelyard_client import Modelyard

from services.catalog.sources.content_files import SHIPPED
from tests.e2e.test_code_samples import Sampled, run
from tests.infra.instances import wait_until
from tests.infra.up import Up

PROJECT = "listeners"
SPEECH, IMAGES, GATED = "openai/whisper-tiny.en", "paddlepaddle/text-image-orientation", "yahoo/open-nsfw"
WAV, PAGE = SHIPPED / "samples" / "every-call.wav", SHIPPED / "samples" / "page-turned-90.png"
SAID = "Every call makes exactly one usage record."
METERS = (money_pb2.METER_AUDIO_MILLISECONDS, money_pb2.METER_IMAGES)
SAMPLE_PURPOSES = {"CODE_SAMPLE_PURPOSE_CALL", "CODE_SAMPLE_PURPOSE_EVALUATE"}


def steps(up: Up, model: str) -> list[dict[str, Any]]:
    """The responses of an installation."""
    return [json.loads(line) for line in up.run("models", "install", model, "--json").stdout.splitlines()]


async def line_of(up: Up, project: str, meter: int) -> billing_pb2.BillLine | None:
    """The line of one meter on the project's bill; None before there is one."""
    async with Modelyard.from_file(up.home / "addresses.json") as modelyard:
        bill = await modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=f"projects/{project}"))
    return next((line for line in bill.lines if line.rate.meter == meter), None)


@pytest.fixture(scope="module")
def project(up: Up) -> str:
    up.run("project", "create", PROJECT)
    return PROJECT


@pytest.fixture(scope="module")
def installed(up: Up, project: str) -> dict[str, list[dict[str, Any]]]:
    """What installing said, by model; before it each of them said how to install it."""
    found = {}
    for model in (SPEECH, IMAGES, GATED):
        before = up.json("models", "show", model)["model"]
        assert before["usability"] == "USABILITY_NEEDS_INSTALL"
        assert f"`modelyard models install {model}`" in before["usability_detail"]
        refused = up.run("quote", model, "-p", project, status=1).stderr
        assert f"modelyard models install {model}" in refused.replace("\n", " ")
        found[model] = steps(up, model)
    return found


@pytest.fixture(scope="module")
def key(up: Up, project: str) -> str:
    secret: str = up.json("key", "create", "-p", project)["secret"]
    return secret


def test_an_installation_says_how_far_it_is_and_a_repeat_is_free(
    up: Up, installed: dict[str, list[dict[str, Any]]]
) -> None:
    """The running catalog knows the model afterwards."""
    for model, said in installed.items():
        assert [one["step"] for one in said][-2:] == ["INSTALL_STEP_READING", "INSTALL_STEP_DONE"]
        assert said[0]["step"] == "INSTALL_STEP_FETCHING"
        assert int(said[-1]["bytes_done"]) == int(said[-1]["bytes_total"]) > 1_000_000
        assert up.json("models", "show", model)["model"]["usability"] == "USABILITY_RUNS_HERE"
    again = steps(up, SPEECH)
    assert [one["step"] for one in again] == ["INSTALL_STEP_READING", "INSTALL_STEP_DONE"]
    assert int(again[-1]["bytes_total"]) == 0


def test_what_is_not_installed_on_demand_says_so(up: Up) -> None:
    assert "INSTALL_NOT_OFFERED" in up.run("models", "install", "all-minilm-l6-v2", status=1).stderr


def test_the_price_is_shown_in_the_models_own_unit(up: Up, project: str, installed: object) -> None:
    """Before anything is deployed."""
    assert "0.001 USD / audio-minute" in up.run("quote", SPEECH, "-p", project).stdout
    assert "0.10 USD / 1,000 images" in up.run("quote", IMAGES, "-p", project).stdout


def test_the_model_that_needs_it_is_not_quoted_before_its_licence_is_accepted(
    up: Up, project: str, installed: object
) -> None:
    assert "LICENSE_NOT_ACCEPTED" in up.run("quote", GATED, "-p", project, status=1).stderr


async def test_it_is_deployed_called_and_billed_to_the_millisecond(
    up: Up, project: str, installed: object, key: str
) -> None:
    """Serverless with the unmodified `openai` client and the command line; two calls of 3,325 ms, and three images."""
    up.run("deploy", SPEECH, "-p", project, "--endpoint", "speech", "--serverless")
    up.run("deploy", IMAGES, "-p", project, "--endpoint", "pages", "--serverless")
    async with openai.AsyncOpenAI(base_url=f"{up.addresses['rest']}/v1", api_key=key, max_retries=0) as client:
        answer = await client.audio.transcriptions.create(model="speech", file=WAV)
        assert answer.text == SAID
    assert up.run("transcribe", "speech", str(WAV), "--key", key).stdout.strip() == SAID
    seen = up.json("classify", "pages", str(PAGE), str(PAGE), str(PAGE), "--key", key)
    assert [one["labels"][0]["label"] for one in seen["classifications"]] == ["90"] * 3

    async def billed() -> bool:
        audio, images = [(await line_of(up, project, meter)) for meter in METERS]
        return audio is not None and images is not None and audio.record_count == 2

    await wait_until(billed)
    audio, images = [(await line_of(up, project, meter)) for meter in METERS]
    assert audio is not None
    assert images is not None
    # 6,650 ms at 0.001 USD a minute, and 3 at 0.10 USD for a thousand: each rounded half-even once.
    assert (audio.quantity, audio.amount, audio.amount_exact) == (6_650, "0.000111", "133/1200000")
    assert (images.quantity, images.amount, images.record_count) == (3, "0.000300", 1)
    shown = up.run("bill", "-p", project).stdout
    assert "6,650 audio-ms" in shown
    assert "3 images" in shown
    explained = up.json("bill", "-p", project, "--explain", audio.id)
    assert [event["quantity"] for event in explained["events"]] == ["3325", "3325"]
    assert up.json("reconcile", "-p", project)["differences"] == []


async def test_managed_calls_are_paid_by_the_core_hour(up: Up, project: str, installed: object, key: str) -> None:
    """And counted without a rate, in the same unit."""
    up.run("deploy", SPEECH, "-p", project, "--endpoint", "own-speech", "--instance-type", "local-1", "--count", "1")
    assert up.run("transcribe", "own-speech", str(WAV), "--key", key).stdout.strip() == SAID
    up.run("delete", "own-speech", "-p", project)

    async def counted() -> bool:
        async with Modelyard.from_file(up.home / "addresses.json") as modelyard:
            bill = await modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=f"projects/{project}"))
        return any(quantity.value == 3_325 for quantity in bill.unrated)

    await wait_until(counted)


async def test_their_code_samples_do_what_they_say(up: Up, project: str, installed: object, key: str) -> None:
    """Run as they were copied, on the endpoints above."""
    for sent, shipped in (("speech.wav", WAV), ("image.png", PAGE)):
        shutil.copy(shipped, up.home / sent)
    sampled = Sampled(up, key, {})
    for model in (SPEECH, IMAGES):
        samples = [
            sample
            for sample in up.json("models", "samples", model, "-p", project)
            if sample["purpose"] in SAMPLE_PURPOSES
        ]
        assert {sample["client"] for sample in samples} == {"curl", "openai", "grpc"}
        said = await asyncio.gather(*(run(sampled, sample) for sample in samples))
        assert all(said)


@pytest.mark.parametrize(
    ("model", "file", "rate", "held"),
    [(SPEECH, WAV, "audio_s_per_s", {"audio_milliseconds": 3_325}), (IMAGES, PAGE, "images_per_s", {"images": 1})],
)
def test_they_are_measured_by_what_they_count(
    up: Up, project: str, installed: object, model: str, file: Path, rate: str, held: dict[str, int]
) -> None:
    """With a file; without one there is nothing to send."""
    assert "--file" in up.run("benchmark", "run", model, "-p", project, status=2).stderr
    run = up.json("benchmark", "run", model, "-p", project, "--trials", "1", "--file", str(file))
    assert float(run["metrics"][rate]) > 0
    assert "first_token_mean_s" not in run["metrics"]
    assert run["protocol"] == {
        "trials": 1,
        "requests_per_trial": 2,
        "interval_s": 0,
        "concurrency": 1,
        "failed": 0,
        **held,
    }


def test_they_are_tried_without_a_deployment(up: Up, project: str, installed: object) -> None:
    """With a file in the place of a text; a model says which of the two it takes."""
    assert SAID in up.run("models", "try", SPEECH, "--file", str(WAV), "-p", project).stdout
    assert "TASK_NOT_SUPPORTED" in up.run("models", "try", SPEECH, "Hello", "-p", project, status=1).stderr

"""Every code sample of every model that runs here does what it says, run as it was copied."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.catalog.sources.content_files import SHIPPED
from tests.infra.up import Up

PROJECT = "samplers"
CLIENT = Path(__file__).parents[2] / "client"
SAMPLE_S_MAX = 60.0


@dataclass
class Sampled:
    """The platform with every model that runs here deployed serverless."""

    up: Up
    key: str
    # By model name.
    endpoints: dict[str, str]


@pytest.fixture(scope="module")
def sampled(up: Up) -> Sampled:
    up.run("project", "create", PROJECT)
    key = up.json("key", "create", "-p", PROJECT)["secret"]
    # What the samples of speech and image models send.
    for sent, shipped in (("speech.wav", "every-call.wav"), ("image.png", "page-turned-90.png")):
        shutil.copy(SHIPPED / "samples" / shipped, up.home / sent)
    endpoints = {}
    for number, model in enumerate(up.json("models", "--runs-here"), start=1):
        if "DEPLOYMENT_OPTION_SERVERLESS" in model["deployment_options"] and model["tasks"]:
            name = model["name"].removeprefix("publishers/").replace("/models/", "/")
            endpoints[name] = f"sampled-{number}"
            up.run("deploy", name, "-p", PROJECT, "--endpoint", endpoints[name], "--serverless")
    return Sampled(up, key, endpoints)


async def run(sampled: Sampled, sample: dict[str, Any]) -> str:
    """What the sample prints; it must end well."""
    command = ["/bin/sh", "-euc"] if sample["language"] == "shell" else [sys.executable, "-c"]
    environment = {
        **os.environ,
        "MODELYARD_KEY": sampled.key,
        "MODELYARD_HOME": str(sampled.up.home),
        "MODELYARD_ADDRESSES": str(sampled.up.home / "addresses.json"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(CLIENT),
    }
    process = await asyncio.create_subprocess_exec(
        *command,
        sample["code"],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=sampled.up.home,
    )
    try:
        async with asyncio.timeout(SAMPLE_S_MAX):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    said = output.decode()
    assert process.returncode == 0, f"{sample['purpose']} with {sample['client']}:\n{sample['code']}\n{said}"
    return said


async def test_every_sample_that_calls_or_evaluates(sampled: Sampled) -> None:
    """The project's endpoint is filled in without being named, and each client gets an answer."""
    seen = set()
    some_at_once = asyncio.Semaphore(3)

    async def try_out(sample: dict[str, Any]) -> None:
        async with some_at_once:
            assert await run(sampled, sample)
        seen.add((sample["purpose"], sample["client"]))

    for name in sampled.endpoints:
        samples = sampled.up.json("models", "samples", name, "-p", PROJECT)
        assert {sample["client"] for sample in samples} >= {"curl", "openai", "grpc", "cli"}, name
        await asyncio.gather(
            *(try_out(sample) for sample in samples if sample["purpose"] != "CODE_SAMPLE_PURPOSE_DEPLOY")
        )
    assert ("CODE_SAMPLE_PURPOSE_CALL", "azure-ai-inference") in seen
    assert ("CODE_SAMPLE_PURPOSE_EVALUATE", "openai") in seen


async def test_every_sample_that_deploys(sampled: Sampled) -> None:
    """Both ways, with both clients; the deployment is there afterwards."""
    name = "sentence-transformers/all-minilm-l6-v2"
    for number, options in enumerate(([], ["--instance-type", "local-1"]), start=1):
        for client in ("cli", "grpc"):
            endpoint = f"made-{client}-{number}"
            filled = ["-p", PROJECT, "--endpoint", endpoint, "--purpose", "deploy", "--client", client]
            (sample,) = sampled.up.json("models", "samples", name, *filled, *options)
            said = await run(sampled, sample)
            assert endpoint in said or "ACTIVE" in said
            sampled.up.run("delete", endpoint, "-p", PROJECT)


@pytest.mark.parametrize("field", ["--endpoint", "--instance-type"])
def test_what_would_break_out_of_the_code_is_refused(up: Up, field: str) -> None:
    """Values are checked, since code cannot be escaped for every language."""
    refused = up.run("models", "samples", "all-minilm-l6-v2", field, 'x"; rm -rf /', status=1)
    assert "INVALID_ARGUMENT" in refused.stderr

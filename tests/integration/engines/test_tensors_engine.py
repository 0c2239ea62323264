"""The tensors engine on a real Triton: a repository as the catalog reads it, called by its own names."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from engines.refusals import read_refusal
from services.catalog.artifacts.scanning.scan import scan_file
from services.catalog.artifacts.triton_config import read_triton_config
from services.catalog.domain.own.files import OwnFile
from services.catalog.domain.own.triton_repository import serve_triton_repository
from services.deploy.compute.interface import InstanceSpec, InstanceState
from services.deploy.compute.local import LocalProvider
from tests.infra.instances import EngineClient, add_input, bytes_element, bytes_elements, wait_for_state
from tests.infra.model_files import FLOAT, STRING, message, node, onnx_model, tensor_info

# Y = X · W, with W of three rows and two columns; T = S.
WEIGHTS = ((1.0, 0.0), (0.0, 2.0), (4.0, 4.0))
CONFIG = b"""
platform: "onnxruntime_onnx"
max_batch_size: 8
dynamic_batching { }
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "S" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "T" data_type: TYPE_STRING dims: [ 1 ] } ]
"""


def model() -> bytes:
    weights = struct.pack("<6f", *(value for row in WEIGHTS for value in row))
    return onnx_model(
        (1, node("MatMul", ["X", "W"], ["Y"])),
        (1, node("Identity", ["S"], ["T"])),
        (5, message((1, 3), (1, 2), (2, FLOAT), (8, "W"), (9, weights))),
        (11, tensor_info("X", FLOAT, ["batch", "columns"])),
        (11, tensor_info("S", STRING, ["batch", 1])),
        (12, tensor_info("Y", FLOAT, ["batch", 2])),
        (12, tensor_info("T", STRING, ["batch", 1])),
    )


@pytest_asyncio.fixture(scope="module")
async def tensors_engine(
    engine_provider: LocalProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EngineClient]:
    """It becomes ready although the model takes no zeros of the keeper's: those have one column, and it wants three."""
    path = tmp_path_factory.mktemp("repository") / "model.onnx"
    path.write_bytes(model())
    file = OwnFile("rows/1/model.onnx", "0" * 64, path.stat().st_size, "onnx", scan_file(path).facts)
    served = serve_triton_repository([file], {"rows/config.pbtxt": read_triton_config("rows/config.pbtxt", CONFIG)})
    await engine_provider.launch(
        InstanceSpec(
            instance_uid="tensors-engine",
            engine=served.serving["engine"],
            model_name="model",
            artifacts={file.name: str(path)},
            parameters=served.serving["parameters"],
            vcpus=2,
            memory_bytes=1 << 30,
        )
    )
    client = EngineClient(await wait_for_state(engine_provider, "tensors-engine", InstanceState.READY))
    yield client
    await client.close()


def request(rows: list[list[float]], texts: list[str]) -> service_pb2.ModelInferRequest:
    asked = service_pb2.ModelInferRequest(model_name="model")
    add_input(
        asked, "X", "FP32", [len(rows), len(rows[0])], b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    )
    add_input(asked, "S", "BYTES", [len(texts), 1], b"".join(map(bytes_element, texts)))
    return asked


async def test_it_answers_as_the_repository_says(tensors_engine: EngineClient) -> None:
    answer = await tensors_engine.infer(request([[1, 2, 3], [0, 0, 1]], ["ä", ""]))
    assert struct.unpack("<4f", answer["Y"]) == (13, 16, 4, 4)
    assert answer["T"] == bytes_element("ä") + bytes_element("")


async def test_its_face_is_the_repositorys(tensors_engine: EngineClient) -> None:
    asked = service_pb2.ModelMetadataRequest(name="model")
    metadata = await tensors_engine.stub.ModelMetadata(asked, metadata=tensors_engine.metadata)
    inputs = [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs]
    outputs = [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs]
    assert inputs == [("X", "FP32", [-1, -1]), ("S", "BYTES", [-1, 1])]
    assert outputs == [("Y", "FP32", [-1, 2]), ("T", "BYTES", [-1, 1])]


async def test_only_what_is_asked_for_comes(tensors_engine: EngineClient) -> None:
    asked = request([[1, 2, 3]], ["one"])
    asked.outputs.add(name="T")
    assert await tensors_engine.infer(asked) == {"T": bytes_element("one")}


async def test_requests_that_are_run_together_get_their_own_rows(tensors_engine: EngineClient) -> None:
    """Batches of different sizes at once; one that the model refuses spoils none of the others."""
    good = [request([[float(n), 0, 0]] * (n % 3 + 1), [str(n)] * (n % 3 + 1)) for n in range(20)]
    bad = [request([[1.0, 2.0]], ["secret"]) for _ in range(4)]
    mixed = [one for pair in zip(good[:4], bad, strict=True) for one in pair] + good[4:]
    answers = await asyncio.gather(*(tensors_engine.infer(one) for one in mixed), return_exceptions=True)
    for asked, answer in zip(mixed, answers, strict=True):
        if asked in bad:
            assert isinstance(answer, grpc.aio.AioRpcError)
            continue
        assert isinstance(answer, dict)
        texts = bytes_elements(answer["T"])
        assert len(texts) == asked.inputs[0].shape[0]
        assert len(set(texts)) == 1
        assert struct.unpack(f"<{2 * len(texts)}f", answer["Y"]) == (float(texts[0]), 0) * len(texts)


async def test_a_refusal_says_nothing_of_the_input(tensors_engine: EngineClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await tensors_engine.infer(request([[1.0, 2.0]], ["secret"]))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    reason, facts = read_refusal(refused.value.details() or "")
    assert (reason, set(facts)) == ("REQUEST_REFUSED", {"type"})


async def test_the_files_are_where_the_repository_has_them(tensors_engine: EngineClient) -> None:
    folder = Path(tensors_engine.view.handle["folder"])
    assert list(folder.glob("**/model/1/rows/1/model.onnx"))

"""A `config.pbtxt` as far as it is served."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from services.catalog.domain.own.errors import ModelFilesInvalid
from services.catalog.domain.own.triton_repository import Tensor, TritonConfig

CONFIGURATION_BYTES_MAX = 256 << 10
# Settings that change what a model does, and that nothing here does.
_FOREIGN = (
    "ensemble_scheduling",
    "sequence_batching",
    "model_operations",
    "cc_model_filenames",
    "metric_tags",
    "batch_input",
    "batch_output",
    "model_repository_agents",
    "runtime",
)
_GPU_ONLY = (model_config_pb2.ModelInstanceGroup.KIND_GPU, model_config_pb2.ModelInstanceGroup.KIND_MODEL)


def read_triton_config(name: str, content: bytes) -> TritonConfig:
    """A model's configuration.

    Raises:
        ModelFilesInvalid: it is none.
    """
    if len(content) > CONFIGURATION_BYTES_MAX:
        raise ModelFilesInvalid(
            f"{name} has {len(content)} bytes; at most {CONFIGURATION_BYTES_MAX} are read", field="files"
        )
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(content.decode(), config)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as wrong:
        raise ModelFilesInvalid(f"{name} is no configuration of Triton: {str(wrong)[:200]}", field="files") from None
    return TritonConfig(
        name=config.name,
        backend=config.backend or config.platform,
        max_batch_size=config.max_batch_size,
        inputs=tuple(_tensor(one) for one in config.input),
        outputs=tuple(_tensor(one) for one in config.output),
        is_batched_dynamically=config.HasField("dynamic_batching"),
        model_file=config.default_model_filename or "model.onnx",
        foreign=tuple(_foreign(config)),
    )


def _tensor(stated: model_config_pb2.ModelInput | model_config_pb2.ModelOutput) -> Tensor:
    kind = model_config_pb2.DataType.Name(stated.data_type).removeprefix("TYPE_")
    return Tensor(stated.name, "BYTES" if kind == "STRING" else kind, tuple(stated.dims))


def _foreign(config: model_config_pb2.ModelConfig) -> list[str]:
    present = {field.name for field, _ in config.ListFields()}
    found = [name for name in _FOREIGN if name in present]
    if config.model_transaction_policy.decoupled:
        found.append("model_transaction_policy.decoupled")
    if config.HasField("version_policy") and not config.version_policy.HasField("latest"):
        found.append("version_policy other than the latest")
    if any(group.kind in _GPU_ONLY for group in config.instance_group):
        found.append("instance_group on accelerators")
    for tensor in (*config.input, *config.output):
        if tensor.HasField("reshape"):
            found.append(f"reshape of {tensor.name[:64]!r}")
        if tensor.is_shape_tensor:
            found.append(f"is_shape_tensor of {tensor.name[:64]!r}")
    found += [f"optional input {one.name[:64]!r}" for one in config.input if one.optional or one.allow_ragged_batch]
    return found

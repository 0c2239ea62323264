"""Writes the Triton model repository of one instance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from engines.packages import PackageMissing, beside_the_environment
from engines.tensors import configuration as tensors

_HERE = Path(__file__).parent
_MODEL_SUFFIX = {
    "images": ".onnx",
    "llamacpp": ".gguf",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "tensors": ".onnx",
    "wordvectors": ".safetensors",
}
# Packages of engines that do not come with the platform.
_PACKAGES = {"whisper": ("ctranslate2", "miniaudio")}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]{0,127}")
# What the engine itself has in the folder that artifacts are linked into.
_RESERVED = ("engines", "model.py")


def engines() -> list[str]:
    """Names of the engines there are."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.pbtxt"))


def build_repository(
    target: Path,
    model_name: str,
    engine: str,
    artifacts: Mapping[str, Path],
    parameters: Mapping[str, str],
    packages: Path | None = None,
) -> None:
    """Write `target/<model_name>/` with the engine's configuration, its model and links to the artifacts.

    Weights are linked, never copied. Running it again on the same target gives the same repository.

    Args:
        target: Folder of the repository; made where missing.
        model_name: Name under which Triton serves it.
        engine: A folder of this package.
        artifacts: Artifact file name, `/` between folders, to where it lies. The engine's weights are the one file with
            its suffix, unless `parameters["model_file"]` names it.
        parameters: Engine parameters by name, written as they are.
        packages: Folder with packages that are not in the environment; see `engines.packages`.

    Raises:
        ValueError: unknown engine, a name that is no file name, weights that cannot be told, or a package that is not
            installed.
        FileNotFoundError: an artifact is not there.
    """
    if engine not in engines():
        raise ValueError(f'engine "{engine}" is unknown; there are {", ".join(engines())}')
    _check_names(model_name, artifacts)
    folder = target / model_name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    _link(folder / "model.py", _HERE / engine / "model.py")
    # Triton's stub ignores PYTHONPATH and imports from the version's folder.
    _link(folder / "engines", _HERE)
    try:
        for path in beside_the_environment(_PACKAGES.get(engine, ()), packages):
            _link(folder / path.name, path)
    except PackageMissing as missing:
        raise ValueError(f"engine {engine}: {missing}; `modelyard models install` brings it with a model") from None
    for name, path in artifacts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _link(folder / name, path)
    values = dict(parameters)
    suffix = _MODEL_SUFFIX.get(engine)
    if suffix is not None:
        values.setdefault("model_file", _weights(engine, suffix, artifacts))
    template = Template((_HERE / engine / "config.pbtxt").read_text())
    of_model = tensors.template_values(values) if engine == "tensors" else {}
    config = template.substitute(model_name=model_name, parameters=_parameters_text(values), **of_model)
    (target / model_name / "config.pbtxt").write_text(config)


def _check_names(model_name: str, artifacts: Mapping[str, Path]) -> None:
    """Names that lead nowhere else: a link is written at each.

    Raises:
        ValueError: one that does, or that the engine has itself.
    """
    for name in (model_name, *artifacts):
        steps = name.split("/") if name != model_name else [name]
        if not all(_NAME.fullmatch(step) for step in steps) or steps[0] in _RESERVED:
            raise ValueError(
                f'"{name}" is no plain file name; letters, digits and "._+@=-" are allowed, "/" between folders'
            )


def _weights(engine: str, suffix: str, artifacts: Mapping[str, Path]) -> str:
    found = [name for name in artifacts if name.endswith(suffix)]
    if len(found) != 1:
        names = ", ".join(sorted(artifacts)) or "none"
        raise ValueError(
            f"engine {engine} needs one {suffix} artifact and got {len(found)} (artifacts: {names}); "
            'name it with the parameter "model_file"'
        )
    return found[0]


def _link(link: Path, path: Path) -> None:
    source = path.resolve()
    if not source.exists():
        # Who reads this may be a customer: the folder is the operator's business.
        raise FileNotFoundError(f"artifact {path.name!r} is not on this machine any more")
    link.unlink(missing_ok=True)
    link.symlink_to(source)


def _parameters_text(parameters: Mapping[str, str]) -> str:
    return "\n".join(
        f'parameters {{ key: "{_escaped(key)}" value: {{ string_value: "{_escaped(value)}" }} }}'
        for key, value in sorted(parameters.items())
    )


def _escaped(text: str) -> str:
    """Text for a double-quoted string of the protobuf text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

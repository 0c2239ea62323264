"""The files of a content folder: read with libyaml, checked all at once, each mistake with its file, line and field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from services.catalog.domain.errors import ContentInvalid
from services.catalog.domain.replacements import replacement_cycles
from services.catalog.sources.benchmarks import Benchmarks, read_benchmarks
from services.catalog.sources.content import (
    Collection,
    Collections,
    InstanceType,
    InstanceTypes,
    Model,
    Models,
    Publisher,
    Publishers,
    UncheckedModels,
)

# The folder that comes with the service.
SHIPPED = Path(__file__).parents[1] / "content"
# What one message lists; the rest are counted.
_FINDINGS_TOLD_MAX = 10

Form = TypeVar("Form", bound=BaseModel)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, in C where the wheel has it, and without keys that silently win over an earlier one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            seen: set[Any] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return mapping


@dataclass(frozen=True, slots=True)
class Content:
    """All files together."""

    collections: list[Collection]
    publishers: list[Publisher]
    models: list[Model]
    instance_types: list[InstanceType]
    benchmarks: Benchmarks


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake."""

    # Relative to the folder.
    file: str
    # From 1; 0 where it belongs to no line.
    line: int
    # Path of keys and positions, such as `models.3.license`; empty for the whole file.
    field: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (f"{self.file}:{self.line}" if self.line else self.file, self.reason) if part)


def read_content(folder: Path) -> Content:
    """Read and check every file of a content folder.

    Raises:
        ContentInvalid: naming files, fields and values.
    """
    content, findings = check_content(folder)
    if content is None or findings:
        raise ContentInvalid(told(findings), field=findings[0].field)
    return content


def told(findings: Sequence[Finding]) -> str:
    """Mistakes in one message: the first ones, and how many more there are."""
    first = [str(finding) for finding in findings[:_FINDINGS_TOLD_MAX]]
    if len(findings) > len(first):
        first.append(f"{len(findings) - len(first)} more; `modelyard catalog lint` lists them all")
    return "; ".join(first)


def check_content(folder: Path) -> tuple[Content | None, list[Finding]]:
    """Everything that is wrong with a content folder, and what it says where nothing is."""
    files = _Files(folder)
    head = files.read("collections.yaml", Collections)
    types = files.read("instance_types.yaml", InstanceTypes)
    paths = sorted((folder / "models").glob("*.yaml"))
    parts = [(path, files.read(f"models/{path.name}", Models)) for path in paths]
    models = [(path, part) for path, part in parts if part is not None]
    if head is not None:
        files.findings += _unknown_references(files, head, models)
        files.findings += files.twice("collections.yaml", "collections", [one.id for one in head.collections])
        files.findings += files.twice("collections.yaml", "publishers", [one.id for one in head.publishers])
    if types is not None:
        files.findings += files.twice("instance_types.yaml", "instance_types", [one.id for one in types.instance_types])
    files.findings += _models_twice(files, models)
    known = {f"{model.publisher}/{model.id}" for _, _, model in _every_model(models)}
    benchmarks = read_benchmarks(files, known)
    if head is None or types is None or files.findings:
        return None, files.findings
    content = Content(
        collections=head.collections,
        publishers=head.publishers,
        models=[model for _, part in models for model in part.models],
        instance_types=types.instance_types,
        benchmarks=benchmarks,
    )
    return content, _wrong_replacements(files, models)


@dataclass(frozen=True, slots=True)
class CheckedModels:
    """A folder of models alone.

    Attributes:
        models: Those without a mistake, by `PUBLISHER/MODEL`, in the order of the files.
        wrong: What is wrong with which of the others, by the same name.
        findings: Why it cannot be said what the folder holds; with any of them the rest says nothing.
    """

    models: dict[str, Model]
    publishers: list[Publisher]
    wrong: list[tuple[str, Finding]]
    findings: list[Finding]


def check_models(folder: Path, *, file_bytes_max: int | None = None) -> CheckedModels:
    """Read a folder of models alone: `models/*.yaml`, and `publishers.yaml` where there is one. A mistake keeps out the model
    that it is in, and no other."""
    files = _Files(folder, file_bytes_max)
    head = files.read("publishers.yaml", Publishers) if (folder / "publishers.yaml").exists() else None
    models: dict[str, Model] = {}
    wrong: list[tuple[str, Finding]] = []
    names = files.names("models")
    if not names:
        files.add("models", 0, "", "has no YAML file; a folder of models has one at least")
    for name in names:
        part = files.read(name, UncheckedModels)
        for position, entry in enumerate(part.models if part else ()):
            place = ("models", position)
            called = f"{entry.get('publisher')}/{entry.get('id')}"
            if not entry.get("publisher") or not entry.get("id"):
                files.add(name, files.line(name, place), f"models.{position}", "a model has no publisher or no id")
            elif called in models:
                twice = Finding(
                    name, files.line(name, (*place, "id")), f"models.{position}.id", f"{called} stands twice"
                )
                wrong.append((called, twice))
            else:
                try:
                    models[called] = Model.model_validate(entry)
                except ValidationError as invalid:
                    wrong += [(called, finding) for finding in files.explain(name, invalid, place)]
    return CheckedModels(models, head.publishers if head else [], wrong, files.findings)


def license_text(folder: Path, license_id: str) -> str:
    """The text of a licence that is shipped; empty where it is not."""
    path = folder / "licenses" / f"{license_id}.txt"
    return path.read_text() if path.parent.name == "licenses" and path.is_file() else ""


class _Files:
    """Reads files and remembers what is wrong with them."""

    def __init__(self, folder: Path, bytes_max: int | None = None) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._nodes: dict[str, Any] = {}
        self.findings: list[Finding] = []

    def read(self, name: str, form: type[Form]) -> Form | None:
        """One file in its form; None where it has mistakes."""
        path = self._folder / name
        try:
            if self._bytes_max is not None and (size := path.stat().st_size) > self._bytes_max:
                self.add(name, 0, "", f"has {size} bytes; at most {self._bytes_max} are allowed")
                return None
            text = path.read_text()
        except OSError as missing:
            self.add(name, 0, "", f"cannot be read: {missing.strerror}; a content folder has it")
            return None
        except UnicodeDecodeError as unreadable:
            self.add(name, 0, "", f"is not YAML: {unreadable}")
            return None
        try:
            return form.model_validate(yaml.load(text, Loader=_Loader))  # noqa: S506 - the loader is a safe one
        except yaml.YAMLError as unreadable:
            mark = getattr(unreadable, "problem_mark", None)
            problem = getattr(unreadable, "problem", None) or str(unreadable)
            self.add(name, mark.line + 1 if mark else 0, "", f"is not YAML: {problem}")
        except ValidationError as invalid:
            self.findings += self.explain(name, invalid)
        return None

    def explain(self, name: str, invalid: ValidationError, at: tuple[str | int, ...] = ()) -> Iterator[Finding]:
        """Each mistake of a part of a file, which stands at a path of keys and positions."""
        for error in invalid.errors():
            steps = (*at, *error["loc"])
            field = ".".join(str(step) for step in steps)
            said = f"{field or 'the file'} is {str(error['input'])[:200]!r}: {error['msg']}"
            yield Finding(name, self.line(name, steps), field, said)

    def line(self, name: str, steps: Iterable[str | int]) -> int:
        """Where a field stands: the line of its key, or of the nearest thing around it."""
        if name not in self._nodes:
            self._nodes[name] = yaml.compose((self._folder / name).read_text(), Loader=_Loader)
        node = self._nodes[name]
        line = node.start_mark.line + 1 if node else 0
        for step in steps:
            found = _below(node, step)
            if found is None:
                break
            key, node = found
            line = key.start_mark.line + 1
        return line

    def twice(self, name: str, field: str, ids: Sequence[str]) -> Iterator[Finding]:
        """Ids that stand in a list more than once."""
        for value, count in Counter(ids).items():
            if count > 1:
                position = len(ids) - 1 - list(reversed(ids)).index(value)
                line = self.line(name, (field, position, "id"))
                yield Finding(name, line, f"{field}.{position}.id", f"{field}: {value!r} stands in the content twice")

    def names(self, folder: str) -> list[str]:
        """The YAML files of a folder, by name; none where there is no such folder."""
        return [f"{folder}/{path.name}" for path in sorted((self._folder / folder).glob("*.yaml"))]

    def add(self, name: str, line: int, field: str, reason: str) -> None:
        self.findings.append(Finding(name, line, field, reason))


def _below(node: Any, step: str | int) -> tuple[Any, Any] | None:
    """The node that says where a child is, and the child."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


_Parts = Sequence[tuple[Path, Models]]


def _every_model(parts: _Parts) -> Iterator[tuple[str, int, Model]]:
    for path, part in parts:
        for position, model in enumerate(part.models):
            yield f"models/{path.name}", position, model


def _unknown_references(files: _Files, head: Collections, parts: _Parts) -> Iterator[Finding]:
    publishers = {publisher.id for publisher in head.publishers}
    collections = {collection.id for collection in head.collections}
    for name, position, model in _every_model(parts):
        for kind, value, known in (
            ("publisher", model.publisher, publishers),
            ("collection", model.collection, collections),
        ):
            if value not in known:
                field = f"models.{position}.{kind}"
                reason = f"model {model.publisher}/{model.id}: {kind} {value!r} is not in collections.yaml"
                yield Finding(name, files.line(name, ("models", position, kind)), field, reason)


def _models_twice(files: _Files, parts: _Parts) -> Iterator[Finding]:
    first: dict[tuple[str, str], str] = {}
    for name, position, model in _every_model(parts):
        key = (model.publisher, model.id)
        if key in first:
            reason = f"model '{model.publisher}/{model.id}' stands in the content twice; first in {first[key]}"
            line = files.line(name, ("models", position, "id"))
            yield Finding(name, line, f"models.{position}.id", reason)
        first.setdefault(key, name)


def _wrong_replacements(files: _Files, parts: _Parts) -> list[Finding]:
    """Replacements that are not there, and circles of them."""
    findings: list[Finding] = []
    replaced_by: dict[str, str] = {}
    where: dict[str, tuple[str, int, int]] = {}
    known = {f"{model.publisher}/{model.id}" for _, _, model in _every_model(parts)}

    def found(place: tuple[str, int, int], reason: str) -> None:
        name, position, version = place
        steps = ("models", position, "versions", version, "lifecycle", "replacement")
        findings.append(Finding(name, files.line(name, steps), ".".join(map(str, steps)), reason))

    for name, position, model in _every_model(parts):
        own = f"{model.publisher}/{model.id}"
        for number, version in enumerate(model.versions):
            replacement = version.lifecycle.replacement
            if replacement is None:
                continue
            if replacement not in known:
                found((name, position, number), f"model {own}: replacement {replacement!r} is not in the content")
            elif number == len(model.versions) - 1:
                replaced_by[own], where[own] = replacement, (name, position, number)
    for circle in replacement_cycles(replaced_by):
        found(where[circle[0]], f"replacements go in a circle: {' → '.join(circle)}")
    return findings

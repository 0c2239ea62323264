"""Repositories of a model hub: commits, git and LFS digests, and what the hub works out of their files."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

# What `.gitattributes` of the hub's repositories sends to LFS.
_LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".onnx", ".pt", ".pth", ".h5", ".msgpack", ".zip")
_CREATED = "2024-01-02T03:04:05.000Z"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """A file of a commit: bytes, or a file of this machine that is too large to hold."""

    content: bytes | Path

    @cached_property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    @cached_property
    def sha256(self) -> str:
        return self._digest("sha256", b"")

    @cached_property
    def git_oid(self) -> str:
        """The name git gives the file's content."""
        return self._digest("sha1", b"blob %d\0" % self.size)

    def read(self, start: int, length: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[start : start + length]
        with self.content.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def _digest(self, algorithm: str, before: bytes) -> str:
        digest = hashlib.new(algorithm, before, usedforsecurity=False)
        for start in range(0, self.size, _CHUNK):
            digest.update(self.read(start, _CHUNK))
        return digest.hexdigest()


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    sha: str
    time: str
    files: Mapping[str, HubFile]


@dataclass
class Repository:
    """A model's repository; its newest commit is `main`.

    Args:
        id: `ORG/NAME`.
        gated: False, "auto" or "manual".
        admitted: Tokens that may read a gated or a private repository.
    """

    id: str
    commits: list[Commit] = field(default_factory=list)
    gated: bool | str = False
    private: bool = False
    disabled: bool = False
    admitted: set[str] = field(default_factory=set)
    # What its owners or the hub say against what the files would say, such as {"pipeline_tag": "text-generation"}.
    told: dict[str, Any] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | Path]) -> str:
        """Make a commit of exactly these files; its sha."""
        held = {name: HubFile(content) for name, content in sorted(files.items())}
        listing = "".join(f"{name} {file.git_oid}\n" for name, file in held.items())
        before = self.commits[-1].sha if self.commits else ""
        sha = hashlib.sha1(f"{self.id} {before}\n{listing}".encode(), usedforsecurity=False).hexdigest()
        self.commits.append(Commit(sha, f"2024-02-{len(self.commits) + 1:02}T03:04:05.000Z", held))
        return sha

    def at(self, revision: str) -> Commit | None:
        """A commit by branch or sha."""
        if revision in ("main", "refs/heads/main"):
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)

    def withdraw(self, name: str) -> None:
        """Take a file out of every commit, as a rewritten history does."""
        self.commits = [
            replace(commit, files={path: file for path, file in commit.files.items() if path != name})
            for commit in self.commits
        ]


def is_lfs(name: str) -> bool:
    """Whether a file of this name is stored by LFS."""
    return name.endswith(_LFS_SUFFIXES)


def info(repository: Repository, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    """The answer of `/api/models/{id}`."""
    card = card_data(commit)
    config = json.loads(_text(commit, "config.json") or "{}")
    library = card.get("library_name") or _library(commit)
    found = {
        "_id": hashlib.md5(repository.id.encode(), usedforsecurity=False).hexdigest()[:24],
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0],
        "sha": commit.sha,
        "createdAt": _CREATED,
        "lastModified": commit.time,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "downloads": 1000,
        "likes": 10,
        "tags": _tags(commit, card, config, library),
        "siblings": [_sibling(name, file, blobs=blobs) for name, file in commit.files.items()],
        "usedStorage": sum(file.size for file in commit.files.values()),
        "spaces": [],
    }
    if library:
        found["library_name"] = library
    if task := card.get("pipeline_tag"):
        found["pipeline_tag"] = task
    if card:
        found["cardData"] = card
    if index := card.get("model-index"):
        found["model-index"] = index
    if config:
        found["config"] = {key: config[key] for key in ("architectures", "model_type", "auto_map") if key in config}
    weights = [file for name, file in commit.files.items() if name.endswith(".safetensors")]
    if weights:
        parameters: dict[str, int] = {}
        for file in weights:
            for dtype, count in _parameters(file).items():
                parameters[dtype] = parameters.get(dtype, 0) + count
        found["safetensors"] = {"parameters": parameters, "total": sum(parameters.values())}
    return {**found, **repository.told}


def listed(whole: dict[str, Any], *, full: bool, config: bool, card: bool) -> dict[str, Any]:
    """The part of a repository's facts that a list shows."""
    names = ["_id", "id", "modelId", "likes", "private", "downloads", "tags", "pipeline_tag", "library_name"]
    names += ["createdAt"]
    if full:
        names += ["author", "gated", "lastModified", "sha", "siblings"]
    if config:
        names += ["config"]
    if card:
        names += ["cardData"]
    return {name: whole[name] for name in names if name in whole}


def tree(commit: Commit) -> list[dict[str, Any]]:
    """The answer of `/api/models/{id}/tree/{revision}`, all folders at once."""
    return [
        {
            "type": "file",
            "path": name,
            "oid": file.git_oid,
            "size": file.size,
            **({"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if is_lfs(name) else {}),
        }
        for name, file in commit.files.items()
    ]


def card_data(commit: Commit) -> dict[str, Any]:
    """The front matter of a commit's README."""
    text = _text(commit, "README.md")
    if not text.startswith("---\n"):
        return {}
    # The hub answers in JSON: what YAML reads as a date becomes text.
    found: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(text.split("---\n")[1]) or {}, default=str))
    return found


def _text(commit: Commit, name: str) -> str:
    file = commit.files.get(name)
    return file.read(0, file.size).decode() if file else ""


def _library(commit: Commit) -> str:
    if "modules.json" in commit.files:
        return "sentence-transformers"
    if any(name.endswith(".gguf") for name in commit.files):
        return "gguf"
    return "transformers" if "config.json" in commit.files else ""


def _tags(commit: Commit, card: dict[str, Any], config: dict[str, Any], library: str) -> list[str]:
    languages = card.get("language", [])
    tags = [library, *card.get("tags", [])]
    tags += [
        suffix for suffix in ("safetensors", "gguf", "onnx") if any(n.endswith(f".{suffix}") for n in commit.files)
    ]
    tags += [str(config.get("model_type", "")), str(card.get("pipeline_tag", ""))]
    tags += [languages] if isinstance(languages, str) else languages
    tags += [f"license:{card['license']}"] if "license" in card else []
    # The hub marks repositories whose code would run on load.
    tags += ["custom_code"] if "auto_map" in config else []
    return list(dict.fromkeys(tag for tag in [*tags, "region:us"] if tag))


def _sibling(name: str, file: HubFile, *, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": name}
    lfs = {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if is_lfs(name) else {}
    return {"rfilename": name, "size": file.size, "blobId": file.git_oid, **lfs}


def _parameters(file: HubFile) -> dict[str, int]:
    """Parameters by type, out of a safetensors header."""
    (length,) = struct.unpack("<Q", file.read(0, 8))
    counts: dict[str, int] = {}
    for name, tensor in json.loads(file.read(8, length)).items():
        if name != "__metadata__":
            counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + _product(tensor["shape"])
    return counts


def _product(shape: list[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total

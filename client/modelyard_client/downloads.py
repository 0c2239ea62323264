"""Files of versions: downloaded in one piece or in many, checked by digest, whole or not there at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelyard.catalog.v1 import artifacts_pb2, catalog_pb2

from modelyard_client.connection import Modelyard
from modelyard_client.errors import ModelyardError

ATTEMPTS_MAX = 8
RETRY_S_MAX = 8.0
# What may pass by itself: the platform is away or busy.
_PASSING = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED"}


@dataclass(frozen=True, slots=True)
class Downloaded:
    """One file as it lies here; `received_bytes` came just now, 0 where it lay here already."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    received_bytes: int


async def download_artifact(
    modelyard: Modelyard,
    model_version: str,
    artifact: catalog_pb2.Artifact,
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda received_bytes: None,
) -> Downloaded:
    """Download one file of a version into a folder, below it where its name says so.

    What came before an interruption lies beside it as `NAME.part`; downloading again goes on from there. A file that is
    there with this digest is left alone.

    Args:
        progress: Called with how many bytes are here, also those of earlier attempts.

    Raises:
        ModelyardError: refused; the platform stayed away; or DIGEST_MISMATCH: what came is another file.
        ValueError: the file's name leads out of the folder.
    """
    path = _below(folder, artifact.name)
    if _size(path) == artifact.size_bytes and await asyncio.to_thread(_digest, path) == artifact.sha256:
        progress(artifact.size_bytes)
        return Downloaded(artifact.name, path, artifact.sha256, artifact.size_bytes, 0)
    part = path.with_name(f"{path.name}.part")
    began_bytes = _size(part)
    await _receive(modelyard, model_version, artifact, part, progress)
    _append(part, b"")
    found = await asyncio.to_thread(_digest, part)
    if found != artifact.sha256:
        part.unlink()
        raise ModelyardError(
            "DATA_LOSS",
            "DIGEST_MISMATCH",
            f"{artifact.name!r} came with digest {found}; {artifact.sha256} is expected: download it again",
        )
    part.replace(path)
    return Downloaded(artifact.name, path, artifact.sha256, artifact.size_bytes, artifact.size_bytes - began_bytes)


async def _receive(
    modelyard: Modelyard,
    model_version: str,
    artifact: catalog_pb2.Artifact,
    part: Path,
    progress: Callable[[int], None],
) -> None:
    """Append what is missing, in as many streams as it takes."""
    failed = 0
    while (here := _size(part)) < artifact.size_bytes:
        request = artifacts_pb2.DownloadArtifactRequest(name=model_version, artifact=artifact.name, offset=here)
        try:
            async for response in modelyard.artifacts.DownloadArtifact(request):
                _append(part, response.data)
                progress(response.offset + len(response.data))
            if _size(part) == here:
                raise ModelyardError("DATA_LOSS", "DIGEST_MISMATCH", f"{artifact.name!r} ends after {here} bytes")
        except ModelyardError as error:
            failed = 1 if _size(part) > here else failed + 1
            if error.code not in _PASSING or failed >= ATTEMPTS_MAX:
                raise
            await asyncio.sleep(error.retry_after_s or min(0.5 * 2 ** (failed - 1), RETRY_S_MAX))


def _below(folder: Path, name: str) -> Path:
    """Where a file goes; names come from the platform and are checked all the same."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"file name {name!r} leads out of {folder}")
    return folder.joinpath(*parts)


def _append(part: Path, data: bytes) -> None:
    """What was refused leaves nothing behind: folder and file are made by what comes."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        file.write(data)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

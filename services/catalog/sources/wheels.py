"""Artifacts inside installed wheels: found without importing anything, checked by digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engines.packages import PackageMissing, find_package
from services.catalog.sources.content import Artifact


class ArtifactMissing(Exception):
    """The wheel is not installed, or its file is not the one the catalog describes; says the way out."""


def locate(artifact: Artifact, packages: Path | None) -> Path:
    """Where the file lies.

    Args:
        packages: Folder with packages that are not in the environment; see `engines.packages`.

    Raises:
        ArtifactMissing: not installed, not in the wheel, or of another size.
    """
    try:
        distribution = find_package(artifact.wheel, packages)
    except PackageMissing:
        raise ArtifactMissing(
            f"the wheel {artifact.wheel!r} is not installed; install it without its dependencies"
        ) from None
    path = Path(str(distribution.locate_file(artifact.path)))
    if not path.is_file():
        raise ArtifactMissing(f"the wheel {artifact.wheel!r} {distribution.version} has no file {artifact.path!r}")
    size = path.stat().st_size
    if size != artifact.size_bytes:
        raise ArtifactMissing(
            f"{artifact.path!r} has {size} bytes; {artifact.size_bytes} were expected: reinstall the wheel"
        )
    return path


def sha256_of(path: Path) -> str:
    """Digest of a whole file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

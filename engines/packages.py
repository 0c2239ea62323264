"""Python packages of engines and models: in the environment, or unpacked beside it in a folder of their own.

The folder holds one folder a wheel, `<name>-<version>`, with what the wheel holds.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from importlib.metadata import Distribution
from pathlib import Path


class PackageMissing(LookupError):
    """The package is neither in the environment nor in the folder; the text names it."""


def find_package(name: str, folder: Path | None) -> Distribution:
    """The environment's package, else the newest one in the folder; nothing is imported.

    Raises:
        PackageMissing: there is none.
    """
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        unpacked = _unpacked(name, folder)
    if not unpacked:
        raise PackageMissing(f"the package {name!r} is not installed")
    return max(unpacked, key=lambda package: _version_key(package.version))


def beside_the_environment(names: Sequence[str], folder: Path | None) -> list[Path]:
    """What an interpreter must find of these packages besides what its environment has.

    Raises:
        PackageMissing: one of them is nowhere.
    """
    paths: list[Path] = []
    for name in names:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            paths += _importable(find_package(name, folder))
    return paths


def _unpacked(name: str, folder: Path | None) -> list[Distribution]:
    if folder is None or not folder.is_dir():
        return []
    # Names with a dot are of packages that are still being unpacked.
    places = [str(place) for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")]
    return list(importlib.metadata.distributions(name=name, path=places)) if places else []


def _importable(package: Distribution) -> list[Path]:
    """Modules, packages and their libraries, as they lie at the top of the wheel."""
    tops = {file.parts[0] for file in package.files or () if not file.parts[0].endswith((".dist-info", ".data"))}
    return sorted(Path(str(package.locate_file(top))) for top in tops)


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())

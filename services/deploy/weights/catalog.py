"""Weights from the catalog: an address signed for one file, then HTTP with a range."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import httpx2
from modelyard.catalog.v1 import artifacts_pb2, artifacts_pb2_grpc

from chassis.errors import PASSING
from chassis.rpc import problem_from_rpc_error
from services.deploy.weights.interface import WeightsFile, WeightsInterrupted, WeightsRefused

_PIECE_BYTES = 1 << 20
_CONNECT_S = 10.0
_REFUSAL_BYTES_MAX = 64 << 10
# Answers that may pass by themselves: overload, a proxy without its server, a server that stops.
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class CatalogWeights:
    """The catalog, asked as the service `deploy`; it reads its own store, wheels and hubs alike.

    Args:
        channel: To the catalog.
        silence_s_max: Longest wait for the next bytes, seconds.
        root_certificates_file: Authorities to trust (PEM); None: those of the system.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, silence_s_max: float = 30.0, root_certificates_file: Path | None = None
    ) -> None:
        self._catalog = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        self._http = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=root_certificates_file),
            timeout=httpx2.Timeout(silence_s_max, connect=_CONNECT_S),
            # Between services of one platform no proxy of the environment has a place.
            trust_env=False,
        )

    async def read(self, file: WeightsFile, offset: int) -> AsyncGenerator[bytes, None]:
        url = await self._signed(file)
        # The ETag is the digest: what is not this file any more would come from its start.
        headers = {"range": f"bytes={offset}-", "if-range": f'"{file.sha256}"', "accept-encoding": "identity"}
        try:
            async with self._http.stream("GET", url, headers=headers) as answer:
                await self._check(answer, file, offset)
                async for piece in answer.aiter_raw(_PIECE_BYTES):
                    yield piece
        except httpx2.TransportError as lost:
            raise WeightsInterrupted(f"the catalog was lost while {file.name!r} came: {type(lost).__name__}") from lost

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def _signed(self, file: WeightsFile) -> str:
        """An address of the file, made anew for every attempt."""
        request = artifacts_pb2.SignDownloadUrlRequest(name=file.model_version, artifact=file.name)
        try:
            signed = await self._catalog.SignDownloadUrl(request)
        except grpc.aio.AioRpcError as error:
            problem = problem_from_rpc_error(error)
            if problem.code in PASSING:
                raise WeightsInterrupted(f"the catalog does not give {file.name!r}: {problem.message}") from error
            raise WeightsRefused(problem.message) from error
        if signed.sha256 != file.sha256:
            raise WeightsRefused(
                f"{file.name!r} of {file.model_version} has digest {signed.sha256} in the catalog; {file.sha256} is "
                "expected: deploy the version anew"
            )
        return str(signed.url)

    async def _check(self, answer: httpx2.Response, file: WeightsFile, offset: int) -> None:
        status = answer.status_code
        if status == 206 or (status == 200 and offset == 0):
            return
        why = await _reason(answer)
        if status in _PASSING_STATUSES:
            raise WeightsInterrupted(why or f"the catalog answered {status} for {file.name!r} from byte {offset}")
        raise WeightsRefused(why or f"the catalog answered {status} for {file.name!r} from byte {offset}")


async def _reason(answer: httpx2.Response) -> str:
    """What the catalog says of a refusal; empty where somebody else answered."""
    content = b""
    async for piece in answer.aiter_bytes():
        content += piece
        if len(content) > _REFUSAL_BYTES_MAX:
            return ""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""

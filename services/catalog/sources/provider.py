"""Models of an external service, as its `/models` lists them (OpenAI's API, or Azure OpenAI's)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
from modelyard.catalog.v1 import providers_pb2, sources_pb2

from chassis.secret_files import SecretFiles, SecretUnusable
from chassis.telemetry import get_logger
from services.catalog.domain.errors import SourceUnavailable
from services.catalog.domain.names import MODEL
from services.catalog.domain.records import License, Lifecycle, ModelRecord, Source, Support, VersionRecord
from services.catalog.domain.sources import Selection, model_id, task_of
from services.catalog.sources.interface import AdapterFactory, Batch, Failure

log = get_logger(__name__)

# Nothing is known of a provider's versions; a new model has a new name.
VERSION = "1"
_BATCH = 200
_INFERENCE_TASKS = {"CHAT_COMPLETION": "chat-completion", "EMBEDDINGS": "embeddings"}


@dataclass(frozen=True, slots=True)
class ListingBounds:
    """How much of a provider's list is read.

    `bytes_max`: one page. `pages_max`: pages. `models_max`: models. `s_max`: the whole list, seconds.
    """

    bytes_max: int = 8 * 1024 * 1024
    pages_max: int = 100
    models_max: int = 20_000
    s_max: float = 60.0


class _Deprecation(msgspec.Struct, frozen=True):
    """Azure OpenAI: when a model ends, seconds since 1970."""

    inference: int | None = None
    fine_tune: int | None = None


class _Listed(msgspec.Struct, frozen=True):
    """One model as a provider lists it; everything but its name may be missing."""

    id: str
    owned_by: str | None = None
    # Azure OpenAI's, and another Modelyard's.
    capabilities: dict[str, bool] | None = None
    lifecycle_status: str | None = None
    deprecation: _Deprecation | None = None


class _Page(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    has_more: bool = False
    last_id: str | None = None


def provider_adapters(
    keys: SecretFiles,
    bounds: ListingBounds,
    *,
    proxy: str = "",
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AdapterFactory:
    """Makes adapters of provider sources.

    Args:
        keys: Credentials, by the reference that a source names.
        proxy: URL of a proxy on the way; empty for none.
        transport: Instead of the network, for tests.
    """

    def client() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            timeout=httpx2.Timeout(min(bounds.s_max, 30.0)),
            # The key goes to the address that the operator set, and nowhere else.
            follow_redirects=False,
            trust_env=False,
            proxy=proxy or None,
            transport=transport,
        )

    return lambda source, today: ProviderAdapter(source, today, keys, bounds, client)


class ProviderAdapter:
    """Reads one provider's list as a whole, and hands it on in batches in the order of names."""

    def __init__(
        self,
        source: sources_pb2.ModelSource,
        today: date,
        keys: SecretFiles,
        bounds: ListingBounds,
        client: Callable[[], httpx2.AsyncClient],
    ) -> None:
        self._source = source
        self._spec = source.provider
        self._name = source.name.partition("/")[2]
        self._today = today
        self._keys = keys
        self._bounds = bounds
        self._client = client
        self._selection = Selection(tuple(source.include), tuple(source.exclude))

    async def batches(self, cursor: str) -> AsyncGenerator[Batch, None]:
        """As `SourceAdapter.batches`; a cursor is the name of the last model that was handed on."""
        listed, failures = await self._list()
        skipped = len(listed)
        listed = {name: one for name, one in listed.items() if self._selection.takes(name) and self._task(one)}
        skipped -= len(listed)
        names = [name for name in sorted(listed) if name > cursor]
        if cursor:
            # They were handed on with the first batch of this run.
            failures, skipped = [], 0
        for start in range(0, max(len(names), 1), _BATCH):
            part = names[start : start + _BATCH]
            is_last = start + _BATCH >= len(names)
            yield self._batch([listed[name] for name in part], failures, skipped, "" if is_last else part[-1])
            failures, skipped = [], 0

    def _batch(self, listed: list[_Listed], failures: list[Failure], skipped: int, cursor: str) -> Batch:
        records: dict[str, ModelRecord] = {}
        offers: dict[str, providers_pb2.ProviderTarget] = {}
        failed = list(failures)
        for one in listed:
            own_id = model_id(one.id)
            if own_id is None:
                failed.append(Failure(one.id[:200], "id", "nothing of its name fits a model's name here"))
                continue
            name = MODEL.format(publisher=self._publisher, model=own_id)
            if name in records:
                failed.append(
                    Failure(
                        one.id[:200], "id", f"another model of the source is called {own_id!r} here too; exclude one"
                    )
                )
                continue
            records[name] = self._record(one, own_id)
            offers[name] = self._target(one)
        return Batch(list(records.values()), offers, failed, skipped, cursor)

    @property
    def _publisher(self) -> str:
        return self._spec.publisher.partition("/")[2]

    def _task(self, listed: _Listed) -> str:
        return task_of(listed.id, dict(self._spec.tasks), listed.capabilities)

    def _target(self, listed: _Listed) -> providers_pb2.ProviderTarget:
        return providers_pb2.ProviderTarget(
            provider=self._name,
            kind=self._spec.kind,
            base_url=self._spec.base_url,
            model=self._spec.deployments.get(listed.id, listed.id),
            api_version=self._spec.api_version,
            key_reference=self._source.key_reference,
            continuous_usage=self._spec.continuous_usage,
        )

    def _record(self, listed: _Listed, own_id: str) -> ModelRecord:
        """What is known of a model that nobody else describes."""
        task, terms, support = self._task(listed), self._source.terms, self._source.support
        deprecation = listed.deprecation or _Deprecation()
        owner = listed.owned_by or ""
        summary = f"Answered by provider {self._name}, which lists it as {listed.id}."
        return ModelRecord(
            publisher=self._publisher,
            model=own_id,
            collection=self._source.collection.partition("/")[2],
            display_name=listed.id,
            license=License(
                id=terms.id or "Provider terms",
                url=terms.url,
                text=terms.text,
                acceptance_required=terms.acceptance_required,
            ),
            tasks=(task,),
            inference_tasks=(_INFERENCE_TASKS[task],),
            deployment_options=("SERVERLESS",),
            usability="RUNS_HERE",
            sources=(Source(location=self._models_url, date=self._today.isoformat()),),
            versions=(
                VersionRecord(
                    version=VERSION,
                    position=1,
                    lifecycle=Lifecycle(
                        preview=listed.lifecycle_status == "preview",
                        retirement=_day(deprecation.inference),
                        fine_tune_retirement=_day(deprecation.fine_tune),
                    ),
                ),
            ),
            summary=summary,
            card=f"# {listed.id}\n\n{summary}"
            + (f" It is owned by {owner} there." if owner.isprintable() and 0 < len(owner) <= 100 else "")
            + "\n\nIt has no weights here; the provider's terms hold, and the provider's own usage is billed.\n",
            input_modalities=("text",),
            output_modalities=("embeddings" if task == "EMBEDDINGS" else "text",),
            support=Support(supported_by=support.supported_by, contact=support.contact, sla=support.sla),
        )

    @property
    def _models_url(self) -> str:
        if self._spec.kind == providers_pb2.PROVIDER_KIND_AZURE_OPENAI:
            return f"{self._spec.base_url}/openai/models"
        return f"{self._spec.base_url}/models"

    async def _list(self) -> tuple[dict[str, _Listed], list[Failure]]:
        """Every model by its name, and what could not be read.

        Raises:
            SourceUnavailable: the list is not to be had as a whole: half a list would withdraw the other half.
        """
        found: dict[str, _Listed] = {}
        failures: list[Failure] = []
        try:
            async with asyncio.timeout(self._bounds.s_max), self._client() as client:
                after = ""
                for _ in range(self._bounds.pages_max):
                    page = await self._page(client, after)
                    for raw in page.data:
                        self._add(raw, found, failures)
                    if len(found) > self._bounds.models_max:
                        raise self._unavailable(f"lists more than {self._bounds.models_max} models; raise the limit")
                    if not page.has_more or not page.last_id or page.last_id == after:
                        return found, failures
                    after = page.last_id
                raise self._unavailable(f"lists its models on more than {self._bounds.pages_max} pages")
        except TimeoutError:
            raise self._unavailable(f"did not list its models within {self._bounds.s_max:g} s") from None
        except httpx2.HTTPError as error:
            raise self._unavailable(f"does not list its models now ({type(error).__name__})") from None

    def _add(self, raw: msgspec.Raw, found: dict[str, _Listed], failures: list[Failure]) -> None:
        try:
            one = msgspec.json.decode(raw, type=_Listed)
        except msgspec.DecodeError as error:
            where = _named(raw)
            failures.append(Failure(where, "models", f"it is listed in a form that is not known: {str(error)[:200]}"))
            return
        if not one.id.isprintable() or not one.id:
            failures.append(Failure("", "id", "a model is listed without a name that can be shown"))
        else:
            found.setdefault(one.id, one)

    async def _page(self, client: httpx2.AsyncClient, after: str) -> _Page:
        headers = {"accept": "application/json", "accept-encoding": "identity", **self._credential()}
        query = [f"after={quote(after, safe='')}"] if after else []
        if self._spec.api_version:
            query.append(f"api-version={quote(self._spec.api_version, safe='')}")
        url = self._models_url + (f"?{'&'.join(query)}" if query else "")
        async with client.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                raise self._unavailable(_refusal(response.status_code))
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > self._bounds.bytes_max:
                    raise self._unavailable(f"lists its models in more than {self._bounds.bytes_max} bytes a page")
        try:
            return msgspec.json.decode(bytes(content), type=_Page)
        except msgspec.DecodeError:
            raise self._unavailable("lists its models in a form that is not OpenAI's") from None

    def _credential(self) -> dict[str, str]:
        if not self._source.key_reference:
            return {}
        try:
            key = self._keys.read(self._source.key_reference)
        except SecretUnusable as why:
            raise self._unavailable(f"cannot be asked: {why}") from None
        if self._spec.kind == providers_pb2.PROVIDER_KIND_AZURE_OPENAI:
            return {"api-key": key}
        return {"authorization": f"Bearer {key}"}

    def _unavailable(self, why: str) -> SourceUnavailable:
        return SourceUnavailable(f"provider {self._name!r} at {self._spec.base_url} {why}")


def _named(raw: msgspec.Raw) -> str:
    """What a model that cannot be read is called, where it says so."""
    try:
        said: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return ""
    name = said.get("id") if isinstance(said, dict) else None
    return name[:200] if isinstance(name, str) and name.isprintable() else ""


def _refusal(status: int) -> str:
    if status in (401, 403):
        return "refused the credential; renew the key in its file"
    if status == 404:
        return "has no list of models there; correct the base URL"
    if status == 429:
        return "is asked too often; it is asked again at the next sync"
    return f"answered with HTTP status {status}"


def _day(seconds: int | None) -> date | None:
    """The day of a moment; what lies beyond any calendar is not taken."""
    if not seconds or not 0 < seconds < 253_402_300_800:
        return None
    return datetime.fromtimestamp(seconds, UTC).date()

"""One hub: what it lists, and each of its models as a record."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from engines.architectures import RUN_BY
from engines.safetensors.encoders import EncoderUnsupported, read_encoder
from services.catalog.domain.errors import HubContentChanged, HubModelNotEligible, HubModelNotFound, HubUnavailable
from services.catalog.domain.formats.gguf import GgufIncomplete, GgufInvalid, read_gguf_head
from services.catalog.domain.hub import (
    LIBRARIES,
    Gate,
    Obstacle,
    Repository,
    RepositoryFile,
    Unrunnable,
    artifact_name,
    gated_detail,
    generates_text,
    gguf_of,
    no_engine_for,
    obstacles,
    safetensors_of,
    serve_encoder,
    serve_gguf,
)
from services.catalog.domain.records import ArtifactRecord
from services.catalog.sources.hub.cards import Card, CardInvalid, read_card
from services.catalog.sources.hub.client import HubBounds
from services.catalog.sources.hub.files import HubFile, HubFiles
from services.catalog.sources.hub.records import Described, Facts, record_of
from services.catalog.sources.hub.refusals import problem_from_hub

_HEAD_BYTES_FIRST = 2 << 20
_LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_LICENSE_BYTES_MAX = 64 << 10
# What the library raises where an answer has another form than a hub's.
_NO_ANSWER_OF_A_HUB = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class HubSource:
    """Which hub, and which of its models.

    Attributes:
        endpoint: Base URL, without a slash at its end.
        credential: Name of the token to show; empty shows none.
        collection: Id of the collection its models are in.
        author: Only this organisation's models; empty takes all.
        search: Only models with this in their names.
        task: Only models of this task of the hub.
        tags: Only models that have all of these.
    """

    endpoint: str
    credential: str = ""
    collection: str = "hugging-face"
    author: str = ""
    search: str = ""
    task: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubLimits:
    """What is read of a hub.

    Attributes:
        models_max: Models of one list.
        card_bytes_max: A README.
        small_file_bytes_max: A file without a digest at the hub, which is read to have one.
        head_bytes_max: The metadata of a GGUF file.
        context_tokens_max: Longest input plus output that a text model is served with.
        slots: Requests that a text model decodes together.
    """

    models_max: int = 1_000
    card_bytes_max: int = 1 << 20
    small_file_bytes_max: int = 32 << 20
    head_bytes_max: int = 64 << 20
    context_tokens_max: int = 2_048
    slots: int = 8


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a hub's list."""

    id: str
    revision: str
    obstacles: tuple[Obstacle, ...]


class Hub:
    """Asks one hub. Every question ends: in an answer, a refusal or `HubUnavailable`.

    Args:
        token: Gives the token that `source.credential` names, read anew for every question; empty for none.
    """

    def __init__(
        self, source: HubSource, token: Callable[[], str], files: HubFiles, bounds: HubBounds, limits: HubLimits
    ) -> None:
        self.source = source
        self._token = token
        self._files = files
        self._bounds = bounds
        self._limits = limits

    async def list(self) -> list[Listed]:
        """What the hub lists of the source, the most used first.

        Raises:
            HubUnavailable, HubModelGated: the hub is away, or does not take the token.
        """
        source = self.source

        def ask() -> list[ModelInfo]:
            found = self._api().list_models(
                author=source.author or None,
                search=source.search or None,
                pipeline_tag=source.task or None,
                filter=source.tags or None,
                sort="downloads",
                limit=self._limits.models_max,
                full=True,
                fetch_config=True,
            )
            return [*found]

        try:
            found = await asyncio.to_thread(ask)
            return [Listed(info.id, info.sha or "", tuple(obstacles(_repository(info)))) for info in found]
        except HfHubHTTPError as error:
            raise problem_from_hub(error, "the list of models", source.endpoint) from error
        except _NO_ANSWER_OF_A_HUB as error:
            raise self._no_hub() from error

    async def describe(self, model: str, revision: str = "", file: str = "") -> Described:
        """One model at one commit, with the files of one version.

        Args:
            model: `ORG/NAME`.
            revision: Branch, tag or commit; empty means the newest.
            file: The GGUF file to take, where a model has several; empty takes the best one.

        Raises:
            HubModelNotEligible: naming every reason.
            HubModelNotFound, HubUnavailable: it is not there, or the hub is away.
            HubContentChanged: what the hub says and what it gives differ.
        """
        info, repository = await self._info(model, revision)
        if found := tuple(obstacles(repository)):
            raise HubModelNotEligible(
                f"{repository.id} is not taken in: {'; '.join(obstacle.detail for obstacle in found)}",
                metadata={"reasons": ",".join(obstacle.reason for obstacle in found)},
            )
        facts = Facts(self.source.endpoint, self.source.collection, repository, info)
        if repository.gate is not Gate.OPEN and not await self._admitted(repository.id):
            # The card's front matter is told to everybody; its text and the files are not.
            data = vars(info.card_data) if info.card_data else {}
            gated = Unrunnable(gated_detail(repository, f"{self.source.endpoint}/{repository.id}"))
            return record_of(facts, Card(data, ""), [], gated, needs_credential=True)
        card = await self._card(repository)
        chosen, serving = await self._serving(repository, file)
        artifacts = [await self._artifact(repository, one) for one in chosen]
        return record_of(facts, card, artifacts, serving, file=file, license_text=await self._license_text(repository))

    async def _info(self, model: str, revision: str) -> tuple[ModelInfo, Repository]:
        try:
            info = await asyncio.to_thread(
                self._api().model_info, model, revision=revision or None, files_metadata=True
            )
            return info, _repository(info)
        except HfHubHTTPError as error:
            raise problem_from_hub(error, model, self.source.endpoint) from error
        except HFValidationError:
            raise HubModelNotFound(f"{model[:128]!r} is no model of a hub; ORG/NAME is", field="model") from None
        except _NO_ANSWER_OF_A_HUB as error:
            raise self._no_hub() from error

    def _no_hub(self) -> HubUnavailable:
        return HubUnavailable(
            f"{self.source.endpoint} answers what no hub answers; check the address, or try again later"
        )

    async def _admitted(self, model: str) -> bool:
        """Whether this source's token is let through the model's gate."""
        try:
            await asyncio.to_thread(self._api().auth_check, model)
        except GatedRepoError:
            return False
        except HfHubHTTPError as error:
            raise problem_from_hub(error, model, self.source.endpoint) from error
        return True

    async def _card(self, repository: Repository) -> Card:
        file = next((file for file in repository.files if file.path == "README.md"), None)
        if file is None:
            return Card({}, "")
        content = await self._read(repository, file, self._limits.card_bytes_max)
        try:
            return await asyncio.to_thread(
                read_card, content.decode("utf-8-sig", errors="replace"), self._file(repository, "README.md").url
            )
        except CardInvalid as invalid:
            raise HubModelNotEligible(f"{repository.id} is not taken in: {invalid}") from None

    async def _license_text(self, repository: Repository) -> str:
        files = {file.path: file for file in repository.files if file.size_bytes <= _LICENSE_BYTES_MAX}
        file = next((files[name] for name in _LICENSE_FILES if name in files), None)
        if file is None:
            return ""
        return (await self._read(repository, file, _LICENSE_BYTES_MAX)).decode(errors="replace")

    async def _serving(
        self, repository: Repository, wanted: str
    ) -> tuple[tuple[RepositoryFile, ...], dict[str, Any] | Unrunnable]:
        """The files of a version, and how an engine serves them or why none does."""
        gguf = gguf_of(repository, wanted)
        if isinstance(gguf, Unrunnable) and wanted:
            raise HubModelNotFound(f"{repository.id}: {gguf.detail}", field="file")
        text = generates_text(repository)
        if isinstance(gguf, RepositoryFile) and text:
            return (gguf,), await self._serve_gguf(repository, gguf)
        chosen = safetensors_of(repository)
        if not chosen and gguf is not None:
            only_text = Unrunnable(f"its GGUF is for {repository.task}; GGUF files are run to generate text")
            return ((gguf,), only_text) if isinstance(gguf, RepositoryFile) else ((), gguf)
        if text or not repository.architectures or repository.architectures[0] not in RUN_BY["safetensors"]:
            return chosen, no_engine_for(repository, RUN_BY)
        return chosen, await self._serve_encoder(repository)

    async def _serve_gguf(self, repository: Repository, file: RepositoryFile) -> dict[str, Any] | Unrunnable:
        """From the head of the file: only as much of it is read as the metadata take."""
        head, enough = bytearray(), _HEAD_BYTES_FIRST
        end = min(file.size_bytes, self._limits.head_bytes_max)
        pieces = self._files.read(
            self._file(repository, file.path),
            self._token(),
            offset=0,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            end=end,
        )
        try:
            async for piece in pieces:
                head += piece
                if len(head) < min(enough, end):
                    continue
                try:
                    facts = read_gguf_head(bytes(head))
                except GgufIncomplete:
                    enough *= 2
                    continue
                limits = self._limits
                return serve_gguf(facts, file, RUN_BY, context_tokens_max=limits.context_tokens_max, slots=limits.slots)
        except GgufInvalid as invalid:
            return Unrunnable(f"{file.path} cannot be read: {invalid}")
        finally:
            await pieces.aclose()
        return Unrunnable(f"the metadata of {file.path} do not end within {end} bytes")

    async def _serve_encoder(self, repository: Repository) -> dict[str, Any] | Unrunnable:
        config = await self._json(repository, "config.json")
        try:
            positions = read_encoder(config).positions
        except (EncoderUnsupported, KeyError, ValueError) as unsupported:
            return Unrunnable(str(unsupported))
        modules = await self._json(repository, "modules.json")
        recipe = await self._json(repository, "sentence_bert_config.json")
        stated = recipe.get("max_seq_length") if isinstance(recipe, dict) else None
        return serve_encoder(
            repository,
            config,
            modules if isinstance(modules, list) else [],
            await self._json(repository, "1_Pooling/config.json"),
            RUN_BY,
            context_tokens=min(stated, positions) if isinstance(stated, int) and stated > 0 else positions,
        )

    async def _json(self, repository: Repository, path: str) -> Any:
        """A small JSON file; an empty mapping where the model has none."""
        file = next((file for file in repository.files if file.path == path), None)
        if file is None:
            return {}
        content = await self._read(repository, file, self._limits.card_bytes_max)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise HubModelNotEligible(f"{repository.id} is not taken in: {path} is no JSON") from None

    async def _artifact(self, repository: Repository, file: RepositoryFile) -> ArtifactRecord:
        sha256 = file.sha256
        if not sha256:
            content = await self._read(repository, file, self._limits.small_file_bytes_max)
            sha256 = hashlib.sha256(content).hexdigest()
        uri = self._file(repository, file.path).uri
        return ArtifactRecord(name=artifact_name(file), sha256=sha256, size_bytes=file.size_bytes, uri=uri)

    async def _read(self, repository: Repository, file: RepositoryFile, size_bytes_max: int) -> bytes:
        """A small file whose content is what its digest at the hub says."""
        content = await self._files.read_small(
            self._file(repository, file.path), self._token(), size_bytes=file.size_bytes, size_bytes_max=size_bytes_max
        )
        if file.sha256:
            same = hashlib.sha256(content).hexdigest() == file.sha256
        else:
            same = (
                hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == file.git_oid
            )
        if not same:
            raise HubContentChanged(
                f"{file.path!r} of {repository.id} came with another digest than the hub says; try again"
            )
        return content

    def _file(self, repository: Repository, path: str) -> HubFile:
        return HubFile(self.source.endpoint, repository.id, repository.revision, path, self.source.credential)

    def _api(self) -> HfApi:
        # Without a token of its own the library would look for one of the user's.
        return HfApi(endpoint=self.source.endpoint, token=self._token() or False, library_name="modelyard")


def _repository(info: ModelInfo) -> Repository:
    words = {word.lower() for word in (info.library_name or "", *(info.tags or ()))}
    config: Mapping[str, Any] = info.config or {}
    return Repository(
        id=info.id,
        revision=info.sha or "",
        library=info.library_name or "",
        libraries=words & set(LIBRARIES),
        task=info.pipeline_tag or "",
        architectures=tuple(map(str, config.get("architectures") or ())),
        files=tuple(
            RepositoryFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else "", file.blob_id or "")
            for file in info.siblings or ()
        ),
        remote_code="custom_code" in words or "auto_map" in config,
        gate=Gate.OPEN if not info.gated else Gate.AUTOMATIC if info.gated == "auto" else Gate.MANUAL,
        private=bool(info.private),
        disabled=bool(info.disabled),
    )

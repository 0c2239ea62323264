"""The catalog's adapter on the hub of tests: what it takes, what it refuses, and how long it waits."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from services.catalog.domain.errors import (
    HubContentChanged,
    HubModelGated,
    HubModelNotEligible,
    HubModelNotFound,
    HubUnavailable,
)
from services.catalog.sources.hub.client import HubBounds, hub_session
from services.catalog.sources.hub.files import HubFile, HubFiles
from services.catalog.sources.hub.hub import Hub, HubLimits, HubSource
from tests.infra.hub_models import (
    GGUF_FILE,
    LICENSED_TOKEN,
    MINILM,
    SMOLLM2,
    content_of,
    gated,
    mamba,
    many,
    minilm,
    small_encoder,
    smollm2,
)
from tests.infra.hub_repositories import Repository
from tests.infra.hub_server import Fault, HubServer, hub_server

BOUNDS = HubBounds(timeout_s=1, attempts_max=4, wait_s_first=0.01, wait_s_max=2)
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_BYTES = 90868376


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server(minilm(), smollm2(), mamba(), gated(), *many(3), page_max=2) as hub:
        yield hub


@pytest.fixture
def hub_at(server: HubServer) -> HubServer:
    server.forget()
    return server


@pytest_asyncio.fixture
async def files() -> AsyncIterator[HubFiles]:
    with hub_session(BOUNDS):
        held = HubFiles(BOUNDS)
        yield held
        await held.close()


def hub(server: HubServer, files: HubFiles, token: str = "", limits: HubLimits | None = None, **source: str) -> Hub:
    given = HubSource(endpoint=server.endpoint, credential="hub-token" if token else "", **source)
    return Hub(given, lambda: token, files, BOUNDS, limits or HubLimits())


async def test_the_list_goes_through_all_pages_and_says_what_is_not_taken(hub_at: HubServer, files: HubFiles) -> None:
    odd = small_encoder("acme/remote", config={"auto_map": {"AutoModel": "modeling.Model"}})
    hub_at.add(odd)
    listed = {one.id: one for one in await hub(hub_at, files, author="acme").list()}
    del hub_at.repositories["acme/remote"]
    assert set(listed) == {
        "acme/remote",
        "acme/mamba-130m",
        "acme/gated-encoder",
        *(f"acme/encoder-00{n}" for n in range(3)),
    }
    assert [one.reason for one in listed["acme/remote"].obstacles] == ["REMOTE_CODE"]
    assert listed["acme/mamba-130m"].obstacles == ()
    assert listed["acme/mamba-130m"].revision == hub_at.repositories["acme/mamba-130m"].commits[-1].sha
    assert len(hub_at.seen("list")) == 3


async def test_a_list_ends_at_its_limit(hub_at: HubServer, files: HubFiles) -> None:
    assert len(await hub(hub_at, files, limits=HubLimits(models_max=3)).list()) == 3
    assert len(hub_at.seen("list")) == 2


async def test_minilm_is_served_from_its_safetensors(hub_at: HubServer, files: HubFiles) -> None:
    record = (await hub(hub_at, files).describe(MINILM)).record
    (version,) = record.versions
    sha = hub_at.repositories[MINILM].commits[-1].sha
    assert (record.publisher, record.model, record.hub_id) == ("sentence-transformers", "all-MiniLM-L6-v2", MINILM)
    assert (record.license.id, record.languages, record.tasks) == ("Apache-2.0", ("en",), ("EMBEDDINGS",))
    assert (record.usability, record.deployment_options) == ("RUNS_HERE", ("MANAGED",))
    assert record.parameter_count == 22713728
    assert record.sources[0].location == f"{hub_at.endpoint}/{MINILM}/tree/{sha}"
    assert version.version == sha[:12]
    assert version.serving is not None
    assert (version.serving["engine"], version.serving["context_tokens"]) == ("safetensors", 256)
    named = {file.name: file for file in version.artifacts}
    assert (named["model.safetensors"].sha256, named["model.safetensors"].size_bytes) == (MINILM_SHA256, MINILM_BYTES)
    config = content_of(hub_at.repositories[MINILM], "config.json")
    assert named["config.json"].sha256 == hashlib.sha256(config).hexdigest()
    assert named["config.json"].uri == f"hub:{hub_at.endpoint}/{MINILM}/resolve/{sha}/config.json"


async def test_smollm2_is_served_from_the_head_of_its_gguf(hub_at: HubServer, files: HubFiles) -> None:
    described = await hub(hub_at, files).describe(SMOLLM2)
    (version,) = described.record.versions
    assert described.record.tasks == ("CHAT_COMPLETION", "TEXT_GENERATION")
    assert [file.name for file in version.artifacts] == [GGUF_FILE]
    assert version.serving is not None
    assert "<|im_start|>" in version.serving["chat_template"]
    assert [request.range for request in hub_at.seen("cdn")] == [f"bytes=0-{(64 << 20) - 1}"]
    assert [(score.metric, score.value, score.shots) for score in described.scores] == [("acc_norm", "40.9", "0")]
    assert described.dropped == {"no number of shots": 1}


async def test_a_model_that_no_engine_runs_is_listed_with_its_architecture(hub_at: HubServer, files: HubFiles) -> None:
    record = (await hub(hub_at, files).describe("acme/mamba-130m")).record
    assert (record.usability, record.versions[0].serving) == ("NEEDS_HARDWARE", None)
    assert record.versions[0].architecture == "MambaForCausalLM"
    assert record.usability_detail.startswith("architecture 'MambaForCausalLM' is run by no engine here: llamacpp runs")
    assert [file.name for file in record.versions[0].artifacts] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("token", ["", "hf_other"])
async def test_what_is_behind_a_gate_is_listed_and_says_what_it_takes(
    hub_at: HubServer, files: HubFiles, token: str
) -> None:
    record = (await hub(hub_at, files, token).describe("acme/gated-encoder")).record
    assert (record.usability, record.versions[0].artifacts) == ("NEEDS_PROVIDER_CREDENTIAL", ())
    assert record.usability_detail.startswith(
        f"gated: its owner admits people one by one at {hub_at.endpoint}/acme/gated-encoder, and its source here needs"
    )
    assert (record.license.id, record.languages) == ("Apache-2.0", ("en",))


async def test_an_admitted_token_opens_the_gate(hub_at: HubServer, files: HubFiles) -> None:
    record = (await hub(hub_at, files, LICENSED_TOKEN).describe("acme/gated-encoder")).record
    assert "gated" not in record.usability_detail
    assert record.versions[0].artifacts[0].uri.endswith("?credential=hub-token")
    assert LICENSED_TOKEN not in str(record)


async def test_every_reason_against_a_model_is_named_at_once(hub_at: HubServer, files: HubFiles) -> None:
    odd = small_encoder("acme/odd", config={"auto_map": {"AutoModel": "x"}}, card="pipeline_tag: text-to-image\n")
    hub_at.add(odd)
    with pytest.raises(HubModelNotEligible, match=r"text-to-image; models for .*; it runs code of its own") as refused:
        await hub(hub_at, files).describe("acme/odd")
    del hub_at.repositories["acme/odd"]
    assert refused.value.metadata == {"reasons": "TASK_NOT_SUPPORTED,REMOTE_CODE"}


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("acme/none", "", "acme/none is not at http.*, or is private"),
        (MINILM, "0" * 40, "has no such revision"),
        ("no/such/name", "", "is no model of a hub; ORG/NAME is"),
    ],
)
async def test_what_is_not_there_is_named(
    hub_at: HubServer, files: HubFiles, model: str, revision: str, message: str
) -> None:
    with pytest.raises(HubModelNotFound, match=message):
        await hub(hub_at, files).describe(model, revision)


async def test_an_older_commit_has_its_own_version_before_the_newest(hub_at: HubServer, files: HubFiles) -> None:
    twice = small_encoder("acme/twice")
    first = twice.commits[0].sha
    twice.commit({**{name: content_of(twice, name) for name in twice.commits[0].files}, "vocab.txt": b"x"})
    hub_at.add(twice)
    old = (await hub(hub_at, files).describe("acme/twice", first)).record.versions[0]
    new = (await hub(hub_at, files).describe("acme/twice")).record.versions[0]
    del hub_at.repositories["acme/twice"]
    assert (old.version, old.position < new.position) == (first[:12], True)


async def test_a_card_that_is_too_large_is_refused_with_both_sizes(hub_at: HubServer, files: HubFiles) -> None:
    with pytest.raises(HubContentChanged, match=r"'README\.md' of .* has 10454 bytes; at most 1000 are read"):
        await hub(hub_at, files, limits=HubLimits(card_bytes_max=1000)).describe(MINILM)


async def test_a_small_file_with_other_bytes_is_refused(hub_at: HubServer, files: HubFiles) -> None:
    hub_at.fail_next("resolve", Fault(), Fault(wrong_at=3))
    with pytest.raises(HubContentChanged, match=r"'README\.md' .* came with another digest"):
        await hub(hub_at, files).describe(MINILM)


async def test_a_busy_hub_is_waited_for_as_it_asks(hub_at: HubServer, files: HubFiles) -> None:
    hub_at.fail_next("info", Fault(status=429, retry_after_s=0), Fault(status=503))
    hub_at.fail_next("list", Fault(status=429, retry_after_s=0))
    assert (await hub(hub_at, files).describe("acme/encoder-000")).record.hub_id == "acme/encoder-000"
    assert await hub(hub_at, files).list()
    assert len(hub_at.seen("info")) == 3


async def test_a_hub_that_asks_for_too_long_is_given_up_at_once(hub_at: HubServer, files: HubFiles) -> None:
    hub_at.fail_next("info", Fault(status=429, retry_after_s=3600))
    with pytest.raises(HubUnavailable, match=r"answers 429 and asks to wait 3600 s; at most 2 s are waited") as refused:
        await hub(hub_at, files).describe(MINILM)
    assert refused.value.retry_after_s == 3600
    assert len(hub_at.seen("info")) == 1


@pytest.mark.parametrize("kind", ["info", "list"])
async def test_a_silent_hub_is_given_up(hub_at: HubServer, files: HubFiles, kind: str) -> None:
    bounds = HubBounds(timeout_s=0.1, attempts_max=2, wait_s_first=0.01)
    hub_at.fail_next(kind, Fault(hang=True), Fault(hang=True))
    asked = hub(hub_at, files)
    with hub_session(bounds), pytest.raises(HubUnavailable, match=r"does not answer \(ReadTimeout\), 2 times in a row"):
        await (asked.list() if kind == "list" else asked.describe(MINILM))


@pytest.mark.parametrize("kind", ["info", "list"])
async def test_what_is_no_hub_is_told(hub_at: HubServer, files: HubFiles, kind: str) -> None:
    """A proxy's page, or a server of something else, under the address."""
    hub_at.fail_next(kind, Fault(status=200))
    asked = hub(hub_at, files)
    with pytest.raises(HubUnavailable, match="answers what no hub answers; check the address"):
        await (asked.list() if kind == "list" else asked.describe(MINILM))


async def test_a_gguf_for_vectors_is_listed_and_not_run(hub_at: HubServer, files: HubFiles) -> None:
    """llama.cpp generates text here; its calls are no embeddings."""
    vectors = Repository("acme/vectors")
    vectors.commit({"README.md": b"---\npipeline_tag: feature-extraction\n---\n", "q/a b.Q4_0.gguf": b"GGUF"})
    hub_at.add(vectors)
    record = (await hub(hub_at, files).describe("acme/vectors")).record
    del hub_at.repositories["acme/vectors"]
    assert record.usability_detail == "its GGUF is for feature-extraction; GGUF files are run to generate text"
    (artifact,) = record.versions[0].artifacts
    assert (artifact.name, artifact.uri.endswith("/q/a%20b.Q4_0.gguf")) == ("a-b.Q4_0.gguf", True)


async def test_a_hub_that_is_away_is_named(files: HubFiles) -> None:
    nowhere = Hub(HubSource(endpoint="http://127.0.0.1:9"), lambda: "", files, BOUNDS, HubLimits())
    with pytest.raises(HubUnavailable, match=r"the hub at http://127\.0\.0\.1:9 does not answer \(ConnectError\)"):
        await nowhere.describe(MINILM)


def weights(server: HubServer, **changes: str) -> HubFile:
    revision = server.repositories[MINILM].commits[-1].sha
    given = {"endpoint": server.endpoint, "repository": MINILM, "revision": revision, "path": "model.safetensors"}
    return HubFile(**{**given, **changes})


async def read(files: HubFiles, file: HubFile, *, offset: int = 0, token: str = "", size: int = MINILM_BYTES) -> bytes:
    pieces = files.read(file, token, offset=offset, size_bytes=size, sha256=MINILM_SHA256)
    return b"".join([piece async for piece in pieces])


async def test_a_file_comes_from_any_place_on(hub_at: HubServer, files: HubFiles) -> None:
    whole = content_of(hub_at.repositories[MINILM], "model.safetensors")
    assert await read(files, weights(hub_at), offset=MINILM_BYTES - 1000) == whole[-1000:]
    assert await read(files, weights(hub_at), offset=MINILM_BYTES) == b""
    assert len(hub_at.seen("cdn")) == 1


async def test_what_interrupts_a_file_does_not_show(hub_at: HubServer, files: HubFiles) -> None:
    """A cut connection, a busy CDN, a link that has run out, and a server that knows no ranges."""
    hub_at.fail_next(
        "cdn",
        Fault(cut_after=30 << 20),
        Fault(status=503),
        Fault(status=403),
        Fault(ignore_range=True, cut_after=60 << 20),
    )
    hub_at.fail_next("resolve", Fault(status=429, retry_after_s=0))
    content = await read(files, weights(hub_at), token="hf_secret")
    assert hashlib.sha256(content).hexdigest() == MINILM_SHA256
    assert [request.range.partition("-")[0] for request in hub_at.seen("cdn")] == [
        "bytes=0",
        "bytes=31457280",
        "bytes=31457280",
        "bytes=31457280",
        "bytes=62914560",
    ]
    assert {request.token for request in hub_at.seen("cdn")} == {""}
    assert {request.token for request in hub_at.seen("resolve")} == {"hf_secret"}


async def test_a_cdn_that_stays_silent_is_given_up(hub_at: HubServer, files: HubFiles) -> None:
    hub_at.fail_next("cdn", *[Fault(status=500)] * 4)
    with pytest.raises(HubUnavailable, match=r"answers 500, 4 times in a row"):
        await read(files, weights(hub_at))


async def test_another_file_under_the_name_is_refused_before_a_byte_comes(hub_at: HubServer, files: HubFiles) -> None:
    with pytest.raises(HubContentChanged, match="has 90868376 bytes now, 5 before"):
        await read(files, weights(hub_at), size=5)
    with pytest.raises(HubContentChanged, match=f"has digest {MINILM_SHA256} now, 00"):
        async for _ in files.read(weights(hub_at), "", offset=0, size_bytes=MINILM_BYTES, sha256="0" * 64):
            pass
    assert hub_at.seen("cdn") == []


async def test_files_behind_a_gate_stay_there(hub_at: HubServer, files: HubFiles) -> None:
    repository = hub_at.repositories["acme/gated-encoder"]
    file = weights(hub_at, repository=repository.id, revision=repository.commits[-1].sha, path="config.json")
    with pytest.raises(
        HubModelGated, match=r"is gated at .*: accept its terms at .*/acme/gated-encoder with an account"
    ):
        await read(files, file, size=100)


def test_a_uri_holds_all_it_takes_and_no_token() -> None:
    file = HubFile("https://hub.example/mirror", "acme/model", "a" * 40, "sub/my file.gguf", "main-token")
    assert (
        file.uri
        == f"hub:https://hub.example/mirror/acme/model/resolve/{'a' * 40}/sub/my%20file.gguf?credential=main-token"
    )
    assert HubFile.from_uri(file.uri) == file
    with pytest.raises(ValueError, match="names no file of a hub"):
        HubFile.from_uri("file:///etc/passwd")

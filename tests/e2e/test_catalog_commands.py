"""What operators do with the catalog, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from services.catalog.sources.content_files import SHIPPED
from tests.infra.up import Up, running_up
from tests.integration.catalog.assets import an_asset


def write_folder(folder: Path, assets: dict[str, dict[str, Any]]) -> None:
    for name, asset in assets.items():
        (folder / name).mkdir(parents=True)
        spec = {key: value for key, value in asset.items() if not key.startswith("_")}
        (folder / name / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        (folder / name / "description.md").write_text(asset["_description_md"])


def test_assets_are_imported_once_and_exported_again(up: Up, tmp_path: Path) -> None:
    """From a folder or from what was exported; what is wrong is told by file, field and reason."""
    good = {name: an_asset(name=f"e2e-{name}", _path=name) for name in ("a", "b")}
    write_folder(tmp_path / "assets", {**good, "c": an_asset(version="new"), "d": an_asset()})
    with (tmp_path / "assets" / "d" / "description.md").open("wb") as card:
        card.truncate(50 * 1024 * 1024)
    folder = str(tmp_path / "assets")
    told = json.loads(up.run("catalog", "import", "azureml-assets", folder, "--json", status=1).stdout)
    assert (told["imported"], told["unchanged"]) == (2, 0)
    assert [(one["path"], one["field"]) for one in told["failed"]] == [
        ("d/description.md", "_description_md"),
        ("c/spec.yaml", "version"),
    ]
    exported = up.run("catalog", "export").stdout
    assert [json.loads(line) for line in exported.splitlines()] == list(good.values())
    lines = tmp_path / "exported.jsonl"
    lines.write_text(exported)
    again = up.json("catalog", "import", "azureml-assets", str(lines))
    assert again == {"imported": 0, "unchanged": 2, "failed": []}
    shown = up.json("models", "show", "e2e-a")["model"]
    assert (shown["card"], shown["source"]) == (good["a"]["_description_md"], "import")


def test_reviewed_models_of_a_folder_are_previewed_taken_and_run(tmp_path: Path) -> None:
    """A mistake is told by lint before it is put in place, and by the sync where it was not asked."""
    # A platform of its own: on the shared one every model that runs has a price.
    with running_up(tmp_path / "home") as up:
        _review_a_folder(up, tmp_path)


def _review_a_folder(up: Up, tmp_path: Path) -> None:
    shipped = next(
        model
        for model in yaml.safe_load((SHIPPED / "models" / "sentence-transformers.yaml").read_text())["models"]
        if model["id"] == "all-minilm-l6-v2"
    )
    good = {**shipped, "publisher": "house", "id": "reviewed-minilm"}
    file = up.home / "curated" / "house" / "models" / "house.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"models": [good, {**good, "id": "wrong", "license": 7}]}))
    assert "models.1.license" in up.run("catalog", "lint", str(file.parents[1]), status=1).stdout
    source_file = tmp_path / "house.yaml"
    source = {"name": "house", "collection": "curated", "interval_s": 60, "curated": {"folder": "house"}}
    source_file.write_text(yaml.safe_dump(source))
    preview = up.json("catalog", "sources", "apply", str(source_file), "--preview")
    assert [(one["model"], one["change"]) for one in preview["changes"]] == [
        ("publishers/house/models/reviewed-minilm", "added")
    ]
    run = up.json("catalog", "sources", "apply", str(source_file))["last_run"]
    assert (run["state"], run["counts"]["added"], run["counts"]["failed"]) == ("SYNC_STATE_SUCCEEDED", "1", "1")
    (failure,) = up.json("catalog", "sources", "show", "house")["last_run"]["failures"]
    assert (failure["model"], failure["field"]) == ("house/wrong", "models.1.license")
    up.run("project", "create", "house")
    told = up.json("catalog", "verify", "reviewed-minilm", "--project", "house")
    assert (told["verified"], told["configuration"]["engine"]) == (True, "onnx")


def test_models_are_searched(up: Up) -> None:
    """By misspelt words, narrowed and counted; a short name finds its model, and a slip is answered with names."""
    runs_here = ("--filter", "usability=runs-here", "--filter", "license in apache-2.0, mit")
    found = up.json("models", "search", "smolm2 instrct", *runs_here, "--facet", "collection")
    assert found["results"][0]["model"]["name"] == "publishers/huggingfacetb/models/smollm2-135m-instruct"
    assert found["suggestions"][0] == "smollm 2 instruct"
    assert sum(int(one["count"]) for one in found["facet_counts"][0]["values"]) == int(found["total_count"])
    assert "did you mean" in up.run("models", "search", "smolm2 instrct", *runs_here).stdout
    refused = up.run("models", "search", "--filter", "colour=red", status=1)
    assert "there are collection, publisher, license" in refused.stderr
    assert "smollm2-135m-instruct" in up.run("models", "show", "smollm2-135m-instrct", status=2).stderr


def test_a_model_is_verified_on_a_deployment_of_its_own(up: Up) -> None:
    """Its card's sample answers as stated, and nothing is left of the deployment."""
    up.run("project", "create", "verify")
    told = up.json("catalog", "verify", "all-minilm-l6-v2", "--project", "verify")
    (sample,) = told["samples"]
    assert (told["verified"], sample["path"], sample["differences"]) == (True, "/embeddings", [])
    assert told["configuration"]["engine"] == "onnx"
    assert told["configuration"]["instance_type"] == "local-1"
    assert up.json("endpoints", "--project", "verify") == []

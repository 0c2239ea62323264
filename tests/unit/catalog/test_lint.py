"""`modelyard catalog lint` finds every mistake of a folder at once, and says where each one stands."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from services.catalog.domain.replacements import replacement_cycles
from services.catalog.sources.content_files import SHIPPED, check_content
from tests.integration.catalog.build import a_model, a_type, a_version, listed_only, write_content


def replaced(model_id: str, by: str) -> dict[str, Any]:
    versions = [{"version": "1", "lifecycle": {"retirement": date(2026, 1, 1), "replacement": f"acme/{by}"}}]
    return listed_only(model_id, versions=versions)


def reasons(folder: Path) -> list[str]:
    return [finding.reason for finding in check_content(folder)[1]]


def test_every_mistake_is_found_at_once(tmp_path: Path) -> None:
    """Of every file, not only the first."""
    write_content(tmp_path, a_model(colour="red"), a_model("mute", display_name=7, card=None), types=[{"id": "a b"}])
    fields = {(finding.file, finding.field) for finding in check_content(tmp_path)[1]}
    assert fields == {
        ("instance_types.yaml", "instance_types.0.id"),
        ("instance_types.yaml", "instance_types.0.source"),
        ("models/acme.yaml", "models.0.colour"),
        ("models/acme.yaml", "models.1.card"),
        ("models/acme.yaml", "models.1.display_name"),
    }


def test_a_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    """The line of the key, or of the thing that lacks one."""
    write_content(tmp_path)
    (tmp_path / "models" / "acme.yaml").write_text(
        "models:\n  - id: talker\n    publisher: acme\n    tasks: [SINGING]\n"
    )
    lines = {finding.field: finding.line for finding in check_content(tmp_path)[1]}
    assert lines["models.0.tasks.0"] == 4
    assert lines["models.0.license"] == 2


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    """YAML would let the later one win in silence."""
    write_content(tmp_path)
    (tmp_path / "models" / "acme.yaml").write_text("models: []\nmodels: []\n")
    (finding,) = check_content(tmp_path)[1]
    assert (finding.line, "'models' stands twice" in finding.reason) == (2, True)


def test_replacements_in_a_circle_are_a_mistake(tmp_path: Path) -> None:
    """The way round is told."""
    write_content(tmp_path, replaced("a", "b"), replaced("b", "c"), replaced("c", "a"), replaced("d", "a"))
    assert reasons(tmp_path) == ["replacements go in a circle: acme/a → acme/b → acme/c → acme/a"]


def test_a_replacement_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """Whoever follows it finds nothing."""
    write_content(tmp_path, replaced("a", "nothing"))
    assert reasons(tmp_path) == ["model acme/a: replacement 'acme/nothing' is not in the content"]


@pytest.mark.parametrize(
    ("replaced_by", "cycles"),
    [
        ({}, []),
        ({"a": "b", "b": "c"}, []),
        ({"a": "a"}, [["a", "a"]]),
        ({"z": "b", "b": "a", "a": "b"}, [["a", "b", "a"]]),
        ({"a": "b", "b": "a", "c": "d", "d": "c"}, [["a", "b", "a"], ["c", "d", "c"]]),
    ],
)
def test_every_circle_is_found_once(replaced_by: dict[str, str], cycles: list[list[str]]) -> None:
    """Whichever way leads into it."""
    assert replacement_cycles(replaced_by) == cycles


@pytest.mark.parametrize(
    "shape",
    [
        {"vcpus": 0, "provider": "local"},
        {"memory_gib": 0, "provider": "local"},
        {"gpu_count": 1},
        {"gpu_model": "T4"},
    ],
)
def test_a_shape_that_is_half_said_is_a_mistake(tmp_path: Path, shape: dict[str, Any]) -> None:
    """What is offered here has cores and memory; accelerators have a number and a name."""
    write_content(tmp_path, types=[{**a_type("odd"), **shape}])
    assert reasons(tmp_path)


def test_a_shape_may_be_unpublished(tmp_path: Path) -> None:
    """Such a type is listed only."""
    write_content(tmp_path, types=[{"id": "big-8", "source": a_type("any")["source"]}])
    content, findings = check_content(tmp_path)
    assert not findings
    assert content is not None
    assert content.instance_types[0].vcpus == 0


def test_the_command_lists_mistakes_and_fails(tmp_path: Path) -> None:
    """As one JSON document on request."""
    write_content(tmp_path, a_model(versions=[a_version("latest")]))
    done = CliRunner().invoke(app, ["catalog", "lint", str(tmp_path), "--json"])
    (finding,) = json.loads(done.stdout)["findings"]
    assert (done.exit_code, finding["file"], finding["field"]) == (1, "models/acme.yaml", "models.0.versions.0.version")
    assert finding["line"] > 0


def test_a_folder_of_models_alone_is_checked_as_its_source_reads_it(tmp_path: Path) -> None:
    """Without collections and types of hardware of its own."""
    write_content(tmp_path, listed_only("good"), listed_only("bad", colour="red"))
    for name in ("collections.yaml", "instance_types.yaml"):
        (tmp_path / name).unlink()
    done = CliRunner().invoke(app, ["catalog", "lint", str(tmp_path), "--json"])
    said = json.loads(done.stdout)
    (finding,) = said["findings"]
    assert (done.exit_code, finding["field"], said["models"], said["publishers"]) == (1, "models.1.colour", 1, 1)
    assert finding["line"] > 0
    write_content(tmp_path, listed_only("good"))
    for name in ("collections.yaml", "instance_types.yaml"):
        (tmp_path / name).unlink()
    done = CliRunner().invoke(app, ["catalog", "lint", str(tmp_path)])
    assert (done.exit_code, "1 models of 1 publishers, nothing to mend" in done.stdout) == (0, True)


def test_the_command_needs_no_platform(tmp_path: Path) -> None:
    """The shipped content has nothing to mend."""
    done = CliRunner().invoke(app, ["--data-dir", str(tmp_path), "catalog", "lint", "--json"])
    said = json.loads(done.stdout)
    assert (done.exit_code, said["findings"], said["folder"]) == (0, [], str(SHIPPED))


def test_the_schema_of_a_file_is_one_command() -> None:
    """For editors."""
    done = CliRunner().invoke(app, ["catalog", "schema", "instance-types"])
    assert json.loads(done.stdout)["properties"]["instance_types"]["type"] == "array"

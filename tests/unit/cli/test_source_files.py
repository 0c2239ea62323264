"""A source as an operator writes it down."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelyard.catalog.v1 import providers_pb2

from cli.commands.catalog_sources import read_source
from cli.session import UsageMistake

AZURE = """
name: azure-east
collection: azure-openai
interval_s: 3600
include: ["gpt-*"]
provider:
  kind: AZURE_OPENAI
  base_url: https://acme.openai.azure.com
  api_version: 2024-10-21
  publisher: openai
  deployments: {gpt-4o: ours}
terms: {id: Acme terms, acceptance_required: true}
"""


def test_a_source_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Prefixes may be left out, and quotes around what looks like a day."""
    file = tmp_path / "source.yaml"
    file.write_text(AZURE)
    source = read_source(file)
    assert (source.name, source.collection, source.provider.publisher) == (
        "sources/azure-east",
        "collections/azure-openai",
        "publishers/openai",
    )
    assert source.provider.kind == providers_pb2.PROVIDER_KIND_AZURE_OPENAI
    assert (source.provider.api_version, source.interval_s, source.terms.acceptance_required) == (
        "2024-10-21",
        3600,
        True,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "is not one source with a name"),
        ("collection: far\n", "is not one source with a name"),
        ("name: [a\n", "is not YAML"),
        (AZURE + "colour: red\n", "colour"),
        (AZURE.replace("interval_s: 3600", "interval_s: often"), "interval"),
        (AZURE.replace("AZURE_OPENAI", "AZURE"), "PROVIDER_KIND_AZURE"),
    ],
)
def test_a_mistake_names_the_file_and_the_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "source.yaml"
    file.write_text(text)
    with pytest.raises(UsageMistake, match=message) as mistake:
        read_source(file)
    assert str(file) in str(mistake.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageMistake, match=r"absent\.yaml cannot be read"):
        read_source(tmp_path / "absent.yaml")


def test_a_hub_needs_no_filter(tmp_path: Path) -> None:
    """`hub:` alone stands for the platform's own hub, all of it."""
    file = tmp_path / "hub.yaml"
    file.write_text("name: community\ncollection: hugging-face\nhub:\n")
    assert read_source(file).WhichOneof("kind") == "hub"

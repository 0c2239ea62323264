"""Published assets are found on this machine: folders, lines, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.assets import FILE_BYTES_MAX, FoundAsset, UnreadableAsset, find_assets
from cli.session import UsageMistake


def spec(folder: Path, text: str, **companions: str) -> None:
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(text)
    for name, content in companions.items():
        (folder / f"{name}.md").write_text(content)


def test_a_folder_is_read_with_its_texts(tmp_path: Path) -> None:
    """Under the keys that the lines have; moments stay as they are written."""
    text = "name: a\nversion: 3\nsystem_metadata:\n  notes: notes.md\n  deprecation: {inferenceLegacyDate: 2026-01-01T00:00:00Z}\n"
    spec(tmp_path / "system" / "a", text, description="# A", notes="Careful.")
    (found,) = find_assets(tmp_path)
    assert isinstance(found, FoundAsset)
    assert found.path == "system/a/spec.yaml"
    assert json.loads(found.document) == {
        "name": "a",
        "version": 3,
        "system_metadata": {"notes": "notes.md", "deprecation": {"inferenceLegacyDate": "2026-01-01T00:00:00Z"}},
        "_path": "system/a",
        "_description_md": "# A",
        "_notes_md": "Careful.",
    }


def test_lines_are_called_by_their_folder_or_their_number(tmp_path: Path) -> None:
    """What is no JSON is sent too: the platform says what is wrong with it."""
    lines = tmp_path / "assets.jsonl"
    lines.write_text('{"_path": "models/a", "name": "a"}\n\n{"name": "b"}\n{"name\n')
    found = list(find_assets(lines))
    assert [one.path for one in found] == ["models/a", "assets.jsonl:3", "assets.jsonl:4"]
    assert isinstance(found[0], FoundAsset)
    assert found[0].document == b'{"_path": "models/a", "name": "a"}'


def test_what_cannot_be_sent_is_said_by_file(tmp_path: Path) -> None:
    """And the others are found."""
    spec(tmp_path / "a", "name: a")
    spec(tmp_path / "alias", "name: &x a\npath: *x")
    spec(tmp_path / "broken", "name: [")
    spec(tmp_path / "card", "name: b")
    with (tmp_path / "card" / "description.md").open("wb") as card:
        card.truncate(50 * 1024 * 1024)
    spec(tmp_path / "list", "- a")
    found = list(find_assets(tmp_path))
    assert [type(one) is FoundAsset for one in found] == [True, False, False, False, False]
    card_found = found[3]
    assert isinstance(card_found, UnreadableAsset)
    assert (card_found.path, card_found.field) == ("card/description.md", "_description_md")
    assert card_found.reason == "has 52,428,800 bytes; 2,097,152 are allowed"


def test_a_line_without_an_end_is_not_kept(tmp_path: Path) -> None:
    """The line after it is read."""
    lines = tmp_path / "assets.jsonl"
    lines.write_bytes(b"x" * (3 * FILE_BYTES_MAX) + b'\n{"name": "b"}\n')
    large, small = find_assets(lines)
    assert isinstance(large, UnreadableAsset)
    assert f"{3 * FILE_BYTES_MAX + 1:,} bytes" in large.reason
    assert small.path == "assets.jsonl:2"


def test_a_companion_stays_in_its_folder(tmp_path: Path) -> None:
    """A spec names no file elsewhere."""
    (tmp_path / "secret.md").write_text("secret")
    spec(tmp_path / "a", "name: a\nsystem_metadata: {notes: ../secret.md}")
    (found,) = find_assets(tmp_path)
    assert isinstance(found, FoundAsset)
    assert b"_notes_md" not in found.document


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_not_there_is_a_mistake(tmp_path: Path, name: str) -> None:
    """The way out is named."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageMistake, match="JSON lines"):
        list(find_assets(tmp_path / name))

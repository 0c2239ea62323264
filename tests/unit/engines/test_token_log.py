"""The engine's own account of tokens."""

from __future__ import annotations

from pathlib import Path

from engines.token_log import TokenLog, read_token_log


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    log = TokenLog(tmp_path / "tokens.jsonl")
    log.write("a", input_tokens=3, output_tokens=5, end="stop")
    log.write("b", input_tokens=0, output_tokens=0, end="refused")
    log.close()
    lines = read_token_log(tmp_path / "tokens.jsonl")
    assert [(line["request_id"], line["input_tokens"], line["output_tokens"], line["end"]) for line in lines] == [
        ("a", 3, 5, "stop"),
        ("b", 0, 0, "refused"),
    ]


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens.jsonl"
    path.write_text('{"request_id": "a"}\n{"request_id": "b"')
    assert read_token_log(path) == [{"request_id": "a"}]


def test_no_path_writes_nothing(tmp_path: Path) -> None:
    TokenLog(None).write("a", input_tokens=1, output_tokens=1, end="stop")
    assert read_token_log(tmp_path / "none") == []

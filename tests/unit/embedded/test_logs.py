"""Log files stay within their bounds."""

from __future__ import annotations

from pathlib import Path

from embedded.logs import LogFiles


def test_each_process_has_its_file(tmp_path: Path) -> None:
    """Lines of different processes never mix."""
    logs = LogFiles(tmp_path / "logs")
    logs.write("deploy", "one")
    logs.write("nats", "two")
    logs.close()
    assert (tmp_path / "logs" / "deploy.log").read_text() == "one\n"
    assert (tmp_path / "logs" / "nats.log").read_text() == "two\n"


def test_a_full_file_makes_room_and_the_newest_lines_stay(tmp_path: Path) -> None:
    """Two files of the limit's size are kept, whatever is written."""
    logs = LogFiles(tmp_path, bytes_max=100)
    for number in range(1000):
        logs.write("deploy", f"line {number}")
    logs.close()
    newest, before = tmp_path / "deploy.log", tmp_path / "deploy.log.1"
    assert newest.stat().st_size <= 100
    assert before.stat().st_size <= 100
    assert newest.read_text().splitlines()[-1] == "line 999"


def test_the_next_start_appends(tmp_path: Path) -> None:
    """A restart does not wipe what led to it."""
    for line in ("before", "after"):
        logs = LogFiles(tmp_path)
        logs.write("deploy", line)
        logs.close()
    assert (tmp_path / "deploy.log").read_text() == "before\nafter\n"

"""Who is alive, and what is on disk."""

from __future__ import annotations

import os
from pathlib import Path

from services.deploy.compute.local import touch_lease
from services.deploy.compute.records import (
    Heartbeat,
    InstanceFolder,
    ProcessIdentity,
    folder_lock,
    keeper_alive,
    process_arguments,
    read_heartbeat,
    read_record,
    write_record,
)
from services.deploy.compute.settings import LocalSettings


def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_record(path) is None
    write_record(path, {"a": 1})
    write_record(path, {"b": 2}, durable=False)
    assert read_record(path) == {"b": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_the_last_heartbeat_is_read(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeat", fsync_interval_ms=10_000)
    heartbeat.beat(1_700_000_000_000)
    heartbeat.beat(1_700_000_000_999)
    assert read_heartbeat(tmp_path / "heartbeat") == 1_700_000_000_999
    assert read_heartbeat(tmp_path / "none") is None


def test_a_process_is_told_from_one_with_its_number() -> None:
    """Another start time, or another boot, is another process."""
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    assert me.alive()
    assert not ProcessIdentity(me.pid, me.start_ticks + 1, me.boot_id).alive()
    assert not ProcessIdentity(me.pid, me.start_ticks, "another boot").alive()


def test_a_keeper_has_its_instances_uid_among_its_arguments() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    started = {"keeper_pid": me.pid, "keeper_start_ticks": me.start_ticks, "boot_id": me.boot_id}
    assert not keeper_alive("some-uid", started)
    assert keeper_alive(process_arguments(me.pid)[0], started)


def test_one_holder_a_lock(tmp_path: Path) -> None:
    folder = InstanceFolder(tmp_path)
    with folder_lock(folder) as first, folder_lock(folder) as second:
        assert (first, second) == (True, False)
    with folder_lock(folder) as again:
        assert again


def test_settings_come_back_from_a_record_and_unknown_names_are_left_out(tmp_path: Path) -> None:
    settings = LocalSettings(tmp_path, tmp_path / "secret", lease_file=tmp_path / "lease", canary_interval_s=3.0)
    assert LocalSettings.from_record({**settings.to_record(), "of_another_version": 1}) == settings


def test_touching_the_lease_changes_its_time(tmp_path: Path) -> None:
    lease = tmp_path / "run" / "lease"
    touch_lease(lease)
    os.utime(lease, (1, 1))
    touch_lease(lease)
    assert lease.stat().st_mtime > 1

"""Limits of the local provider and its keepers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LocalSettings:
    """Where local instances live and when their keepers act.

    Attributes:
        instances_dir: One folder an instance, named by its uid.
        cluster_secret_file: Content from which each instance's secret is derived; readable by its owner only.
        host: Where Triton listens and is reached; its metrics stay on loopback.
        lease_file: The platform touches it every few seconds; None: instances live until they are terminated.
        lease_stale_s: Without a touch for this long, an instance ends itself.
        start_timeout_s: From Triton's start until it answers.
        load_timeout_s: One model load.
        load_idle_s: What of it may pass without use of a processor or a disk; such a load hangs, and Triton starts again.
        canary_timeout_s: One canary inference.
        canary_interval_s: Between canaries of a ready instance.
        check_interval_s: Between looks at processes, lease and memory, and between heartbeats.
        drain_s: What running calls get to finish when an instance is ended; it takes no new ones, and goes when none is left.
        stop_timeout_s: The same where nobody can wait for the end, since the platform is gone, and where nothing answers.
        restarts_max: Starts of Triton in `restart_window_s` before the instance fails.
        restart_window_s: See `restarts_max`.
        restart_backoff_s: Pause before the first new start; doubles with each.
        restart_backoff_max_s: Longest pause.
        heartbeat_fsync_s: Most that a heartbeat on disk may lag after a power loss.
        log_bytes_max: Size of one log file; two are kept.
        cgroup_parent: A cgroup v2 folder delegated to this user, for kernel limits; None: no cgroups are used.
        poll_interval_s: How often `watch` looks.
        keeper_start_timeout_s: How long `launch` waits for the keeper's first record.
        packages_dir: Folder with engines' packages that are not in the environment; None: there is none.
    """

    instances_dir: Path
    cluster_secret_file: Path
    host: str = "127.0.0.1"
    lease_file: Path | None = None
    lease_stale_s: float = 20.0
    start_timeout_s: float = 30.0
    load_timeout_s: float = 120.0
    load_idle_s: float = 20.0
    canary_timeout_s: float = 30.0
    canary_interval_s: float = 10.0
    check_interval_s: float = 1.0
    drain_s: int = 30
    stop_timeout_s: int = 5
    restarts_max: int = 5
    restart_window_s: float = 600.0
    restart_backoff_s: float = 0.5
    restart_backoff_max_s: float = 10.0
    heartbeat_fsync_s: float = 10.0
    log_bytes_max: int = 4 * 1024 * 1024
    cgroup_parent: Path | None = None
    poll_interval_s: float = 0.5
    keeper_start_timeout_s: float = 20.0
    packages_dir: Path | None = None

    def to_record(self) -> dict[str, Any]:
        """As JSON values."""
        record = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: str(value) if isinstance(value, Path) else value for name, value in record.items()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> LocalSettings:
        """Inverse of `to_record`; names of other versions are left out."""
        known = {item.name for item in fields(cls)}
        given = {name: value for name, value in record.items() if name in known}
        for name in ("instances_dir", "cluster_secret_file", "lease_file", "cgroup_parent", "packages_dir"):
            if given.get(name) is not None:
                given[name] = Path(given[name])
        return cls(**given)

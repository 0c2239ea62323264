"""Deploy's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings
from services.deploy.compute.settings import LocalSettings
from services.deploy.usecases.trials import TrialLimits


class DeploySettings(ServiceSettings):
    """`MODELYARD_DEPLOY_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_DEPLOY_")

    # Secret from which each instance's own is derived; mode 0600.
    cluster_secret_file: Path
    # The platform touches it; instances end themselves when it is old. Empty: they live until they are terminated.
    lease_file: Path | None = None
    # Without a touch for this long they end themselves, seconds.
    lease_stale_s: float = LocalSettings.lease_stale_s
    # End all instances at a clean stop; the next start allocates new ones.
    release_on_stop: bool = False
    # Name or address of this machine at which inference reaches instances; Triton listens there. Beyond loopback their
    # traffic is clear text, which needs insecure=true.
    instance_host: str = LocalSettings.host
    # What running calls get to finish when an instance is ended, whole seconds.
    instance_drain_s: int = LocalSettings.drain_s
    # From Triton's start until it answers, seconds.
    instance_start_timeout_s: float = LocalSettings.start_timeout_s
    # One model load, and what of it may pass without use of a processor or a disk, seconds.
    instance_load_timeout_s: float = LocalSettings.load_timeout_s
    instance_load_idle_s: float = LocalSettings.load_idle_s
    # How often a ready instance is asked whether its model answers, and how long one answer may take, seconds.
    instance_canary_interval_s: float = LocalSettings.canary_interval_s
    instance_canary_timeout_s: float = LocalSettings.canary_timeout_s
    # Starts of Triton within the window, seconds, before the instance fails.
    instance_restarts_max: int = LocalSettings.restarts_max
    instance_restart_window_s: float = LocalSettings.restart_window_s
    # Size of one log file of an instance, bytes; two are kept.
    instance_log_bytes_max: int = LocalSettings.log_bytes_max
    # Folder where the catalog unpacks the packages of models that are installed on demand; engines import theirs from
    # there. Empty: only what the environment has.
    packages_dir: Path | None = None
    # cgroup v2 folder delegated to this user, for kernel limits on instances.
    cgroup_parent: Path | None = None

    # Folder of weights that were pulled; empty: `weights` in the data folder.
    weights_dir: Path | None = None
    # What it may hold, bytes; files that no instance uses make room.
    weights_bytes_max: int = 64 * 1024**3
    # Attempts to pull a file, in a row and without a byte, before the instance's start fails.
    weights_attempts_max: int = 6
    # Longest wait for the next bytes of a pull, seconds.
    weights_silence_s_max: float = 30.0
    # Authorities of the catalog's HTTPS (PEM); empty: those of the system.
    weights_root_certificates_file: Path | None = None

    endpoints_per_project_max: int = 100
    deployments_per_endpoint_max: int = 20
    # Models of its own that one project may have on the shared pool.
    own_pools_per_project_max: int = 2
    # Instances on this platform, the pool's too.
    instances_max: int = 16
    # Models that can be tried at once without a deployment; each takes a pool instance.
    trials_max: int = TrialLimits.trials_max
    # How long a model that nobody tries any more stays callable for trials, seconds.
    trial_idle_s: float = TrialLimits.idle_s
    # Memory of all instances together, bytes.
    instances_memory_bytes_max: int = 32 * 1024**3

    # How often the loop looks without being woken, seconds.
    reconcile_s: float = 1.0
    # How often a living instance is published as seen, seconds.
    observe_s: float = 60.0
    # How long a pool that no deployment needs stays warm, seconds.
    pool_idle_s: float = 300.0
    # Instances that may end by themselves in a row before a deployment is FAILED.
    failed_starts_max: int = 3
    # How long the records and logs of an ended instance are kept, seconds.
    instance_records_keep_s: float = 86_400.0

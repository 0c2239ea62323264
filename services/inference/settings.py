"""Inference's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings
from services.inference.backends.templates import TemplateLimits
from services.inference.usecases.trials import TrialLimits


class InferenceSettings(ServiceSettings):
    """`MODELYARD_INFERENCE_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_INFERENCE_")

    # `host:port` of the REST face; port 0 takes a free one.
    rest_address: str = "127.0.0.1:0"
    # Secret from which each instance's own is derived; mode 0600.
    cluster_secret_file: Path
    # Largest request body over REST, bytes.
    body_bytes_max: int = 8 * 1024 * 1024
    # Largest request body with audio or images over REST, bytes.
    media_bytes_max: int = 25 * 1024 * 1024
    # Connections the REST face serves at once; further ones get 503.
    connections_max: int = 2000
    # Longest call, queueing included, seconds.
    call_s_max: float = 180.0
    # Longest wait for the next response of an instance or a provider, seconds.
    token_timeout_s: float = 60.0
    # Requests of one raw tensor stream that run side by side.
    raw_stream_calls_max: int = 16
    # Tries of models without a deployment, of one member of one project in a minute, in this process.
    trials_per_minute_max: int = TrialLimits.per_minute_max
    # Longest text of one, characters, and longest answer, tokens.
    trial_characters_max: int = TrialLimits.characters_max
    trial_file_bytes_max: int = TrialLimits.file_bytes_max
    trial_output_tokens_max: int = TrialLimits.output_tokens_max
    # Longest wait for an instance to try a model on, seconds.
    trial_start_s_max: float = TrialLimits.start_s_max
    # Chat templates of hubs' and projects' models are rendered apart: prompts at once, the longest time for one, seconds,
    # and the memory of one process, bytes.
    template_processes_max: int = TemplateLimits.processes_max
    template_render_s_max: float = TemplateLimits.render_s_max
    template_memory_bytes_max: int = TemplateLimits.memory_bytes_max
    # How long routes and keys serve without being confirmed, seconds.
    routes_stale_s_max: float = 86_400.0

    # Folder of the usage journal, on a disk that outlives the process; empty means `journal` in data_dir.
    journal_dir: Path | None = None
    # Size on disk at which new calls are refused, bytes.
    journal_bytes_max: int = 256 * 1024 * 1024
    journal_segment_bytes_max: int = 8 * 1024 * 1024
    # Settled entries that billing has not committed; as many refuse new calls.
    journal_entries_max: int = 200_000
    # Longest time between two commits while streams run, seconds.
    journal_commit_s: float = 0.05
    # Sent again when billing has not committed it after this long, seconds.
    usage_resend_s: float = 60.0

    # Folder of the keys of external providers, one a file named as routes name it, mode 0600. None: none can be called.
    provider_keys_dir: Path | None = None
    # Calls at once of each provider; further ones get 429.
    provider_calls_max: int = 100
    # Calls a minute of each provider; 0 allows any number.
    provider_calls_per_minute_max: int = 0
    # Longest time until a provider is reached, seconds.
    provider_connect_s_max: float = 5.0
    # Largest embedding answer of a provider, bytes.
    provider_answer_bytes_max: int = 64 * 1024 * 1024
    # Call providers beyond this machine in clear text.
    provider_insecure: bool = False
    # URL of a proxy on the way to providers; empty for none.
    provider_proxy: str = ""

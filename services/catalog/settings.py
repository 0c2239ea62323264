"""The catalog's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings
from chassis.web_address import WebAddressRefused, check_base_url
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.own.rules import OwnLimits
from services.catalog.domain.uploads import UploadLimits
from services.catalog.sources.content_files import SHIPPED
from services.catalog.sources.curated import CuratedBounds
from services.catalog.sources.hub.client import HubBounds
from services.catalog.sources.hub.hub import HubLimits


class CatalogSettings(ServiceSettings):
    """`MODELYARD_CATALOG_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_CATALOG_")

    # Folder of collections, publishers, models, licences and instance types (YAML).
    content_dir: Path = SHIPPED
    # A large import changes pages all over the file; the longer the log, the more of those changes go into it as one.
    database_cache_bytes: int = 32_000_000
    database_log_bytes: int = 256_000_000
    # Folder of the wheels that are installed on demand; deploy reads it too. Empty: `packages` in the data folder.
    packages_dir: Path | None = None
    # How often lifecycle dates are looked at, seconds.
    lifecycle_check_s: float = 60.0
    # Least days that the operators' content gives those who use a version: from becoming legacy, or from being told,
    # until it takes no new deployments, and from then until it answers nothing.
    legacy_notice_days: int = Field(default=Notice.legacy_days, ge=0)
    deprecated_notice_days: int = Field(default=Notice.deprecated_days, ge=0)
    # How many days ahead a change of a version is announced, as a JSON list; empty announces none.
    announce_days: tuple[Annotated[int, Field(ge=1, le=3660)], ...] = (90, 30, 7, 1)
    # Entries in each list of a project's policy.
    policy_entries_max: int = 200

    # Folder in which sources of kind curated find theirs; none without it. Its largest file, bytes, and models of one source.
    curated_dir: Path | None = None
    curated_file_bytes_max: int = CuratedBounds.file_bytes_max
    curated_models_max: int = CuratedBounds.models_max

    # Folder of the credentials of sources, one a file named as the source refers to it, mode 0600.
    source_keys_dir: Path | None = None
    # Base URL of the hub that models are imported from one by one; without it HF_ENDPOINT, else Hugging Face's own.
    hub_endpoint: str = Field(default_factory=lambda: os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    # Name of its token in source_keys_dir; empty shows none.
    hub_key_reference: str = ""
    # One connection to a hub and one wait for its bytes, seconds; how often it is asked, and how long it is waited for
    # where it wants to be left alone, seconds.
    hub_timeout_s: float = HubBounds.timeout_s
    hub_attempts_max: int = HubBounds.attempts_max
    hub_wait_s_max: float = HubBounds.wait_s_max
    # Models of one list of a hub.
    hub_models_max: int = HubLimits.models_max
    # A README or a configuration, a file that is read to have a digest, and the metadata of a GGUF file, bytes.
    hub_card_bytes_max: int = HubLimits.card_bytes_max
    hub_small_file_bytes_max: int = HubLimits.small_file_bytes_max
    hub_head_bytes_max: int = HubLimits.head_bytes_max
    # Longest input plus output that a text model of a hub is served with, tokens, and requests it decodes together.
    hub_context_tokens_max: int = HubLimits.context_tokens_max
    hub_slots: int = HubLimits.slots
    # Assets in one import call, their size in bytes, the length of each of their texts, and how deep their JSON nests.
    import_assets_max: int = 1000
    import_asset_bytes_max: int = 2 * 1024 * 1024
    import_card_characters_max: int = 256 * 1024
    import_depth_max: int = 16

    # `host:port` of the HTTP face, which serves files; port 0 takes a free one.
    http_address: str = "127.0.0.1:0"
    # Where others reach it, `https://host[:port]`, as signed addresses say it; empty: the address it listens on.
    http_url: str = ""
    # Key that signs download addresses, mode 0600, 32 random bytes at least; empty: one is made in the data folder.
    download_key_file: Path | None = None
    # Downloads at once, over HTTP and gRPC together; each holds 2 MiB while its client is slow.
    downloads_max: int = 64
    # Connections to the HTTP face at once; further ones get 503.
    connections_max: int = 500
    # Artifact store: `file:///folder` or `s3://bucket/prefix`; empty: `artifacts` in the data folder.
    store_url: str = ""
    # `https://host` of an S3-compatible service; empty: Amazon's own.
    s3_endpoint: str = ""
    s3_region: str = "us-east-1"
    # One line `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, mode 0600; empty: the machine's own identity or environment.
    s3_credential_file: Path | None = None
    # Longest single request to the store, retries included, seconds.
    store_request_s_max: float = 60.0
    # How much one search may ask for: characters and words of its query, filters, values of one filter, values a facet
    # is counted by.
    search_query_length_max: int = 512
    search_words_max: int = 24
    search_filters_max: int = 24
    search_filter_values_max: int = 100
    search_facet_values_max: int = 100
    # Names that come near are looked for where fewer models than this match; at most so many of them.
    search_near_below: int = 5
    search_near_max: int = 60
    # Characters of a card that can be found.
    search_card_length_max: int = 65_536
    # Searches at once; more wait. Each may have another thread to help it.
    search_threads: int = 2
    # How often the index looks for changes, seconds; models it reads at once; models, or seconds, after which a long
    # catch-up is made visible; as few are made visible at once, more when none has come for so long, seconds.
    search_poll_s: float = 0.5
    search_batch_models: int = 500
    search_commit_models: int = 20_000
    search_commit_s: float = 10.0
    search_commit_few_models: int = 100
    search_commit_quiet_s: float = 2.0
    # Memory of the index's writer, bytes, at least 15 MB.
    search_writer_bytes_max: int = 20_000_000
    # Least time between two times that a damaged index is built anew, seconds.
    search_rebuild_s_min: float = 600.0
    # How long the start waits until the index holds everything, seconds; then it says with each answer what it holds.
    search_start_s_max: float = 5.0
    # How often billing is asked for the prices that models are filtered and ordered by, seconds.
    prices_poll_s: float = 60.0
    # Ask sources beyond this machine in clear text.
    sources_insecure: bool = False
    # URL of a proxy on the way to sources; empty for none.
    sources_proxy: str = ""
    # How often it is looked for sources whose time has come, seconds.
    sources_check_s: float = 2.0
    # Sources synced at once.
    syncs_max: int = 2
    # Without a sign of life for this long, another replica goes on with a sync, seconds.
    sync_lease_s: float = 60.0
    # Longest sync, seconds.
    sync_s_max: float = 21_600.0
    # Runs of a source that stay readable.
    sync_runs_kept: int = 100
    # How long a model that left its source stays at least, seconds; one with deployments stays longer.
    withdrawn_keep_s: float = 86_400.0
    # Models that a preview looks at.
    preview_models_max: int = 5000
    # Models that one provider may list.
    provider_models_max: int = 20_000
    # Largest page of a provider's list, bytes.
    provider_page_bytes_max: int = 8 * 1024 * 1024
    # Longest reading of a provider's list, seconds.
    provider_list_s_max: float = 60.0
    # One file that a project uploads, and one part of it, bytes.
    upload_bytes_max: int = UploadLimits.file_bytes_max
    upload_part_bytes_max: int = UploadLimits.part_bytes_max
    # Uploads of one project that are not done.
    uploads_open_max: int = UploadLimits.open_max
    # An upload that nothing comes of for so long is given up, seconds.
    upload_idle_s: float = UploadLimits.idle_s
    # Files that are checked at once, and the longest look at one, seconds.
    upload_checks_max: int = 2
    upload_scan_s_max: float = 300.0
    # What one project may have in the store, bytes, and how long a file stays there that no version holds, seconds.
    project_bytes_max: int = UploadLimits.project_bytes_max
    unused_file_keep_s: float = UploadLimits.unused_s
    # Models of its own that a project may have, versions of one, and files of one version.
    project_models_max: int = OwnLimits.models_max
    model_versions_max: int = OwnLimits.versions_max
    version_files_max: int = OwnLimits.files_max
    # Longest input plus output of a project's own text models, tokens: where nothing is said, and at most; and how many
    # requests they decode together.
    own_context_tokens: int = 2048
    own_context_tokens_max: int = 131_072
    own_slots: int = 8

    @field_validator("hub_endpoint")
    @classmethod
    def _base_url(cls, url: str) -> str:
        try:
            return check_base_url(url)
        except WebAddressRefused as refused:
            raise ValueError(str(refused)) from None

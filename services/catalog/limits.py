"""What the settings bound, in the words of those who keep to it."""

from __future__ import annotations

from engines.architectures import RUN_BY
from services.catalog.artifacts.store import StoreSettings
from services.catalog.domain.lifecycle import Notice
from services.catalog.domain.own.describe import ServingLimits
from services.catalog.domain.own.rules import OwnLimits
from services.catalog.domain.search import Limits
from services.catalog.domain.uploads import UploadLimits
from services.catalog.settings import CatalogSettings
from services.catalog.sources.curated import CuratedBounds
from services.catalog.sources.hub.client import HubBounds
from services.catalog.sources.hub.hub import HubLimits
from services.catalog.sources.provider import ListingBounds
from services.catalog.usecases.project_search import ProjectionLimits
from services.catalog.usecases.search_models import NearLimits
from services.catalog.usecases.sync_sources import SyncLimits


def notice(settings: CatalogSettings) -> Notice:
    return Notice(settings.legacy_notice_days, settings.deprecated_notice_days)


def hub_bounds(settings: CatalogSettings) -> HubBounds:
    return HubBounds(settings.hub_timeout_s, settings.hub_attempts_max, wait_s_max=settings.hub_wait_s_max)


def hub_limits(settings: CatalogSettings) -> HubLimits:
    return HubLimits(
        models_max=settings.hub_models_max,
        card_bytes_max=settings.hub_card_bytes_max,
        small_file_bytes_max=settings.hub_small_file_bytes_max,
        head_bytes_max=settings.hub_head_bytes_max,
        context_tokens_max=settings.hub_context_tokens_max,
        slots=settings.hub_slots,
    )


def curated_bounds(settings: CatalogSettings) -> CuratedBounds:
    return CuratedBounds(settings.curated_file_bytes_max, settings.curated_models_max)


def provider_bounds(settings: CatalogSettings) -> ListingBounds:
    return ListingBounds(
        bytes_max=settings.provider_page_bytes_max,
        models_max=settings.provider_models_max,
        s_max=settings.provider_list_s_max,
    )


def sync_limits(settings: CatalogSettings) -> SyncLimits:
    return SyncLimits(
        check_s=settings.sources_check_s,
        syncs_max=settings.syncs_max,
        lease_s=settings.sync_lease_s,
        run_s_max=settings.sync_s_max,
        runs_kept=settings.sync_runs_kept,
        withdrawn_keep_s=settings.withdrawn_keep_s,
    )


def store_settings(settings: CatalogSettings) -> StoreSettings:
    return StoreSettings(
        url=settings.store_url or (settings.data_dir / "artifacts").absolute().as_uri(),
        s3_endpoint=settings.s3_endpoint,
        s3_region=settings.s3_region,
        s3_credential_file=settings.s3_credential_file,
        request_s_max=settings.store_request_s_max,
    )


def upload_limits(settings: CatalogSettings) -> UploadLimits:
    return UploadLimits(
        file_bytes_max=settings.upload_bytes_max,
        part_bytes_max=settings.upload_part_bytes_max,
        open_max=settings.uploads_open_max,
        project_bytes_max=settings.project_bytes_max,
        idle_s=settings.upload_idle_s,
        unused_s=settings.unused_file_keep_s,
    )


def own_limits(settings: CatalogSettings) -> OwnLimits:
    return OwnLimits(
        models_max=settings.project_models_max,
        versions_max=settings.model_versions_max,
        files_max=settings.version_files_max,
    )


def serving_limits(settings: CatalogSettings) -> ServingLimits:
    return ServingLimits(
        run_by=RUN_BY,
        context_tokens=settings.own_context_tokens,
        context_tokens_max=settings.own_context_tokens_max,
        slots=settings.own_slots,
    )


def search_limits(settings: CatalogSettings) -> Limits:
    return Limits(
        query_length_max=settings.search_query_length_max,
        words_max=settings.search_words_max,
        filters_max=settings.search_filters_max,
        filter_values_max=settings.search_filter_values_max,
        facet_values_max=settings.search_facet_values_max,
    )


def near_limits(settings: CatalogSettings) -> NearLimits:
    return NearLimits(settings.search_near_below, settings.search_near_max)


def projection_limits(settings: CatalogSettings) -> ProjectionLimits:
    return ProjectionLimits(
        poll_s=settings.search_poll_s,
        batch_models=settings.search_batch_models,
        commit_models=settings.search_commit_models,
        commit_s=settings.search_commit_s,
        commit_few_models=settings.search_commit_few_models,
        commit_quiet_s=settings.search_commit_quiet_s,
        card_length_max=settings.search_card_length_max,
        rebuild_s_min=settings.search_rebuild_s_min,
        threads=settings.search_threads,
        heap_bytes=settings.search_writer_bytes_max,
    )

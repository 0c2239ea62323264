"""The catalog's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings
from services.catalog.sources.content_files import SHIPPED


class CatalogSettings(ServiceSettings):
    """`MODELYARD_CATALOG_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_CATALOG_")

    # Folder of collections, publishers, models, licences and instance types (YAML).
    content_dir: Path = SHIPPED
    # How often lifecycle dates are looked at, seconds.
    lifecycle_check_s: float = 60.0
    # Entries in each list of a project's policy.
    policy_entries_max: int = 200

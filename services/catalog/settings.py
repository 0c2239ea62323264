"""The catalog's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class CatalogSettings(ServiceSettings):
    """`MODELYARD_CATALOG_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_CATALOG_")

    # Folder of collections, publishers, models, licences and instance types (YAML).
    content_dir: Path = Path(__file__).parent / "content"
    # How often lifecycle dates are looked at, seconds.
    lifecycle_check_s: float = 60.0

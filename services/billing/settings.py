"""Billing's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class BillingSettings(ServiceSettings):
    """`MODELYARD_BILLING_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_BILLING_")

    # Folder of price lists (YAML).
    price_lists_dir: Path = Path(__file__).parent / "content" / "price_lists"
    # How long a quote holds, seconds.
    quote_valid_s: float = 86_400.0
    # Messages of usage taken into one transaction; each holds up to 500 records.
    usage_batch_max: int = 20

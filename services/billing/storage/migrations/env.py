"""Alembic's entry: run the migrations on the connection the chassis opened."""

from chassis.database.migrations import run_env
from services.billing.storage.tables import BillingTable

run_env(BillingTable.metadata)

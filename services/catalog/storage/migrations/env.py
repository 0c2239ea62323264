"""Alembic's entry: run the migrations on the connection the chassis opened."""

from chassis.database.migrations import run_env
from services.catalog.storage.tables import CatalogTable

run_env(CatalogTable.metadata)

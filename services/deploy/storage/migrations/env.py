"""Alembic's entry: run the migrations on the connection the chassis opened."""

from chassis.database.migrations import run_env
from services.deploy.storage.tables import DeployTable

run_env(DeployTable.metadata)

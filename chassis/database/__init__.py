"""One database a service: units of work, column types, the chassis' own tables and migrations."""

from chassis.database.columns import ExactDecimal, UtcTime
from chassis.database.engine import DATABASE_ERRORS, Database, UnitOfWork
from chassis.database.faults import is_mistake, problem_from_database
from chassis.database.opening import open_database
from chassis.database.tables import ChassisTables, chassis_tables

__all__ = [
    "DATABASE_ERRORS",
    "ChassisTables",
    "Database",
    "ExactDecimal",
    "UnitOfWork",
    "UtcTime",
    "chassis_tables",
    "is_mistake",
    "open_database",
    "problem_from_database",
]

"""What a database's refusal means to a caller."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted

from chassis.errors import ConcurrentChange, DatabaseUnavailable, Problem

# unique_violation, serialization_failure, deadlock_detected
_RACED_SQLSTATES = {"23505", "40001", "40P01"}
_RACED_SQLITE = {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}
_RETRY_AFTER_S = 1.0


def problem_from_database(error: BaseException) -> Problem | None:
    """A lost race or an absence as a problem; None for anything else, which is a mistake of ours.

    A `ConcurrentChange` was rolled back: the work may run again at once and finds what the winner wrote.
    """
    if isinstance(error, DBAPIError):
        sqlstate = getattr(error.orig, "sqlstate", None)
        if sqlstate in _RACED_SQLSTATES or getattr(error.orig, "sqlite_errorname", None) in _RACED_SQLITE:
            return ConcurrentChange("another call changed the same thing at the same moment; send it again")
    if isinstance(error, (OperationalError, InterfaceError, PoolExhausted, ConnectionError)):
        return DatabaseUnavailable(
            "the database is away or overloaded; send it again with the same request_id", retry_after_s=_RETRY_AFTER_S
        )
    return None

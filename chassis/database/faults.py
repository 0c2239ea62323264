"""What a database's refusal means to a caller."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolExhausted

from chassis.errors import ConcurrentChange, DatabaseUnavailable, InvalidArgument, Problem

# unique_violation, serialization_failure, deadlock_detected
_RACED_SQLSTATES = {"23505", "40001", "40P01"}
_RACED_SQLITE = {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}
# Class 22 of SQLSTATE: a value that the database cannot hold, such as a NUL character in a text.
_UNSTORABLE = "22"
_RETRY_AFTER_S = 1.0


def problem_from_database(error: BaseException) -> Problem | None:
    """A lost race, an absence or a value that cannot be stored as a problem; None for anything else: our mistake.

    A `ConcurrentChange` was rolled back: the work may run again at once and finds what the winner wrote.
    """
    sqlite_name = getattr(error.orig, "sqlite_errorname", None) if isinstance(error, DBAPIError) else None
    if _sqlstate(error) in _RACED_SQLSTATES or sqlite_name in _RACED_SQLITE:
        return ConcurrentChange("another call changed the same thing at the same moment; send it again")
    if _sqlstate(error).startswith(_UNSTORABLE):
        return InvalidArgument("a field holds a value that cannot be stored, such as a NUL character; leave it out")
    if isinstance(error, (OperationalError, InterfaceError, PoolExhausted, ConnectionError)):
        return DatabaseUnavailable(
            "the database is away or overloaded; send it again with the same request_id", retry_after_s=_RETRY_AFTER_S
        )
    return None


def is_mistake(error: BaseException) -> bool:
    """Whether the database answered to a wrong statement or value, rather than being away: a repeat will not help."""
    if isinstance(error, (IntegrityError, DataError, ProgrammingError)):
        return True
    # Drivers raise some refusals of values as plain errors.
    return _sqlstate(error).startswith(_UNSTORABLE)


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "") if isinstance(error, DBAPIError) else ""

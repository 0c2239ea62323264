"""Errors as values that every face (gRPC, REST, CLI) can show: what was wrong, the limit, the way out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Code(Enum):
    """Canonical gRPC codes by name, without importing gRPC; the value is the HTTP status they map to."""

    INVALID_ARGUMENT = (400, 3)
    UNAUTHENTICATED = (401, 16)
    PERMISSION_DENIED = (403, 7)
    NOT_FOUND = (404, 5)
    DEADLINE_EXCEEDED = (408, 4)
    ALREADY_EXISTS = (409, 6)
    ABORTED = (409, 10)
    FAILED_PRECONDITION = (409, 9)
    OUT_OF_RANGE = (400, 11)
    RESOURCE_EXHAUSTED = (429, 8)
    INTERNAL = (500, 13)
    UNIMPLEMENTED = (501, 12)
    UNAVAILABLE = (503, 14)

    @property
    def http_status(self) -> int:
        return self.value[0]

    @property
    def grpc_number(self) -> int:
        return self.value[1]


# Problems that may pass by themselves; any other says that the request or the message breaks a rule.
PASSING = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.RESOURCE_EXHAUSTED}


class Problem(Exception):
    """An expected error. Subclasses set `code` and `reason`; docs/errors.md lists every reason.

    Args:
        message: One or two sentences with the value, the limit and the way out; never a credential, a prompt or a
            completion.
        metadata: Machine-readable details, such as {"limit": "50"}.
        field: Path of the request field at fault, where there is one.
        retry_after_s: When a repeat may succeed, in seconds.
    """

    code: Code = Code.INTERNAL
    reason: str = "INTERNAL"
    http: int | None = None

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.field = field
        self.retry_after_s = retry_after_s


def http_status(problem: Problem) -> int:
    """The HTTP status of a problem: its own, or its code's."""
    return problem.http if problem.http is not None else problem.code.http_status


class InternalProblem(Problem):
    """A bug or a broken part of the platform."""

    code = Code.INTERNAL
    reason = "INTERNAL"


class InvalidArgument(Problem):
    """A field's value is not allowed, whatever the state of the platform."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class NotFound(Problem):
    """The named thing does not exist."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"


class PermissionDenied(Problem):
    """The caller may not do this, or the project does not exist: both answer alike."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class Unauthenticated(Problem):
    """No credential, or one that is not valid."""

    code = Code.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class EtagMismatch(Problem):
    """The resource changed since it was read."""

    code = Code.ABORTED
    reason = "ETAG_MISMATCH"


class ConcurrentChange(Problem):
    """Another call changed the same thing at the same moment; nothing was changed by this one."""

    code = Code.ABORTED
    reason = "CONCURRENT_CHANGE"


class PageTokenInvalid(Problem):
    """A page token that was made for another request, or not by this service."""

    code = Code.INVALID_ARGUMENT
    reason = "PAGE_TOKEN_INVALID"


class RequestIdReused(Problem):
    """The request id was used before with another request."""

    code = Code.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class DependencyUnavailable(Problem):
    """Another service or a broker is away; nothing was changed."""

    code = Code.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"


class DatabaseUnavailable(Problem):
    """The service's database is away or overloaded; a repeat with the same request id has no second effect."""

    code = Code.UNAVAILABLE
    reason = "DATABASE_UNAVAILABLE"


class DeadlineExceeded(Problem):
    """The caller's deadline, or the platform's own limit, passed."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class NotServed(Problem):
    """A method of the contract that this platform does not offer."""

    code = Code.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class ClockBehind(Problem):
    """The wall clock is behind what was already recorded."""

    code = Code.FAILED_PRECONDITION
    reason = "CLOCK_BEHIND"


class DatabaseOrderUnfit(Problem):
    """The database does not order texts by their bytes, as pages and ranges of names need it."""

    code = Code.FAILED_PRECONDITION
    reason = "DATABASE_ORDER_UNFIT"

"""Errors the platform tells its callers, each with a stable reason listed in docs/errors.md."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar


class Code(Enum):
    """gRPC status codes, by their numbers on the wire."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_HTTP_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


class Problem(Exception):
    """What went wrong, told to the caller. Subclasses set `code` and `reason`.

    Args:
        message: Names the value, the limit and the way out; never a credential, prompt or completion.
        metadata: Machine-readable facts for `ErrorInfo.metadata`.
        field: Path of the request field that is wrong, such as "endpoint.display_name".
        retry_after_s: When trying again may help, seconds from now.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    http: ClassVar[int | None] = None  # overrides the HTTP status that follows from `code`

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
        self.metadata: dict[str, str] = dict(metadata or {})
        self.field = field
        self.retry_after_s = retry_after_s


def http_status(problem: Problem) -> int:
    """The HTTP status a REST face answers with."""
    return problem.http or _HTTP_STATUS[problem.code]


class InvalidArgument(Problem):
    """A field of the request is malformed or out of its limits."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class NotFound(Problem):
    """Nothing has that name, or the caller may not know of it."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExists(Problem):
    """Something else has that name."""

    code = Code.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class PermissionDenied(Problem):
    """The caller is known and lacks the role."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class Unauthenticated(Problem):
    """No valid credential came with the request."""

    code = Code.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class EtagMismatch(Problem):
    """The resource changed since the caller read it; read it again."""

    code = Code.ABORTED
    reason = "ETAG_MISMATCH"


class PageTokenInvalid(Problem):
    """The page token is malformed or was made by another request."""

    code = Code.INVALID_ARGUMENT
    reason = "PAGE_TOKEN_INVALID"


class RequestIdReused(Problem):
    """The request id came before with other content."""

    code = Code.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class DependencyUnavailable(Problem):
    """A service, broker or database that is needed does not answer; safe to retry."""

    code = Code.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"

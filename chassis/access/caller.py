"""Who is calling."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum


class CallerKind(Enum):
    ANONYMOUS = "anonymous"
    USER = "user"
    SERVICE = "service"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of one RPC.

    `project_uid` and `project` name the project of the request, or of the key; `role` is a number of
    `modelyard.type.v1.Role`, 0 outside a project.
    """

    principal: str
    kind: CallerKind
    is_admin: bool = False
    project_uid: str = ""
    project: str = ""
    role: int = 0
    key_id: str = ""


ANONYMOUS = Caller(principal="", kind=CallerKind.ANONYMOUS)
_current: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """The caller of the RPC that runs now."""
    return _current.get()


def set_current_caller(caller: Caller) -> None:
    """For the interceptor, and for tests of use cases."""
    _current.set(caller)

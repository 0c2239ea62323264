"""Opaque page tokens, bound to the request they continue."""

from __future__ import annotations

import base64
import hashlib
import json

from chassis.errors import InvalidArgument, PageTokenInvalid

Position = list[str | int]


def page_size(requested: int, *, default: int = 50, maximum: int = 1000) -> int:
    """The page size to use; larger requests are cut to the maximum (AIP-158).

    Raises:
        InvalidArgument: below 0.
    """
    if requested < 0:
        raise InvalidArgument(f"page_size {requested}; 0 to {maximum} are allowed", field="page_size")
    return min(requested or default, maximum)


def page_token_encode(scope: str, position: Position) -> str:
    """A token that continues after `position` in the list that `scope` names (method and filters)."""
    body = json.dumps([_digest(scope), position], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def page_token_decode(token: str, scope: str) -> Position:
    """The position inside a token.

    Raises:
        PageTokenInvalid: not made by this list, or made for other filters.
    """
    try:
        digest, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        digest, position = None, None
    if digest != _digest(scope) or not isinstance(position, list):
        raise PageTokenInvalid(
            "page_token was not made by this list with these filters; begin again without one",
            field="page_token",
        )
    return position


def _digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:16]

"""Opaque page tokens, bound to the request that made them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence

from chassis.errors import InvalidArgument, PageTokenInvalid

Position = list[str | int]

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000
_TOKEN_LENGTH_MAX = 2048


def page_size(requested: int, *, default: int = PAGE_SIZE_DEFAULT, maximum: int = PAGE_SIZE_MAX) -> int:
    """How many items a page holds: 0 asks for the default, more than the maximum gets the maximum (AIP-158).

    Raises:
        InvalidArgument: the requested size is below zero.
    """
    if requested < 0:
        raise InvalidArgument(f"page size {requested} is below zero; 0 to {maximum} are allowed", field="page_size")
    return min(requested or default, maximum)


def page_token_encode(scope: str, position: Sequence[str | int]) -> str:
    """Make the token that continues after `position`.

    Args:
        scope: What the request asked for: its method, parent and filters, page size excluded.
        position: Sort key of the last item given, in order.
    """
    body = json.dumps([_scope_digest(scope), *position], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def page_token_decode(token: str, scope: str) -> Position:
    """The position inside a token; empty for an empty token, which asks for the first page.

    Raises:
        PageTokenInvalid: malformed, or made by a request with another scope.
    """
    if not token:
        return []
    digest, *position = _decoded(token)
    if digest != _scope_digest(scope):
        raise PageTokenInvalid(
            "page token was made by another request; keep the filters of the first page, or begin again "
            "without a token",
            field="page_token",
        )
    return position


def _decoded(token: str) -> Position:
    malformed = PageTokenInvalid(
        "page token is malformed; send next_page_token as it came, or leave it empty", field="page_token"
    )
    if len(token) > _TOKEN_LENGTH_MAX:
        raise malformed
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as err:
        raise malformed from err
    if not isinstance(content, list) or not content:
        raise malformed
    if not all(isinstance(item, str) or type(item) is int for item in content):
        raise malformed
    return content


def _scope_digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:16]

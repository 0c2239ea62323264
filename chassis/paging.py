"""Opaque page tokens, bound to the request that made them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import TypeVar, TypeVarTuple, cast

from chassis.errors import InvalidArgument, PageTokenInvalid

Item = TypeVar("Item")
# A sort key: strings and integers, in order.
Position = TypeVarTuple("Position")

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000
_TOKEN_LENGTH_MAX = 2048
_INTEGER_MAX = (1 << 63) - 1


def page_size(requested: int, *, default: int = PAGE_SIZE_DEFAULT, maximum: int = PAGE_SIZE_MAX) -> int:
    """How many items a page holds: 0 asks for the default, more than the maximum gets the maximum (AIP-158).

    Raises:
        InvalidArgument: the requested size is below zero.
    """
    if requested < 0:
        raise InvalidArgument(f"page size {requested} is below zero; 0 to {maximum} are allowed", field="page_size")
    return min(requested or default, maximum)


def split_page(found: Sequence[Item], limit: int) -> tuple[Sequence[Item], bool]:
    """The items of a page, and whether another one follows: `found` was asked for one item more than the limit."""
    return found[:limit], len(found) > limit


def page_token_encode(scope: str, position: Sequence[str | int]) -> str:
    """Make the token that continues after `position`.

    Args:
        scope: What the request asked for: its method, parent and filters, page size excluded.
        position: Sort key of the last item given, in order: printable strings, integers from 0 to 2^63 - 1.
    """
    body = json.dumps([_scope_digest(scope), *position], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def page_token_decode(token: str, scope: str, first: tuple[*Position]) -> tuple[*Position]:
    """The position inside a token; `first` for an empty token, which asks for the first page.

    Tokens are not signed: what comes out may have been written by anyone, and names nothing the scope does not allow.

    Args:
        scope: As for `page_token_encode`.
        first: Strings and integers that stand before every item; a token's must be as many and of the same types.

    Raises:
        PageTokenInvalid: malformed, or made by a request with another scope.
    """
    if not token:
        return first
    digest, *position = _decoded(token)
    if digest != _scope_digest(scope):
        raise PageTokenInvalid(
            "page token was made by another request; keep the filters of the first page, or begin again "
            "without a token",
            field="page_token",
        )
    if [type(item) for item in position] != [type(item) for item in first]:
        raise _malformed()
    return cast("tuple[*Position]", tuple(position))


def _decoded(token: str) -> list[str | int]:
    if len(token) > _TOKEN_LENGTH_MAX:
        raise _malformed()
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as err:
        raise _malformed() from err
    if not isinstance(content, list) or not content or not all(_fits_a_key(item) for item in content):
        raise _malformed()
    return content


def _fits_a_key(item: object) -> bool:
    """Whether every database takes it as a sort key: no control characters, no integer beyond 63 bits."""
    if isinstance(item, str):
        return item.isprintable()
    return type(item) is int and 0 <= item <= _INTEGER_MAX


def _malformed() -> PageTokenInvalid:
    return PageTokenInvalid(
        "page token is malformed; send next_page_token as it came, or leave it empty", field="page_token"
    )


def _scope_digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:16]

"""Positions in lists: what a page token of billing holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from chassis.errors import PageTokenInvalid
from chassis.paging import Position, page_token_decode

Row = TypeVar("Row")
_INTEGER_MAX = 2**63 - 1


def position_after(token: str, scope: str, *kinds: type) -> Position | None:
    """The position to go on after; None for the first page.

    Args:
        kinds: `str` or `int`, one a part of the position.

    Raises:
        PageTokenInvalid: made by another request, or it holds what no position of this list is.
    """
    if not token:
        return None
    position = page_token_decode(token, scope)
    if [type(part) for part in position] != list(kinds) or not all(_is_storable(part) for part in position):
        raise PageTokenInvalid(
            "page token is malformed; send next_page_token as it came, or leave it empty", field="page_token"
        )
    return position


def _is_storable(part: str | int) -> bool:
    return part.isprintable() if isinstance(part, str) else 0 <= part <= _INTEGER_MAX


def split_page(found: Sequence[Row], limit: int) -> tuple[Sequence[Row], bool]:
    """The rows of a page, and whether another one follows: `found` was asked for one row more than the limit."""
    return found[:limit], len(found) > limit

"""Names of files inside a version: relative, plain, and never a way out of its folder."""

from __future__ import annotations

import re

from chassis.errors import InvalidArgument

LENGTH_MAX, DEPTH_MAX = 200, 8
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]*")


def leads_out(name: str) -> bool:
    """Whether a relative path is none: absolute, empty, or with a step up or of another system."""
    steps = name.split("/")
    return not name or "\\" in name or "\0" in name or any(step in ("", ".", "..") for step in steps)


def check_file_name(name: str, field: str) -> str:
    """A name that a file of a version may have, `/` between folders.

    Raises:
        InvalidArgument: naming the value and what is allowed.
    """
    if len(name) > LENGTH_MAX or name.count("/") >= DEPTH_MAX:
        raise InvalidArgument(
            f"file name {name[:LENGTH_MAX]!r} is too long or too deep; {LENGTH_MAX} characters and {DEPTH_MAX} steps are "
            "allowed",
            field=field,
        )
    if leads_out(name) or not all(_SEGMENT.fullmatch(step) for step in name.split("/")):
        raise InvalidArgument(
            f"file name {name!r} is not taken; letters, digits and ._+@=- are allowed, '/' between folders, and nothing "
            "that leads out of the folder or is hidden",
            field=field,
        )
    return name

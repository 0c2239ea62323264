"""Resource names (AIP-122) and the ids inside them."""

from __future__ import annotations

import re

from chassis.errors import InvalidArgument

_ID = re.compile(r"[a-z](?:[a-z0-9]|-(?!-))*[a-z0-9]")
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}"


class ResourcePattern:
    """One form of name, such as "projects/{project}/endpoints/{endpoint}".

    A segment holds 1 to 128 letters, digits, dots, dashes, underscores and tildes; `-` alone is the wildcard of AIP-159.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        parts = re.split(r"\{(\w+)\}", pattern)
        self._regex = re.compile(
            "".join(
                f"(?P<{part}>{_SEGMENT}|-)" if index % 2 else re.escape(part)
                for index, part in enumerate(parts)
            )
        )

    def parse(self, name: str, field: str = "name") -> dict[str, str]:
        """The ids inside a name.

        Raises:
            InvalidArgument: the name has another form; the message shows both.
        """
        match = self._regex.fullmatch(name)
        if match is None:
            shown = name if len(name) <= 200 else f"{name[:200]}…"
            raise InvalidArgument(f"{field} {shown!r} is not of the form {self.pattern!r}", field=field)
        return match.groupdict()

    def format(self, **ids: str) -> str:
        """The name with these ids."""
        return self.pattern.format(**ids)


def check_id(value: str, what: str, *, length_min: int = 3, length_max: int = 32) -> str:
    """Return an id that people choose, or say what is wrong with it.

    Allowed: lower-case letters, digits and single dashes, beginning with a letter, not ending with a dash.
    Source: the naming rule of managed online endpoints, 3 to 32 characters.
    """
    if not length_min <= len(value) <= length_max:
        shown = value if len(value) <= 64 else f"{value[:64]}…"
        raise InvalidArgument(
            f"{what} {shown!r} has {len(value)} character{'s' if len(value) != 1 else ''}; "
            f"{length_min} to {length_max} are allowed",
            field=what,
        )
    if not _ID.fullmatch(value):
        raise InvalidArgument(
            f"{what} {value!r}: it begins with a letter and holds lower-case letters, digits and single dashes",
            field=what,
        )
    return value

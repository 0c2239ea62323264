"""Resource names (`projects/{project}/endpoints/{endpoint}`) and the ids inside them."""

from __future__ import annotations

import re

from chassis.errors import InvalidArgument

_ID = re.compile(r"[a-z](?:-?[a-z0-9])*")
_VARIABLE = re.compile(r"\{([a-z_]+)\}")
# Ids inside names may be looser than those users choose: versions carry dots, uids start with digits.
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}"


def check_id(value: str, what: str, *, length_min: int = 3, length_max: int = 32) -> str:
    """Return the id when it is well formed: lower-case letters, digits and single dashes, a letter first.

    Args:
        value: The id as the caller gave it.
        what: What it names, for the message, such as "endpoint name".

    Raises:
        InvalidArgument: names the value and the limit.
    """
    if not length_min <= len(value) <= length_max:
        noun = "character" if len(value) == 1 else "characters"
        shown = value if len(value) <= 64 else value[:64] + "…"
        raise InvalidArgument(
            f'{what} "{shown}" has {len(value)} {noun}; {length_min} to {length_max} are allowed', field=what
        )
    if not _ID.fullmatch(value):
        raise InvalidArgument(
            f'{what} "{value}" is malformed; use lower-case letters, digits and single dashes, '
            "a letter first and no dash last",
            field=what,
        )
    return value


class ResourcePattern:
    """The grammar of one kind of resource name (AIP-122); `-` alone in a segment is the wildcard of AIP-159.

    Args:
        pattern: Collections and variables in turn, such as "projects/{project}/endpoints/{endpoint}".
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.variables: tuple[str, ...] = tuple(_VARIABLE.findall(pattern))
        if not self.variables:
            raise ValueError(f'pattern "{pattern}" has no variable')
        self._regex = re.compile(
            "".join(
                f"(?P<{piece}>{_SEGMENT}|-)" if index % 2 else re.escape(piece)
                for index, piece in enumerate(_VARIABLE.split(pattern))
            )
        )

    def parse(self, name: str, field: str = "name") -> dict[str, str]:
        """Take a name apart.

        Raises:
            InvalidArgument: names the value and the expected form.
        """
        match = self._regex.fullmatch(name)
        if match is None:
            shown = name if len(name) <= 256 else name[:256] + "…"
            raise InvalidArgument(f'{field} "{shown}" is not of the form "{self.pattern}"', field=field)
        return match.groupdict()

    def matches(self, name: str) -> bool:
        """Whether the name is of this kind."""
        return self._regex.fullmatch(name) is not None

    def format(self, **variables: str) -> str:
        """Build a name.

        Raises:
            ValueError: a variable is missing or holds what no name may.
        """
        name = self.pattern.format(**variables)
        if self._regex.fullmatch(name) is None or len(variables) != len(self.variables):
            raise ValueError(f'{variables} do not fit "{self.pattern}"')
        return name

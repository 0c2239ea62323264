"""Secrets that an operator keeps in a folder, one a file, and that everything else knows by name."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORM = "1 to 64 letters, digits, '.', '_' and '-', a letter or digit first"


class SecretUnusable(Exception):
    """A secret that cannot be read; says why and the way out, never what the file holds."""


def is_secret_name(name: str) -> bool:
    """Whether a file of a secrets folder may be called so; no such name leads out of the folder."""
    return _NAME.fullmatch(name) is not None


class SecretFiles:
    """A folder of secrets. A file that changed is read anew, so a renewed secret needs no restart.

    Args:
        folder: Where they lie; None where the operator has set none.
        bytes_max: Size of one.
    """

    def __init__(self, folder: Path | None, *, bytes_max: int = 8192) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        # By name: what the file was like when it was read, and what it held.
        self._known: dict[str, tuple[tuple[int, int, int], str]] = {}

    def read(self, name: str) -> str:
        """The secret, without white space around it.

        Raises:
            SecretUnusable: no such file, or one that others may read, that is empty, too large, or no line of text.
        """
        if not is_secret_name(name):
            raise SecretUnusable(f"{name[:80]!r} names no secret; {_FORM} are allowed")
        if self._folder is None:
            raise SecretUnusable(f"secret {name!r} cannot be looked for: no folder of secrets is set")
        path = self._folder / name
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                self._check(path, found)
                version = (found.st_ino, found.st_mtime_ns, found.st_size)
                if (known := self._known.get(name)) is not None and known[0] == version:
                    return known[1]
                content = file.read(self._bytes_max + 1)
        except OSError as error:
            raise SecretUnusable(
                f"{path} cannot be read ({error.strerror}); write the secret there, mode 0600"
            ) from None
        secret = _text(path, content)
        self._known[name] = (version, secret)
        return secret

    def _check(self, path: Path, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise SecretUnusable(f"{path} is no file; write the secret there, mode 0600")
        if found.st_mode & 0o077:
            raise SecretUnusable(
                f"{path} has mode {stat.S_IMODE(found.st_mode):04o} and may be read by others; `chmod 600 {path}`"
            )
        if found.st_size > self._bytes_max:
            raise SecretUnusable(f"{path} has {found.st_size} bytes; at most {self._bytes_max} are allowed")


def _text(path: Path, content: bytes) -> str:
    try:
        secret = content.decode("ascii").strip()
    except UnicodeDecodeError:
        secret = ""
    # It goes into a header, where a line's end would begin another one.
    if not secret or not secret.isprintable():
        raise SecretUnusable(f"{path} holds no secret: one line of printable ASCII is expected")
    return secret

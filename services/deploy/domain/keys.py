"""Inference keys: `my_<id>_<secret>`; only the digest is stored."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

ID_BYTES = 8
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key when it is made: the whole credential is shown once."""

    id: str
    credential: str
    sha256: bytes


def make_key(randomness: bytes) -> NewKey:
    """A key from ID_BYTES + SECRET_BYTES random bytes: 256 bits are secret."""
    if len(randomness) != ID_BYTES + SECRET_BYTES:
        raise ValueError(f"{len(randomness)} random bytes; {ID_BYTES + SECRET_BYTES} are needed")
    # Lower-case base32 has no underscore, which separates the parts.
    key_id, secret = (
        base64.b32encode(part).decode().rstrip("=").lower() for part in (randomness[:ID_BYTES], randomness[ID_BYTES:])
    )
    credential = f"my_{key_id}_{secret}"
    return NewKey(key_id, credential, hashlib.sha256(credential.encode()).digest())

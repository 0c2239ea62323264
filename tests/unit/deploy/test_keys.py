"""Keys: their form, their secret and what is stored of them."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from services.deploy.domain.keys import ID_BYTES, SECRET_BYTES, make_key

RANDOM = bytes(range(ID_BYTES + SECRET_BYTES))


def test_a_key_is_my_id_secret() -> None:
    """Three parts, separated by what neither of them can contain."""
    key = make_key(RANDOM)
    assert re.fullmatch(r"my_[a-z2-7]{13}_[a-z2-7]{52}", key.credential)
    assert key.credential.split("_")[1] == key.id


def test_all_256_random_bits_are_in_the_secret() -> None:
    """The secret decodes to exactly the bytes it was made from, and none of them is in the id."""
    secret = make_key(RANDOM).credential.split("_")[2]
    assert base64.b32decode(secret.upper() + "====") == RANDOM[ID_BYTES:]
    assert SECRET_BYTES * 8 == 256


def test_the_digest_is_of_the_whole_credential() -> None:
    """What inference hashes is what the caller sends, prefix and id included."""
    key = make_key(RANDOM)
    assert key.sha256 == hashlib.sha256(key.credential.encode()).digest()


@pytest.mark.parametrize("length", [0, ID_BYTES + SECRET_BYTES - 1, ID_BYTES + SECRET_BYTES + 1])
def test_other_amounts_of_randomness_are_refused(length: int) -> None:
    """A key is never made from too little."""
    with pytest.raises(ValueError, match=f"{length} random bytes; 40 are needed"):
        make_key(b"x" * length)

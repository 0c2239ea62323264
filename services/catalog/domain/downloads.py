"""Downloads: what may be asked for, which bytes of it, and addresses that vouch for themselves."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlencode

from services.catalog.domain.errors import DownloadUrlExpired, DownloadUrlInvalid, RangeNotSatisfiable

LIFETIME_S_DEFAULT = 3600
LIFETIME_S_MAX = 7 * 86_400
KEY_BYTES_MIN = 32
_RANGE = re.compile(r"([0-9]{0,19})-([0-9]{0,19})")


@dataclass(frozen=True, slots=True)
class Download:
    """One file of one version.

    Attributes:
        model_version: Resource name.
        version_uid: Immutable id of the version.
        project_uid: Project it belongs to; empty where everybody sees it.
        artifact: File name in the version, `/` between folders.
        sha256: Digest of the whole file, lower-case hex.
        size_bytes: Size of the whole file.
        uri: Where the bytes lie.
    """

    model_version: str
    version_uid: str
    project_uid: str
    artifact: str
    sha256: str
    size_bytes: int
    uri: str


def file_url(base: str, file: Download, query: Mapping[str, str]) -> str:
    """The address of a file, with what it says for itself; `base` has no slash at its end."""
    return f"{base}/v1/versions/{file.version_uid}/files/{quote(file.artifact)}?{urlencode(query)}"


def byte_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """What a `Range` header asks for, as (start, stop), `stop` not included (RFC 9110, section 14).

    Returns:
        None where the whole file is the answer: no header, one in other units or malformed, or several ranges at once,
        which a server may ignore.

    Raises:
        RangeNotSatisfiable: it begins behind the last byte, or asks for the last 0 bytes.
    """
    unit, _, ranges = header.partition("=")
    match = _RANGE.fullmatch(ranges.strip())
    if unit.strip().lower() != "bytes" or match is None:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        start, stop = max(size_bytes - int(last), 0), size_bytes
    else:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None
    if start >= stop:
        raise RangeNotSatisfiable(f"range {header[:64]!r} lies behind the file's {size_bytes} bytes", size_bytes)
    return start, stop


class UrlSigner:
    """Signs and checks download addresses. One address opens one file of one version, for one holder, for a while.

    Args:
        key: At least 32 random bytes; whoever has it can download everything.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(f"the key of download addresses has {len(key)} bytes; at least {KEY_BYTES_MIN} are needed")
        self._key = key

    def query(self, file: Download, holder: str, expires: datetime) -> dict[str, str]:
        """What an address says after `?`.

        Args:
            holder: Who it was made for; stands in the address and in the log.
            expires: Aware; whole seconds count.
        """
        moment = str(int(expires.timestamp()))
        return {"expires": moment, "holder": holder, "signature": self._signature(file, holder, moment)}

    def check(self, file: Download, query: Mapping[str, str], now: datetime) -> str:
        """The holder of an address for this file.

        Raises:
            DownloadUrlInvalid: it was not made here, for another file, or altered.
            DownloadUrlExpired: its time has passed.
        """
        moment, holder = query.get("expires", ""), query.get("holder", "")
        made = self._signature(file, holder, moment).encode()
        if not hmac.compare_digest(made, query.get("signature", "").encode("utf-8", "replace")):
            raise DownloadUrlInvalid("this address was not made here, or was altered; sign a new one")
        if int(moment) <= now.timestamp():
            raise DownloadUrlExpired("this address has expired; sign a new one")
        return holder

    def _signature(self, file: Download, holder: str, moment: str) -> str:
        said = ("modelyard-download-1", file.version_uid, file.artifact, file.sha256, file.project_uid, holder, moment)
        # Lengths keep one field's end from being taken for the next one's beginning.
        text = "".join(f"{len(part)}:{part}" for part in said)
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

"""Rules of uploads: a file comes in parts without a gap, is checked whole, and then it is in the store or nowhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from chassis.errors import InvalidArgument
from services.catalog.domain.own.errors import UploadOffsetWrong, UploadTooLarge

# The last part may be as short as it is; shorter ones in between would make a file of millions of them.
PART_BYTES_MIN = 64 << 10
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UploadState(IntEnum):
    """The numbers are those of `modelyard.catalog.v1.UploadState`; the last one is no longer shown."""

    RECEIVING = 1
    CHECKING = 2
    STORED = 3
    REFUSED = 4
    # Given up; its parts are on their way out of the store.
    DROPPED = 5


class ContentState(IntEnum):
    """Where a content is. Whoever finds one on its way waits for it to arrive."""

    ENTERING = 1
    STORED = 2
    LEAVING = 3


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """What a project may upload.

    Attributes:
        file_bytes_max: One file.
        part_bytes_max: One part.
        part_bytes_min: One part that is not the last.
        open_max: Uploads of one project that are not done.
        project_bytes_max: Contents of one project together, what is on its way included.
        idle_s: An upload that nothing comes of for so long is given up, and one that is done is forgotten.
        unused_s: A content that no version holds for so long leaves the store.
    """

    file_bytes_max: int = 64 << 30
    part_bytes_max: int = 4 << 20
    part_bytes_min: int = PART_BYTES_MIN
    open_max: int = 100
    project_bytes_max: int = 256 << 30
    idle_s: float = 86_400.0
    unused_s: float = 7 * 86_400.0


def check_announced(size_bytes: int, sha256: str, limits: UploadLimits) -> None:
    """Whether a file of this size and digest may be sent.

    Raises:
        InvalidArgument: no size, or no digest.
        UploadTooLarge: naming the limit.
    """
    if size_bytes < 0:
        raise InvalidArgument(f"size_bytes is {size_bytes}; 0 or more are allowed", field="size_bytes")
    if not _SHA256.fullmatch(sha256):
        raise InvalidArgument(
            f"sha256 {sha256[:80]!r} is no digest; 64 lower-case hex digits are expected", field="sha256"
        )
    if size_bytes > limits.file_bytes_max:
        raise UploadTooLarge(
            f"the file has {size_bytes} bytes; {limits.file_bytes_max} are allowed on this platform "
            "(MODELYARD_CATALOG_UPLOAD_BYTES_MAX)",
            field="size_bytes",
        )


def check_part(*, offset: int, length: int, received_bytes: int, size_bytes: int, limits: UploadLimits) -> bool:
    """Whether a part is the next one; False where it came before and changes nothing, whatever became of the file.

    Raises:
        InvalidArgument: too short, too long, or more than the file has.
        UploadOffsetWrong: it would leave a gap; names the offset to go on from.
    """
    if offset < 0 or not 1 <= length <= limits.part_bytes_max:
        raise InvalidArgument(
            f"a part of {length} bytes at {offset}; 1 to {limits.part_bytes_max} bytes are allowed", field="data"
        )
    if offset + length > size_bytes:
        raise InvalidArgument(
            f"a part of {length} bytes at {offset} goes beyond the {size_bytes} bytes that were announced", field="data"
        )
    if offset + length <= received_bytes:
        return False
    if offset != received_bytes:
        raise UploadOffsetWrong(
            f"a part at {offset} is not the next one; go on at {received_bytes}",
            field="offset",
            metadata={"received_bytes": str(received_bytes)},
        )
    if length < limits.part_bytes_min and offset + length < size_bytes:
        raise InvalidArgument(
            f"a part of {length} bytes; all but the last have at least {limits.part_bytes_min}", field="data"
        )
    return True

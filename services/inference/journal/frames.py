"""Frames on disk: length, CRC-32, protobuf."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from modelyard.inference.v1 import journal_pb2

_HEAD = struct.Struct("<II")
FRAME_BYTES_MAX = 1 << 20


def encode_frame(frame: journal_pb2.JournalFrame) -> bytes:
    """A frame as it is appended."""
    body = frame.SerializeToString()
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def read_frames(path: Path) -> Iterator[tuple[int, journal_pb2.JournalFrame]]:
    """(offset after the frame, frame) for every whole frame; ends at the first that is torn or damaged."""
    content = path.read_bytes()
    offset = 0
    while offset + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, offset)
        end = offset + _HEAD.size + length
        body = content[offset + _HEAD.size : end]
        # Of zeros alone, as a lost block leaves them, the checksum would be right.
        if not 0 < length <= FRAME_BYTES_MAX or len(body) != length or zlib.crc32(body) != checksum:
            return
        try:
            frame = journal_pb2.JournalFrame.FromString(body)
        except DecodeError:
            return
        yield end, frame
        offset = end

"""Instants as protos have them."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import us_from_time


def timestamp(instant: datetime) -> Timestamp:
    """The proto timestamp of an aware instant, exact."""
    # `FromDatetime` takes several times as long, and every call and every record have some.
    seconds, microseconds = divmod(us_from_time(instant), 1_000_000)
    return Timestamp(seconds=seconds, nanos=microseconds * 1_000)

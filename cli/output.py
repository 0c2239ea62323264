"""What commands print: tables for people, canonical protobuf JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from fractions import Fraction
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.type.v1 import money_pb2
from rich import box
from rich.console import Console
from rich.table import Table

# Every command takes it: one JSON document on standard output, or one a line where results stream.
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

GIB = 1 << 30
CORE_HOUR_MS = 3_600_000
AUDIO_MINUTE_MS = 60_000
_UNITS: dict[int, str] = {
    money_pb2.METER_INPUT_TOKENS: "tokens",
    money_pb2.METER_OUTPUT_TOKENS: "tokens",
    money_pb2.METER_CORE_MILLISECONDS: "core-ms",
    money_pb2.METER_AUDIO_MILLISECONDS: "audio-ms",
}

# What is piped into a file or another program is not bound to a terminal's width.
_PIPED_WIDTH = 160

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = Console(stderr=True, highlight=False)


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """Print rows; columns named in `right` hold numbers, and those in `whole` are never broken over lines."""
    shown = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in right or column in whole,
        )
    count = 0
    for row in rows:
        shown.add_row(*("" if cell is None else str(cell) for cell in row))
        count += 1
    if count:
        out.print(shown)
    else:
        out.print(f"{title}: none" if title else "none")


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, ""):
            shown.add_row(name, str(value))
    out.print(shown)


def json_document(value: Message | Iterable[Message] | Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def json_line(value: Message | Mapping[str, Any]) -> None:
    """Print one JSON document on one line, at once."""
    print(json.dumps(_plain(value), ensure_ascii=False), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return [_plain(item) for item in value]


def problem(message: str, *, reason: str = "", as_json: bool = False) -> None:
    """Say on standard error what went wrong."""
    if as_json:
        print(json.dumps({"error": {"reason": reason, "message": message}}), file=sys.stderr)
        return
    err.print(f"[bold red]error[/]: {_escaped(message)}" + (f" [dim]({reason})[/]" if reason else ""), soft_wrap=True)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def moment(stamp: Timestamp) -> str:
    """A time as people read it, UTC to the second; empty when it is unset."""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S") if stamp.seconds else ""


def short_name(resource: str) -> str:
    """A resource name without what its place says anyway: `PUBLISHER/MODEL v1`, `PROJECT/MODEL v1`, `local-1`."""
    parts = resource.split("/")
    if parts[0] in ("publishers", "projects") and len(parts) >= 4 and parts[2] == "models":
        return f"{parts[1]}/{parts[3]}" + (f" v{parts[5]}" if len(parts) == 6 else "")
    return parts[-1]


def enum_word(enum: Any, number: int, prefix: str) -> str:
    """The name of an enum value in lower case, without its prefix."""
    name: str = enum.Name(number)
    return name.removeprefix(prefix).lower().replace("_", " ")


def meter_word(meter: int) -> str:
    """A meter's name, such as "input tokens"."""
    return enum_word(money_pb2.Meter, meter, "METER_")


def rate_words(rate: money_pb2.Rate) -> str:
    """A rate in the unit people buy in: per million tokens, audio-minute, number of images, or core-hour."""
    if rate.meter == money_pb2.METER_CORE_MILLISECONDS:
        cores = Fraction(rate.per, CORE_HOUR_MS)
        per_core = Fraction(rate.amount) / cores
        return f"{plain_decimal(per_core)} {rate.currency} / core-hour"
    if rate.meter == money_pb2.METER_AUDIO_MILLISECONDS:
        per_minute = Fraction(rate.amount) * AUDIO_MINUTE_MS / rate.per
        return f"{plain_decimal(per_minute)} {rate.currency} / audio-minute"
    return f"{rate.amount} {rate.currency} / {_short_per(rate.per)} {meter_word(rate.meter)}"


def _short_per(per: int) -> str:
    return f"{per // 1_000_000}M" if per >= 1_000_000 and per % 1_000_000 == 0 else f"{per:,}"


def quantity_words(meter: int, quantity: int) -> str:
    """A quantity with its unit."""
    return f"{quantity:,} {_UNITS.get(meter, meter_word(meter))}"


def plain_decimal(value: Fraction, places_max: int = 12) -> str:
    """A value >= 0 as an exact decimal where it has at most `places_max` digits, else as the fraction itself."""
    scaled = value * 10**places_max
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{scaled.numerator:0{places_max + 1}d}"
    whole, part = digits[:-places_max], digits[-places_max:].rstrip("0")
    return f"{whole}.{part}" if part else whole

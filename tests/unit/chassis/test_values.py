"""Errors, clocks, money, names, pages and events as values: their edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import pytest
from modelyard.deploy.v1.events_pb2 import InstanceReleased, ProjectCreated

from chassis.clock import SystemClock, ms_from_time, time_from_us, us_from_time
from chassis.errors import Code, InvalidArgument, NotFound, PageTokenInvalid, Problem, http_status
from chassis.events import (
    Event,
    EventMalformed,
    decode_event,
    decode_projection,
    encode_projection,
    event_from_message,
    published_event,
)
from chassis.money import NegativeQuantity, Rate, charge, decimal_string, round_half_even
from chassis.names import ResourcePattern, check_id
from chassis.paging import page_size, page_token_decode, page_token_encode

ENDPOINT = ResourcePattern("projects/{project}/endpoints/{endpoint}")
NOW = datetime(2026, 1, 15, 12, 0, 0, 123_456, tzinfo=UTC)


class Retired(Problem):
    code = Code.FAILED_PRECONDITION
    http = 410


def test_a_problem_has_its_own_http_status_or_its_codes() -> None:
    """Every code maps to one; a class may say another."""
    assert http_status(NotFound("x")) == 404
    assert http_status(Retired("x")) == 410
    for code in Code:
        assert 400 <= code.http_status < 600


def test_the_clock_does_not_follow_a_stepped_wall_clock() -> None:
    """Wall time is read once; running time moves it on."""
    wall, boottime = [10**18], [5 * 10**9]
    clock = SystemClock(lambda: wall[0], lambda: boottime[0])
    assert clock.now_ms() == 10**12
    wall[0] -= 10**15
    boottime[0] += 1_500_000_000
    assert clock.now_ms() == 10**12 + 1500
    assert ms_from_time(clock.now()) == 10**12 + 1500


def test_microseconds_are_exact_in_any_zone() -> None:
    """No float in between."""
    at = datetime(2999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-9)))
    assert time_from_us(us_from_time(at)) == at
    with pytest.raises(ValueError, match="no time zone"):
        us_from_time(datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_quantity_below_zero_has_no_price() -> None:
    """Corrections void a record and add another."""
    with pytest.raises(NegativeQuantity, match="-1 token"):
        charge(-1, Rate("USD", Decimal("0.0375"), 1_000_000, "token"))


@pytest.mark.parametrize(
    ("amount", "per"), [(Decimal("-1"), 1), (Decimal("NaN"), 1), (Decimal("Infinity"), 1), (Decimal(1), 0)]
)
def test_an_impossible_rate_is_refused(amount: Decimal, per: int) -> None:
    """Prices are finite and not below zero."""
    with pytest.raises(ValueError):
        Rate("USD", amount, per, "token")


def test_a_float_is_no_money() -> None:
    """0.1 is not a tenth."""
    with pytest.raises(TypeError, match="never a float"):
        Rate("USD", 0.1, 1, "token")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("amount", "places", "expected"),
    [
        (Fraction(1, 8), 2, "0.12"),
        (Fraction(3, 8), 2, "0.38"),
        (Fraction(-1, 8), 2, "-0.12"),
        (Fraction(1, 2), 0, "0"),
        (Fraction(2, 3), 4, "0.6667"),
        (Fraction(5), 2, "5.00"),
        (Fraction(10**40) + Fraction(1, 4), 2, "1" + "0" * 40 + ".25"),
    ],
)
def test_rounding_is_half_even_at_any_size(amount: Fraction, places: int, expected: str) -> None:
    """Ties go to the even digit, and large amounts keep every digit."""
    assert decimal_string(round_half_even(amount, places)) == expected


def test_decimals_are_written_without_an_exponent() -> None:
    """As people and other programs read them."""
    assert decimal_string(Decimal("1E+3")) == "1000"
    assert decimal_string(Decimal("1E-9")) == "0.000000001"


@pytest.mark.parametrize("name", ["abc", "a-b-c", "a1b", "a" * 32, "shop-2"])
def test_good_ids(name: str) -> None:
    """Lower-case letters, digits, single dashes."""
    assert check_id(name, "endpoint name") == name


@pytest.mark.parametrize(
    "name", ["a", "ab", "a" * 33, "", "Abc", "1ab", "a--b", "-ab", "ab-", "a_b", "äbc", "a b", "abc\n"]
)
def test_bad_ids_are_named_with_the_limit(name: str) -> None:
    """The message has the value and what is allowed."""
    with pytest.raises(InvalidArgument) as caught:
        check_id(name, "endpoint name")
    assert "endpoint name" in caught.value.message
    assert "3 to 32" in caught.value.message or "lower-case" in caught.value.message


def test_one_character_reads_as_one() -> None:
    """The example of the style guide."""
    with pytest.raises(InvalidArgument, match='endpoint name "a" has 1 character; 3 to 32 are allowed'):
        check_id("a", "endpoint name")


@pytest.mark.parametrize(
    "name",
    [
        "projects/p",
        "projects//endpoints/e",
        "projects/p/endpoints/e/x",
        "/projects/p/endpoints/e",
        "",
        "projects/p/endpoints/e\n",
    ],
)
def test_a_name_of_another_form_names_the_form(name: str) -> None:
    """The caller sees what was expected, in which field."""
    with pytest.raises(InvalidArgument, match=r"projects/\{project\}/endpoints/\{endpoint\}") as caught:
        ENDPOINT.parse(name, field="endpoint.name")
    assert caught.value.field == "endpoint.name"


def test_a_very_long_name_is_not_repeated_whole() -> None:
    """Errors stay readable."""
    with pytest.raises(InvalidArgument) as caught:
        ENDPOINT.parse("x" * 100_000)
    assert len(caught.value.message) < 500


def test_a_name_with_a_slash_inside_cannot_be_made() -> None:
    """Nobody slips into another project by a crafted id."""
    with pytest.raises(ValueError):
        ENDPOINT.format(project="p/endpoints/e", endpoint="x")


def test_page_sizes() -> None:
    """0 asks for the default, too much gets the maximum, below zero is wrong."""
    assert (page_size(0), page_size(7), page_size(10**9)) == (50, 7, 1000)
    with pytest.raises(InvalidArgument, match="-1"):
        page_size(-1)


@pytest.mark.parametrize("token", ["x", "!!!", "AAAA", "W10", "bnVsbA", "é", "A" * 5000, "WzFd", "eyJhIjoxfQ"])
def test_malformed_page_tokens_are_refused(token: str) -> None:
    """Whatever was sent, it is the caller's mistake and told so."""
    with pytest.raises(PageTokenInvalid):
        page_token_decode(token, "ListModels", ("",))


def test_no_token_is_the_first_page() -> None:
    """And a token of another request is refused."""
    assert page_token_decode("", "ListModels", ("",)) == ("",)
    with pytest.raises(PageTokenInvalid, match="another request"):
        page_token_decode(page_token_encode("ListModels", ["m"]), "ListEndpoints", ("",))


@pytest.mark.parametrize("position", [[], ["m"], ["m", "n"], [True, "m"], [-1, "m"], [2**63, "m"], [1, "\0"]])
def test_forged_positions_are_refused(position: list[str | int]) -> None:
    """Tokens are not signed: one of another shape, or with a key no database takes, never reaches a query."""
    forged = page_token_encode("ListModels", position)
    with pytest.raises(PageTokenInvalid, match="malformed"):
        page_token_decode(forged, "ListModels", (0, ""))


def an_event() -> Event:
    message = ProjectCreated(project_uid="p1", project="shop")
    return published_event(
        "deploy", "project", "created", message, project_uid="p1", aggregate_uid="p1", sequence=1, time=NOW
    )


def as_message(event: Event, **changes: object) -> SimpleNamespace:
    parts = {"subject": event.subject, "headers": event.headers(), "data": event.data}
    return SimpleNamespace(**{**parts, **changes})


def test_an_event_survives_its_journey() -> None:
    """Subject, headers and body give it back."""
    event = an_event()
    assert event.subject == "modelyard.deploy.v1.project.created.p1"
    assert event.headers()["Nats-Msg-Id"] == event.headers()["ce-id"] == event.id
    assert event.headers()["ce-time"] == "2026-01-15T12:00:00.123456Z"
    assert event_from_message(as_message(event)) == event
    assert decode_event(event, ProjectCreated).project == "shop"


def test_an_event_without_a_project_says_so() -> None:
    """The last token of its subject is `_`."""
    event = published_event(
        "catalog", "version", "published", ProjectCreated(), project_uid=None, aggregate_uid="v", sequence=0, time=NOW
    )
    assert event.subject.endswith("._")
    assert event_from_message(as_message(event)).project_uid is None


@pytest.mark.parametrize("header", ["ce-id", "ce-type", "ce-subject", "ce-time", "ce-sequence"])
def test_a_missing_header_is_named(header: str) -> None:
    """So the dead letter says what is wrong."""
    headers = {name: value for name, value in an_event().headers().items() if name != header}
    with pytest.raises(EventMalformed, match=header):
        event_from_message(as_message(an_event(), headers=headers))


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "modelyard.deploy.v1.project.created"},
        {"subject": "other.deploy.v1.project.created.p1"},
        {"headers": None},
        {"headers": {**an_event().headers(), "ce-sequence": "x"}},
        {"headers": {**an_event().headers(), "ce-time": "yesterday"}},
    ],
)
def test_what_is_no_event_is_malformed(changes: dict[str, object]) -> None:
    """And nothing else is raised."""
    with pytest.raises(EventMalformed):
        event_from_message(as_message(an_event(), **changes))


def test_a_body_of_another_type_is_malformed() -> None:
    """Protobuf itself would read it as something."""
    with pytest.raises(EventMalformed, match="InstanceReleased"):
        decode_event(an_event(), InstanceReleased)


def test_projections_are_framed() -> None:
    """Eight bytes of sequence, then the value."""
    assert encode_projection(258, b"v") == bytes([0, 0, 0, 0, 0, 0, 1, 2]) + b"v"
    assert decode_projection(encode_projection(7, b"")) == (7, b"")
    with pytest.raises(EventMalformed, match="3 bytes"):
        decode_projection(b"abc")
    with pytest.raises(ValueError):
        encode_projection(-1, b"")

"""Names, numbers and durations as people read and type them."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import pytest
from modelyard.catalog.v1 import search_pb2
from modelyard.type.v1 import money_pb2

from cli.commands.access import duration
from cli.commands.deployments import default_name
from cli.commands.discover import the_one
from cli.commands.search import read_filter
from cli.output import plain_decimal, quantity_words, rate_words, short_name
from cli.session import UsageMistake, project_name


@pytest.mark.parametrize(
    ("resource", "short"),
    [
        ("publishers/meta/models/llama/versions/3", "meta/llama v3"),
        ("publishers/meta/models/llama", "meta/llama"),
        ("instanceTypes/local-1", "local-1"),
    ],
)
def test_short_names(resource: str, short: str) -> None:
    """What its column says anyway is left out of a name."""
    assert short_name(resource) == short


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Fraction(48, 1000), "0.048"),
        (Fraction(3), "3"),
        (Fraction(1, 3), "1/3"),
        (Fraction(0), "0"),
    ],
)
def test_exact_numbers_stay_exact(value: Fraction, words: str) -> None:
    """A finite decimal is written out; anything else stays a fraction rather than being rounded."""
    assert plain_decimal(value) == words


def test_a_core_hour_rate_is_exact_also_where_it_is_no_decimal() -> None:
    """0.10 USD an hour for three cores is 1/30 USD a core-hour."""
    rate = money_pb2.Rate(meter=money_pb2.METER_CORE_MILLISECONDS, currency="USD", amount="0.10", per=3 * 3_600_000)
    assert rate_words(rate) == "1/30 USD / core-hour"


def test_a_token_rate_is_per_million() -> None:
    """The unit people know from price pages."""
    rate = money_pb2.Rate(meter=money_pb2.METER_INPUT_TOKENS, currency="USD", amount="0.0375", per=1_000_000)
    assert rate_words(rate) == "0.0375 USD / 1M input tokens"


def test_audio_and_images_have_units_of_their_own() -> None:
    """A rate in what people buy by, a quantity in the meter's whole unit."""
    audio, images = money_pb2.METER_AUDIO_MILLISECONDS, money_pb2.METER_IMAGES
    assert rate_words(money_pb2.Rate(meter=audio, currency="USD", amount="0.006", per=60_000)) == (
        "0.006 USD / audio-minute"
    )
    assert rate_words(money_pb2.Rate(meter=images, currency="USD", amount="0.1", per=1_000)) == "0.1 USD / 1,000 images"
    assert quantity_words(audio, 3_325) == "3,325 audio-ms"
    assert quantity_words(images, 2) == "2 images"
    assert quantity_words(money_pb2.METER_INPUT_TOKENS, 1_000) == "1,000 tokens"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)])
def test_durations(text: str, seconds: int) -> None:
    """A number and a unit."""
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5h", "30 d", "99999999999999d"])
def test_other_durations_are_refused(text: str) -> None:
    """The refusal says what is allowed."""
    with pytest.raises(UsageMistake, match=r"30d|3650d"):
        duration(text)


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("publishers/p/models/smollm2-135m-instruct/versions/1", "smollm2-135m-instruct"),
        ("publishers/p/models/GPT_4.1--Mini/versions/1", "gpt-4-1-mini"),
        ("publishers/p/models/7b/versions/1", "model-7b"),
        (f"publishers/p/models/{'long-' * 20}/versions/1", "long-long-long-long-long-long-lo"),
    ],
)
def test_default_deployment_names_are_allowed_names(version: str, name: str) -> None:
    """Lower-case letters, digits and single dashes, a letter first, at most 32."""
    assert default_name(version) == name


NAMES = {"meta/llama-3": "m1", "nvidia/llama-3": "n1", "cohere/command": "c1"}


def test_a_short_model_name_means_its_one_model() -> None:
    """The publisher may be left out where only one publishes it."""
    assert the_one(NAMES, "command") == the_one(NAMES, "cohere/command") == "c1"
    assert the_one(NAMES, "comand") is None


def test_an_unclear_model_name_is_answered_with_the_choices() -> None:
    """All models of that name."""
    with pytest.raises(UsageMistake, match="meta/llama-3 and nvidia/llama-3"):
        the_one(NAMES, "llama-3")


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("license=mit", ("license", "EQ", ["mit"])),
        (" language != en ", ("language", "NE", ["en"])),
        ("context_tokens>100k", ("context_tokens", "GT", ["100k"])),
        ("input_price < 0.5", ("input_price", "LT", ["0.5"])),
        ("license in mit, apache-2.0", ("license", "IN", ["mit", "apache-2.0"])),
        ("tag=in-between, really", ("tag", "EQ", ["in-between, really"])),
    ],
)
def test_filters_are_read_as_typed(typed: str, read: tuple[str, str, list[str]]) -> None:
    """Blanks do not matter; only `in` parts values at commas."""
    found = read_filter(typed)
    assert (found.field, search_pb2.FilterOperator.Name(found.operator), list(found.values)) == (
        read[0],
        f"FILTER_OPERATOR_{read[1]}",
        read[2],
    )


@pytest.mark.parametrize("typed", ["license", "=mit", "license~mit", "license=", "License=mit"])
def test_other_filters_are_refused_with_the_form(typed: str) -> None:
    with pytest.raises(UsageMistake, match="FIELD=VALUE"):
        read_filter(typed)


def test_a_missing_project_is_said_with_the_way_out() -> None:
    """No command guesses a tenant."""
    with pytest.raises(UsageMistake, match="MODELYARD_PROJECT"):
        project_name("")

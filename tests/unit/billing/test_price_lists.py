"""Price lists are read strictly: a wrong field is refused by name, and an amount is a string of digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.billing.domain.errors import PriceListInvalid
from services.billing.domain.meters import Meter
from services.billing.domain.prices import OfferKind
from services.billing.settings import BillingSettings
from services.billing.usecases.prices import read_price_list

LIST = """
list: test
version: "1"
currency: USD
effective: 2026-01-01
prices:
  - resource: publishers/acme/models/talker
    per_million_input_tokens: "0.0375"
    per_million_output_tokens: "0.15"
    source: a test
  - resource: instanceTypes/small
    per_hour: "0.096"
    vcpus: 2
    source: a test
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list.yaml"


def test_a_list_says_exact_rates(path: Path) -> None:
    """Digits as they are written; the version names the list, its version and the last part of the resource."""
    path.write_text(LIST)
    talker, small = read_price_list(path)
    assert talker.price_version == "test@1/talker"
    assert talker.kind is OfferKind.SERVERLESS
    assert str(talker.amounts[Meter.INPUT_TOKENS]) == "0.0375"
    assert small.kind is OfferKind.MANAGED
    assert small.rate(Meter.CORE_MILLISECONDS).per == 2 * 3_600_000


@pytest.mark.parametrize(
    ("field", "meter", "per"),
    [("per_audio_minute", Meter.AUDIO_MILLISECONDS, 60_000), ("per_thousand_images", Meter.IMAGES, 1_000)],
)
def test_audio_and_images_have_a_rate_in_their_own_unit(path: Path, field: str, meter: Meter, per: int) -> None:
    """A minute of audio is 60,000 of its whole unit; images are priced by the thousand."""
    path.write_text(
        LIST.replace("per_million_input_tokens", field).replace('    per_million_output_tokens: "0.15"\n', "")
    )
    price, _ = read_price_list(path)
    rate = price.rate(meter)
    assert (str(rate.amount), rate.per, rate.unit) == ("0.0375", per, meter.unit)


@pytest.mark.parametrize(
    ("written", "instead", "named"),
    [
        ('"0.0375"', "0.0375", "per_million_input_tokens"),
        ('"0.0375"', '"-1"', "per_million_input_tokens"),
        ('"0.0375"', '"1e3"', "per_million_input_tokens"),
        ('"0.0375"', '"1_000"', "per_million_input_tokens"),
        ('"0.0375"', '"NaN"', "per_million_input_tokens"),
        ('"0.0375"', '""', "per_million_input_tokens"),
        ("per_million_input_tokens", "per_million_inputs", "per_million_inputs"),
        ("vcpus: 2", "vcpus: 0", "vcpus"),
        ("vcpus: 2", "vcpus: 2.5", "vcpus"),
        ("vcpus: 2", "vcpus: true", "vcpus"),
        ("    vcpus: 2\n", "", "vcpus"),
        ("    source: a test\n", "", "source"),
        ('version: "1"', "version: 2026.10", "version"),
        ("currency: USD", "currency: dollars", "currency"),
        ("currency: USD", "money: USD", "money"),
        ("effective: 2026-01-01", "effective: soon", "effective"),
        ("effective: 2026-01-01", "effective: 2026-01-01 12:00:00", "effective"),
        ("resource: instanceTypes/small", "resource: publishers/acme/models/small", "per_hour"),
        ("resource: publishers/acme/models/talker", "resource: instanceTypes/talker", "per_million_input_tokens"),
        ("resource: instanceTypes/small", "resource: small", "resource"),
        ("prices:\n", "prices: none\nmore:\n", "prices"),
        ("list: test", "- list", "list.yaml"),
        ("list: test", "list: [", "list.yaml"),
    ],
)
def test_a_wrong_field_is_refused_by_name(path: Path, written: str, instead: str, named: str) -> None:
    """The message names the file and the field."""
    assert written in LIST
    path.write_text(LIST.replace(written, instead, 1))
    with pytest.raises(PriceListInvalid) as refused:
        read_price_list(path)
    assert named in refused.value.message
    assert path.name in refused.value.message


def test_the_shipped_lists_are_valid() -> None:
    """Every list that comes with the service is read without a complaint."""
    lists = sorted(BillingSettings.model_fields["price_lists_dir"].default.glob("*.yaml"))
    assert lists
    assert all(read_price_list(path) for path in lists)

"""Whatever stands in a published asset: it is refused by field, or taken and kept as it is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.catalog.domain.replacements import replacement_cycles
from services.catalog.sources.azureml.format import AssetRefused, parse_asset
from services.catalog.sources.azureml.records import record_of
from tests.integration.catalog.assets import LIMITS, an_asset, metadata

TEXT = st.text(max_size=20)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
FIELDS = st.sampled_from(sorted(metadata())) | TEXT
NAMES = st.sampled_from("abcdefgh")


@given(changes=st.dictionaries(st.sampled_from(sorted(an_asset())) | TEXT, JSON, max_size=3))
def test_any_asset_is_taken_whole_or_refused(changes: dict[str, Any]) -> None:
    """With other values at the top."""
    _taken_or_refused(an_asset(**changes))


@given(changes=st.dictionaries(FIELDS, JSON, max_size=3))
def test_any_metadata_is_taken_whole_or_refused(changes: dict[str, Any]) -> None:
    """With other values inside."""
    _taken_or_refused(an_asset(system_metadata=metadata(**changes)))


def _taken_or_refused(asset: dict[str, Any]) -> None:
    try:
        parsed = parse_asset(json.dumps(asset).encode(), LIMITS)
    except AssetRefused:
        return
    assert record_of("acme", [parsed]).versions[0].origin == json.loads(json.dumps(asset))


@given(replaced_by=st.dictionaries(NAMES, NAMES))
def test_circles_are_all_that_never_end(replaced_by: dict[str, str]) -> None:
    """A name is in a circle when following its replacements leads back to it."""
    in_circles = {name for circle in replacement_cycles(replaced_by) for name in circle}

    def leads_back(name: str) -> bool:
        follower = replaced_by.get(name)
        for _ in range(len(replaced_by)):
            if follower is None or follower == name:
                break
            follower = replaced_by.get(follower)
        return follower == name

    assert in_circles == {name for name in replaced_by if leads_back(name)}

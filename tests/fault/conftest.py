"""What fault tests share: a seed that can be set again."""

from __future__ import annotations

import os
import random

import pytest

SEED_VARIABLE = "MODELYARD_TEST_SEED"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Decides what the load does and when a fault strikes. Pytest shows the line with the seed where a test fails."""
    seed = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))
    print(f"{SEED_VARIABLE}={seed}")
    return random.Random(f"{seed}/{request.node.name}")

"""One furnished project for the walks over lists and writes."""

from __future__ import annotations

import pytest_asyncio

from tests.contract.requests import Shop, open_shop
from tests.infra.platform import PlatformUnderTest


@pytest_asyncio.fixture(scope="session")
async def shop(platform: PlatformUnderTest) -> Shop:
    return await open_shop(platform)

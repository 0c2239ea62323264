"""One platform, started as a person starts it, for all end-to-end tests that do not stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra.up import Up, running_up


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`modelyard up`, running; beside other tests an answer may take longer than calls usually get when drained."""
    settings = {"MODELYARD_DEPLOY_INSTANCE_DRAIN_S": "120"}
    with running_up(tmp_path_factory.mktemp("up") / "home", settings) as platform:
        yield platform

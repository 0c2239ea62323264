"""A Docker engine is needed; where none answers these tests fail and say so."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.containers import images
from tests.containers.compose import SERVICES, Compose

_HEALTHY_S_MAX = 120
# testcontainers reads them when it is imported: no helper container cleans up, since none can be pulled, and what is
# published is on loopback.
os.environ |= {
    "TESTCONTAINERS_RYUK_DISABLED": "true",
    "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
    "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
}


@pytest.fixture(scope="session")
def engine() -> None:
    """An engine that answers."""
    answers = shutil.which("docker") and subprocess.run(["docker", "version"], capture_output=True, check=False)
    if not answers or answers.returncode != 0:
        pytest.fail(
            "no Docker engine answers; start one, or have one started: "
            'export DOCKER_HOST="$(tests/containers/start_engine.sh "$(mktemp -d)")"'
        )


@pytest.fixture(scope="session")
def base_image(engine: None) -> str:
    return _image(images.BASE, images.build_base)


@pytest.fixture(scope="session")
def platform_image(base_image: str) -> str:
    return _image(images.PLATFORM, images.build_platform)


@pytest.fixture(scope="session")
def nats_image(engine: None) -> str:
    return _image(images.NATS, images.build_nats)


@pytest.fixture(scope="session")
def postgres_image(base_image: str) -> str:
    return _image(images.POSTGRES, images.build_postgres)


def _image(name: str, build: Callable[[], None]) -> str:
    if os.environ.get(images.BUILT_VARIABLE) != "built":
        build()
    return name


@pytest.fixture(scope="session")
def compose(platform_image: str, nats_image: str, postgres_image: str) -> Iterator[Compose]:
    """A platform that is healthy; removed with its state afterwards."""
    running = Compose()
    running.down()
    try:
        running.run("up", "--detach")
        wait_healthy(running)
        yield running
    finally:
        running.down()


def wait_healthy(compose: Compose) -> None:
    """Wait until every service's health check is passed."""
    give_up_s = time.monotonic() + _HEALTHY_S_MAX
    while True:
        states = {service: compose.facts(service)["State"]["Health"]["Status"] for service in SERVICES}
        if set(states.values()) == {"healthy"}:
            return
        assert time.monotonic() < give_up_s, (
            f"after {_HEALTHY_S_MAX} s: {states}; {compose.run('logs', '--tail', '20')}"
        )
        time.sleep(0.5)

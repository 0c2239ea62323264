"""One platform for the kills of its parts; each test begins when it is whole, and proves the ledger at its end."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.infra.load import Load, LoadCall
from tests.infra.proof import Record, broken_rules, engine_counts
from tests.infra.up import Up, running_up

SEED_VARIABLE = "MODELYARD_TEST_SEED"
PROJECT = "victim"


@dataclass
class Victim:
    """A running platform with three endpoints, and every call that any test made on it."""

    up: Up
    key: str
    calls: list[LoadCall] = field(default_factory=list)

    @property
    def instances_dir(self) -> Path:
        return self.up.home / "deploy" / "instances"

    def records(self) -> list[Record]:
        """The whole ledger of the project."""
        return [Record.from_json(one) for one in self.up.json("usage", "-p", PROJECT, "-n", "0")]

    def new_load(self, seed: int) -> Load:
        """Load whose calls are remembered."""
        load = Load(self.up, self.key, seed)
        load.calls = self.calls
        return load

    def broken_rules(self) -> list[str]:
        """What the ledger does not hold as it must."""
        return broken_rules(self.calls, self.records(), engine_counts(self.instances_dir))


def deploy_all(up: Up) -> str:
    """Three endpoints; returns a key for them."""
    up.run("project", "create", PROJECT)
    for endpoint, model, how in (
        ("chat", "smollm2-135m-instruct", ["--serverless"]),
        ("vectors", "all-minilm-l6-v2", ["--serverless"]),
        ("managed", "smollm2-135m-instruct", ["--instance-type", "local-1"]),
    ):
        up.run("deploy", model, "-p", PROJECT, "--endpoint", endpoint, "--deployment", "blue", *how)
    key: str = up.json("key", "create", "-p", PROJECT)["secret"]
    return key


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """The platform that parts of are killed."""
    with running_up(tmp_path_factory.mktemp("victim") / "home") as up:
        yield Victim(up, deploy_all(up))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Decides the moment of a kill; its seed is printed with a failure, and set by MODELYARD_TEST_SEED."""
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(10**6))
    print(f"{SEED_VARIABLE}={seed}")
    return random.Random(f"{seed}/{request.node.name}")

"""From a licence nobody accepted to a model that is used, told to end, and forbidden to others: one story."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.content import content_with
from tests.infra.up import Up, running_up

MODEL = "all-minilm-l6-v2"
TODAY = datetime.now(UTC).date()
DATES = {"deprecation": TODAY + timedelta(days=60), "retirement": TODAY + timedelta(days=200)}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A platform on which a model that runs here asks for acceptance of its licence, and will end."""
    folder = tmp_path_factory.mktemp("strict")
    settings = {"MODELYARD_CATALOG_CONTENT_DIR": str(content_with(folder / "content", _strict))}
    with running_up(folder / "home", settings) as up:
        up.run("project", "create", "shop")
        yield up


def _strict(content: Path) -> None:
    file = content / "models" / "sentence-transformers.yaml"
    models = yaml.safe_load(file.read_text())
    (model,) = [one for one in models["models"] if one["id"] == MODEL]
    model["license_acceptance_required"] = True
    model["versions"][-1]["lifecycle"] = DATES
    file.write_text(yaml.safe_dump(models))


def refusal(up: Up, *arguments: str) -> dict[str, Any]:
    """How a command is refused."""
    refused: dict[str, Any] = json.loads(up.run(*arguments, "--json", status=1).stderr)["error"]
    return refused


def test_a_model_is_accepted_used_told_to_end_and_forbidden(strict: Up) -> None:
    """Each refusal says the way out, and what runs goes on whatever is decided afterwards."""
    found = json.loads(strict.run("models", "check", MODEL, "-p", "shop", "--serverless", "--json", status=1).stdout)
    assert [one["reason"] for one in found["checks"] if not one["passed"]] == ["LICENSE_NOT_ACCEPTED"]
    refused = refusal(strict, "quote", MODEL, "-p", "shop")
    assert refused["reason"] == "LICENSE_NOT_ACCEPTED"

    # The refusal holds the command that ends it.
    (command,) = re.findall(r"`modelyard (licenses accept [^`]*)`", refused["message"])
    strict.run(*shlex.split(command), "--yes")
    (accepted,) = strict.json("licenses", "list", "-p", "shop")
    assert (accepted["principal"], len(accepted["digest"])) == ("admin", 64)

    deploying = ("deploy", MODEL, "-p", "shop", "--endpoint", "vectors", "--serverless")
    assert strict.json(*deploying, "--dry-run")["allowed"]
    assert strict.json("endpoints", "-p", "shop") == []
    strict.run(*deploying)
    headers = embed(strict, key := strict.json("key", "create", "-p", "shop")["secret"])
    deprecates = datetime.combine(DATES["deprecation"], datetime.min.time(), UTC)
    assert headers["deprecation"] == f"@{deprecates.timestamp():.0f}"
    assert headers["sunset"] == f"{DATES['retirement']:%a, %d %b %Y} 00:00:00 GMT"
    ahead = [one for one in strict.json("lifecycle", "upcoming", "--days", "300") if MODEL in one["model_version"]]
    assert [(one["change"], one["days_left"]) for one in ahead] == [
        ("VERSION_CHANGE_DEPRECATION", 60),
        ("VERSION_CHANGE_RETIREMENT", 200),
    ]

    tried = strict.json("policy", "check", "-p", "shop", "--block", MODEL)["summary"]
    assert (tried["refused_model_count"], len(tried["refused_deployments"])) == ("1", 1)
    strict.run("policy", "set", "-p", "shop", "--block", MODEL)
    refused = refusal(strict, "quote", MODEL, "-p", "shop")
    assert refused["reason"] == "POLICY_REFUSED"
    assert "rule blocked" in refused["message"]
    embed(strict, key)


def test_what_fits_and_what_it_costs(strict: Up) -> None:
    """The cheapest that can be had, exactly, and why another cannot."""
    fits = {one["name"].removeprefix("instanceTypes/"): one for one in strict.json("models", "fit", MODEL)}
    small, elsewhere = fits["local-2"], fits["Standard_NC6s_v3"]
    assert (small["fits"], small["quotable"], small["hourly_price"]) == (True, True, "0.096")
    assert small["core_hour_price"] == "6/125"
    assert (elsewhere["fits"], elsewhere["quotable"], elsewhere["core_hour_price"]) == (True, False, "51/100")
    assert "no compute provider" in elsewhere["refusals"][0]["message"]


def embed(up: Up, key: str) -> dict[str, str]:
    """Call the endpoint; the headers of its answer."""
    body = json.dumps({"model": "vectors", "input": "hi"}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    status, said, text = up.send("POST", "/v1/embeddings", body, headers)
    assert status == 200, text
    return said

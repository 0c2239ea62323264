"""The platform of deploy/compose, on PostgreSQL and a NATS server of their own."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.containers.compose import SERVICES, Compose
from tests.containers.conftest import wait_healthy
from tests.containers.images import docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
_PARTS = (*SERVICES, "postgres", "nats")


def test_every_part_runs_confined(compose: Compose) -> None:
    """No root, no capability, nothing to write to but its volumes."""
    for part in _PARTS:
        facts = compose.facts(part)
        assert facts["Config"]["User"] == "10001:10001", part
        assert facts["HostConfig"]["ReadonlyRootfs"], part
        assert facts["HostConfig"]["CapDrop"] == ["ALL"], part
        assert "no-new-privileges:true" in facts["HostConfig"]["SecurityOpt"], part


def test_every_part_has_its_own_secrets_and_no_others(compose: Compose) -> None:
    """None but the two that make things ready sees the keys that everything is signed with."""
    mounted = {
        part: {mount["Name"].partition("_")[2] for mount in compose.facts(part)["Mounts"] if mount["Type"] == "volume"}
        for part in _PARTS
    }
    assert mounted["postgres"] == {"postgres-secrets", "postgres-data"}
    assert mounted["nats"] == {"nats-config", "nats-data"}
    for service in SERVICES:
        # The wheels that the catalog fetches on demand, deploy links into what it serves.
        shared = {"packages"} if service in ("catalog", "deploy") else set()
        assert mounted[service] == {f"{service}-secrets", f"{service}-data", *shared}
    secrets = docker("exec", compose.container("billing"), "stat", "-c", "%a %U", "/run/modelyard/pgpass")
    assert secrets.split()[0] == "600"


def test_ports_are_published_on_loopback_only(compose: Compose) -> None:
    for part in _PARTS:
        published = [one for bound in compose.facts(part)["NetworkSettings"]["Ports"].values() for one in bound or ()]
        assert {one["HostIp"] for one in published} <= {"127.0.0.1"}, part


def test_the_seven_steps_succeed(compose: Compose) -> None:
    said = compose.admin("demo", "--running")
    assert re.findall(r"step (\d) done in [0-9.]+ s", said) == list("1234567")
    assert len(re.findall(r" equal *$", said, re.MULTILINE)) == 4


def test_rest_answers_on_the_host_and_refuses_a_stranger(compose: Compose) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen("http://127.0.0.1:8080/v1/models", timeout=10)
    refused.value.close()
    assert refused.value.code == 401


def test_a_power_cut_changes_no_bill(compose: Compose) -> None:
    """Every container is killed at once; the next start finds the state, and the ledger agrees with itself."""
    projects = [project["name"] for project in _said(compose, "project", "list")]
    before = {project: _total(compose, project) for project in projects}
    docker("kill", "--signal", "KILL", *(compose.container(part) for part in _PARTS))
    compose.run("up", "--detach")
    wait_healthy(compose)
    assert before
    assert {project: _total(compose, project) for project in projects} == before
    for project in projects:
        compose.admin("reconcile", "--project", project)


def _said(compose: Compose, *arguments: str) -> Any:
    return json.loads(compose.admin(*arguments, "--json"))


def _total(compose: Compose, project: str) -> Any:
    bill = _said(compose, "bill", "--project", project)
    return bill["total"], [(line["id"], line["quantity"], line["amount"]) for line in bill["lines"]]

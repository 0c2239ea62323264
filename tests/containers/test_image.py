"""The one image."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.containers.images import docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
READ_ONLY = ("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL")


def test_it_runs_as_nobody_special_on_a_read_only_root(platform_image: str) -> None:
    script = "id -u; touch /opt/modelyard/x /var/lib/modelyard/x 2>&1 | grep -c 'Read-only'"
    assert docker(*READ_ONLY, platform_image, "sh", "-c", script).split() == ["10001", "2"]


@pytest.mark.parametrize("service", ["catalog", "deploy", "billing", "inference"])
def test_the_command_picks_the_service(platform_image: str, service: str) -> None:
    """It starts as far as its settings: none are given, and it says which are missing."""
    started = subprocess.run(
        ["docker", *READ_ONLY, platform_image, "python", "-m", f"services.{service}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode != 0
    assert f"MODELYARD_{service.upper()}_DATA_DIR" in started.stderr + started.stdout


def test_it_can_run_instances(platform_image: str) -> None:
    """Triton, libpython and OpenMP load."""
    looked = "from services.deploy.compute.preflight import preflight; from dataclasses import asdict; import json"
    said = docker(
        *READ_ONLY, platform_image, "python", "-c", f"{looked}; print(json.dumps([*map(asdict, preflight())]))"
    )
    assert [finding for finding in json.loads(said) if not finding["ok"]] == []


def test_it_holds_the_locked_versions_and_no_tools_of_development(platform_image: str) -> None:
    listed = docker(*READ_ONLY, platform_image, "pip", "list", "--format", "json")
    names = {package["name"].lower() for package in json.loads(listed)}
    assert {"modelyard", "modelyard-client", "grpcio", "nvidia-pytriton"} <= names
    assert not names & {"pytest", "ruff", "mypy", "testcontainers", "grpcio-tools"}

"""deploy/compose as an operator uses it, with the images of `images.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from tests.containers.images import NATS, PLATFORM, POSTGRES, ROOT, docker

PROJECT = "modelyard-test"
_UP_S_MAX = 180
SERVICES = ("catalog", "deploy", "billing", "inference")


class Compose:
    """`docker compose` on deploy/compose, whichever of its two programs there is."""

    def __init__(self) -> None:
        program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        self._command = [*program, "--project-name", PROJECT, "--file", str(ROOT / "deploy/compose/compose.yaml")]
        self._environment = os.environ | {
            "MODELYARD_IMAGE": PLATFORM,
            "NATS_IMAGE": NATS,
            "POSTGRES_IMAGE": POSTGRES,
            "COLUMNS": "200",
        }

    def run(self, *arguments: str, timeout_s: float = _UP_S_MAX) -> str:
        """Standard output of a compose command.

        Raises:
            AssertionError: with what it said, and what the services logged last.
        """
        done = self._run(*arguments, timeout_s=timeout_s)
        if done.returncode != 0:
            logs = self._run("logs", "--tail", "20", timeout_s=60).stdout
            raise AssertionError(f"compose {' '.join(arguments)}: {done.stdout}{done.stderr}\n{logs}"[-12_000:])
        return done.stdout

    def _run(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def admin(self, *arguments: str) -> str:
        """What a command of the command line says."""
        return self.run("run", "--rm", "-T", "admin", *arguments)

    def container(self, service: str) -> str:
        """Id of a service's container."""
        return self.run("ps", "--quiet", service).strip()

    def facts(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        (facts,) = json.loads(docker("inspect", self.container(service)))
        return dict(facts)

    def down(self) -> None:
        """Remove everything, state too."""
        self._run("down", "--volumes", "--remove-orphans", "--timeout", "2", timeout_s=_UP_S_MAX)

"""modelyard-client installs and works without anything of the platform."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

# Imports the client while every module outside its own requirements is refused.
_SCRIPT = """
import sys

allowed = set(sys.argv[1].split(","))


class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names:
            raise ImportError(f"{name} is no requirement of modelyard-client")
        return None


sys.meta_path.insert(0, Refuse())
import modelyard_client
from modelyard.billing.v1 import billing_pb2

print(modelyard_client.Modelyard.__name__, billing_pb2.Bill.__name__)
"""


def normalized(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(distribution: str, found: set[str]) -> set[str]:
    """A distribution and everything it needs, extras left out."""
    if distribution in found:
        return found
    found.add(distribution)
    for requirement in importlib.metadata.requires(distribution) or []:
        name, _, marker = requirement.partition(";")
        if "extra" not in marker:
            requirements(normalized(re.split(r"[<>=!~ \[(]", name.strip(), maxsplit=1)[0]), found)
    return found


def test_the_client_imports_with_its_own_requirements_alone() -> None:
    """No service, no database, no broker, no Triton comes with it."""
    needed = requirements("modelyard-client", set())
    modules = {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if needed & {normalized(name) for name in distributions}
    }
    allowed = modules | {"modelyard_client", "modelyard"}
    assert not allowed & {"chassis", "services", "embedded", "cli", "nats", "sqlalchemy", "tritonclient"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, ",".join(sorted(allowed))], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["Modelyard", "Bill"], done.stderr

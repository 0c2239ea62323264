"""The lists in docs/ say what the code says: errors, events, settings."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from modelyard.billing.v1 import events_pb2 as billing_events
from modelyard.catalog.v1 import events_pb2 as catalog_events
from modelyard.deploy.v1 import events_pb2 as deploy_events
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from chassis.errors import Problem
from services.catalog.sources import benchmarks, content

ROOT = Path(__file__).parents[2]
SERVICES = ["catalog", "deploy", "inference", "billing"]


def import_everything(package: str) -> None:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)


def subclasses(base: type) -> set[type]:
    found = set()
    for child in base.__subclasses__():
        found |= {child} | subclasses(child)
    return found


def table_rows(document: str) -> dict[str, list[str]]:
    """Cells of every table row whose first cell is in backticks, by that cell."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (ROOT / "docs" / document).read_text(), re.MULTILINE)
    keys = [key for key, _ in rows]
    assert len(keys) == len(set(keys)), f"docs/{document} lists something twice"
    return {key: [cell.strip() for cell in cells.split("|")] for key, cells in rows}


def test_every_error_reason_is_listed() -> None:
    """docs/errors.md lists every reason the code can give, with its gRPC code and HTTP status, and no other."""
    for package in ("chassis", "services"):
        import_everything(package)
    in_code = {
        problem.reason: [problem.code.name, str(problem.http or problem.code.http_status)]
        for problem in subclasses(Problem)
        if "reason" in vars(problem)
    }
    assert {reason: cells[:2] for reason, cells in table_rows("errors.md").items()} == in_code


def test_every_event_is_listed() -> None:
    """docs/events.md lists every event message, and no other."""
    in_code = {
        message.full_name
        for file in (catalog_events, deploy_events, billing_events)
        for message in file.DESCRIPTOR.message_types_by_name.values()
    }
    in_code.add(descriptor_pool.Default().FindMessageTypeByName("modelyard.type.v1.UsageBatch").full_name)
    assert {key for key in table_rows("events.md") if key.startswith("modelyard.")} == in_code


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_is_listed(service: str) -> None:
    """A service's README lists every setting by its environment variable, and no other."""
    module = importlib.import_module(f"services.{service}.settings")
    prefix = f"MODELYARD_{service.upper()}_"
    settings = next(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.model_config.get("env_prefix") == prefix
    )
    in_code = {prefix + name.upper() for name in settings.model_fields}
    readme = (ROOT / "services" / service / "README.md").read_text()
    assert set(re.findall(rf"`({prefix}[A-Z0-9_]+)`", readme)) == in_code


def test_every_field_of_the_content_is_listed() -> None:
    """docs/catalog.md lists every class of the content's YAML with every field, and no other."""
    wrapped = {content.Collections, content.Models, content.UncheckedModels, content.Publishers, content.InstanceTypes}
    wrapped |= {benchmarks.Benchmarks, benchmarks.Datasets, benchmarks.Scores, benchmarks.Runs}
    in_code = {
        form.__name__: set(form.model_fields)
        for form in [*vars(content).values(), *vars(benchmarks).values()]
        if isinstance(form, type) and issubclass(form, BaseModel) and form.model_fields and form not in wrapped
    }
    listed = {}
    for section in re.split(r"^#{2,3} ", (ROOT / "docs" / "catalog.md").read_text(), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        if title in in_code:
            listed[title] = set(re.findall(r"^\| `([a-z0-9_]+)` \|", section, re.MULTILINE))
    assert listed == in_code

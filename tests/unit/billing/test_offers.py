"""What the catalog's answer means for a quote."""

from __future__ import annotations

import pytest
from modelyard.catalog.v1 import catalog_pb2

from services.billing.rpc.catalog_client import offered_type, offered_version

NAME = "publishers/acme/models/talker/versions/1"


def a_version(**changes: object) -> catalog_pb2.ModelVersion:
    """A version that runs here and is offered both ways."""
    version = catalog_pb2.ModelVersion(
        name=NAME,
        stage=catalog_pb2.LIFECYCLE_STAGE_GA,
        usability=catalog_pb2.USABILITY_RUNS_HERE,
        deployment_options=[catalog_pb2.DEPLOYMENT_OPTION_MANAGED, catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS],
    )
    version.MergeFrom(catalog_pb2.ModelVersion(**changes))
    return version


def test_a_version_that_runs_here_is_offered() -> None:
    """Price lists name its model."""
    offered = offered_version(a_version())
    assert (offered.refusal, offered.stage, offered.priced_resource) == ("", "", "publishers/acme/models/talker")


@pytest.mark.parametrize("detail", ["no GPU", ""])
def test_a_version_that_cannot_run_here_is_refused(detail: str) -> None:
    """Also where the catalog does not say why."""
    version = a_version(usability=catalog_pb2.USABILITY_NEEDS_HARDWARE, usability_detail=detail)
    assert detail in offered_version(version).refusal
    assert offered_version(version).refusal


def test_a_version_for_managed_compute_alone_is_refused() -> None:
    """Its publisher does not offer tokens."""
    version = a_version()
    version.deployment_options.remove(catalog_pb2.DEPLOYMENT_OPTION_SERVERLESS)
    assert "managed compute only" in offered_version(version).refusal


@pytest.mark.parametrize(("stage", "said"), [("LEGACY", ""), ("DEPRECATED", "DEPRECATED"), ("RETIRED", "RETIRED")])
def test_a_stage_that_takes_no_deployments_is_said(stage: str, said: str) -> None:
    """Legacy ones still do."""
    version = a_version(stage=catalog_pb2.LifecycleStage.Value(f"LIFECYCLE_STAGE_{stage}"))
    assert offered_version(version).stage == said


@pytest.mark.parametrize(("provider", "refused"), [("local", False), ("", True)])
def test_a_type_is_offered_where_a_provider_has_it(provider: str, refused: bool) -> None:
    """The others are for comparison."""
    shape = catalog_pb2.InstanceType(name="instanceTypes/small", vcpus=2, provider=provider)
    assert bool(offered_type(shape).refusal) is refused
    assert offered_type(shape).vcpus == 2

"""A deployment's way from one state to the next."""

from __future__ import annotations

from chassis.clock import Clock
from chassis.database import UnitOfWork
from chassis.telemetry import get_logger
from services.deploy.domain.deployments import DeploymentState
from services.deploy.events.published import deployment_changed
from services.deploy.storage.tables import DeploymentRow

log = get_logger(__name__)


def move(uow: UnitOfWork, clock: Clock, deployment: DeploymentRow, state: DeploymentState, detail: str = "") -> None:
    """Put a locked deployment into a state, a new revision of it, and say so."""
    deployment.state, deployment.state_detail = int(state), detail
    deployment.revision += 1
    uow.session.add(deployment)
    uow.emit(deployment_changed(deployment, clock.now()))
    log.info("deployment changed", deployment=deployment.resource, state=state.name, detail=detail)

"""What deploy refuses."""

from __future__ import annotations

from chassis.errors import Code, Problem


class ProjectExists(Problem):
    """The project's name is taken."""

    code = Code.ALREADY_EXISTS
    reason = "PROJECT_EXISTS"


class LastOwner(Problem):
    """A project keeps at least one owner."""

    code = Code.FAILED_PRECONDITION
    reason = "LAST_OWNER"


class MemberInvalid(Problem):
    """Not a principal, or not a role within a project."""

    code = Code.INVALID_ARGUMENT
    reason = "MEMBER_INVALID"


class MemberNotFound(Problem):
    """The principal has no role in this project."""

    code = Code.NOT_FOUND
    reason = "MEMBER_NOT_FOUND"


class ApiKeyNotFound(Problem):
    """No such key in this project."""

    code = Code.NOT_FOUND
    reason = "API_KEY_NOT_FOUND"


class ApiKeyExpiryPast(Problem):
    """A key that would be expired when it is made."""

    code = Code.INVALID_ARGUMENT
    reason = "API_KEY_EXPIRY_PAST"


class TrialsExhausted(Problem):
    """As many models are tried at once as may be."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "TRIALS_EXHAUSTED"


class EndpointExists(Problem):
    """The endpoint's name is taken in this project."""

    code = Code.ALREADY_EXISTS
    reason = "ENDPOINT_EXISTS"


class EndpointNotFound(Problem):
    """No such endpoint in this project."""

    code = Code.NOT_FOUND
    reason = "ENDPOINT_NOT_FOUND"


class DeploymentExists(Problem):
    """The deployment's name is taken behind this endpoint."""

    code = Code.ALREADY_EXISTS
    reason = "DEPLOYMENT_EXISTS"


class DeploymentNotFound(Problem):
    """No such deployment behind this endpoint."""

    code = Code.NOT_FOUND
    reason = "DEPLOYMENT_NOT_FOUND"


class DeploymentHasTraffic(Problem):
    """A deployment that takes traffic is not deleted by accident."""

    code = Code.FAILED_PRECONDITION
    reason = "DEPLOYMENT_HAS_TRAFFIC"


class DeploymentNotManaged(Problem):
    """Only managed deployments have instances of their own."""

    code = Code.FAILED_PRECONDITION
    reason = "DEPLOYMENT_NOT_MANAGED"


class TrafficNotWhole(Problem):
    """Percentages total 100, or there are none."""

    code = Code.INVALID_ARGUMENT
    reason = "TRAFFIC_NOT_WHOLE"


class QuoteExpired(Problem):
    """The quote's time has passed."""

    code = Code.FAILED_PRECONDITION
    reason = "QUOTE_EXPIRED"
    http = 409


class QuoteMismatch(Problem):
    """The quote is for something else, or for another project."""

    code = Code.FAILED_PRECONDITION
    reason = "QUOTE_MISMATCH"
    http = 409


class VersionRetired(Problem):
    """The version answers nothing any more."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_RETIRED"
    http = 410


class VersionDeprecated(Problem):
    """The version takes no new deployments."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_DEPRECATED"


class InstanceCountInvalid(Problem):
    """Outside what one deployment may have."""

    code = Code.INVALID_ARGUMENT
    reason = "INSTANCE_COUNT_INVALID"


class CapacityExceeded(Problem):
    """The platform has no room for so many instances."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "CAPACITY_EXCEEDED"


class QuotaExceeded(Problem):
    """The project or endpoint has as many as it may."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"

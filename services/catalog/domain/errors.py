"""What the catalog refuses."""

from __future__ import annotations

from chassis.errors import Code, Problem


class ModelNotFound(Problem):
    """No such model or version."""

    code = Code.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class InstanceTypeNotFound(Problem):
    """No such instance type."""

    code = Code.NOT_FOUND
    reason = "INSTANCE_TYPE_NOT_FOUND"


class ContentInvalid(Problem):
    """A content file with a wrong field."""

    code = Code.INVALID_ARGUMENT
    reason = "CATALOG_CONTENT_INVALID"

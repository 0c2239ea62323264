"""Who may call what: tokens, roles, rules read from the protos."""

from chassis.access.caller import Caller, current_caller
from chassis.access.directory import BucketRoleDirectory, ProjectRoles, RoleDirectory
from chassis.access.policy import AccessPolicy, KeyAuthenticator
from chassis.access.tokens import Claims, TokenVerifier, issue_token, new_signing_key

__all__ = [
    "AccessPolicy",
    "BucketRoleDirectory",
    "Caller",
    "Claims",
    "KeyAuthenticator",
    "ProjectRoles",
    "RoleDirectory",
    "TokenVerifier",
    "current_caller",
    "issue_token",
    "new_signing_key",
]

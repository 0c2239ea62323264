"""The access rules of the protos, enforced in one place."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from modelyard.type.v1 import access_pb2

from chassis.access.caller import ANONYMOUS, Caller, CallerKind
from chassis.access.directory import ProjectRoles, RoleDirectory
from chassis.access.tokens import TokenVerifier, bearer_token
from chassis.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated

Metadata = Mapping[str, str]
KeyAuthenticator = Callable[[Metadata], Awaitable[Caller]]

_PROJECT = re.compile(r"projects/([A-Za-z0-9][A-Za-z0-9._~-]{0,127})(?:/|$)")
# Health and reflection say nothing about anyone.
_OPEN_SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


class AccessUndeclared(Exception):
    """An RPC without an access rule; the server does not start."""


@dataclass
class AccessPolicy:
    """Decides who a caller is and whether it may call a method.

    Args:
        verifier: Checks control-plane tokens.
        directory: Knows the roles in projects; None where no RPC belongs to a project.
        authenticate_key: Checks inference keys, where the server has ROLE_KEY methods.
        foreign_rules: Rules of methods whose contract is not ours, by "/package.Service/".
    """

    verifier: TokenVerifier
    directory: RoleDirectory | None = None
    authenticate_key: KeyAuthenticator | None = None
    foreign_rules: Mapping[str, access_pb2.AccessRule] = field(default_factory=dict)
    _rules: dict[str, access_pb2.AccessRule] = field(default_factory=dict)

    def learn(self, service_names: Iterable[str]) -> None:
        """Read the rules of these services.

        Raises:
            AccessUndeclared: naming the method without one, or one whose requests are a stream: a rule is checked
                against one request.
        """
        pool = descriptor_pool.Default()
        for service_name in service_names:
            prefix = f"/{service_name}/"
            if prefix in self.foreign_rules:
                continue
            for method in pool.FindServiceByName(service_name).methods:
                rule = method.GetOptions().Extensions[access_pb2.access]
                if rule.role == access_pb2.ROLE_UNSPECIFIED:
                    raise AccessUndeclared(f"{method.full_name} declares no access rule")
                if method.client_streaming:
                    raise AccessUndeclared(f"{method.full_name} takes a stream of requests; no rule covers those")
                self._rules[prefix + method.name] = rule

    def rule(self, method: str) -> access_pb2.AccessRule | None:
        """The rule of `/package.Service/Method`; None where everyone may call it (health, reflection)."""
        service = method[1:].partition("/")[0]
        if service in _OPEN_SERVICES:
            return None
        if (known := self._rules.get(method)) is not None:
            return known
        foreign = self.foreign_rules.get(f"/{service}/")
        if foreign is None:
            raise PermissionDenied(f"{method} is not served here")
        return foreign

    async def authenticate(self, rule: access_pb2.AccessRule, metadata: Metadata) -> Caller:
        """Who is calling.

        Raises:
            Unauthenticated: no credential, or one that is not valid.
        """
        if rule.role == access_pb2.ROLE_PUBLIC:
            return ANONYMOUS
        if rule.role == access_pb2.ROLE_KEY:
            if self.authenticate_key is None:
                raise Unauthenticated("this server takes no inference keys")
            return await self.authenticate_key(metadata)
        claims = await self.verifier.verify(bearer_token(metadata.get("authorization")))
        if claims.service:
            return Caller(claims.service, CallerKind.SERVICE)
        return Caller(claims.principal, CallerKind.USER, is_admin=claims.is_admin)

    async def authorize(self, rule: access_pb2.AccessRule, caller: Caller, request: Any) -> Caller:
        """The caller with its project and role, if it may do this.

        Args:
            request: The request; None for a stream of them, which only rules without a role allow.

        Raises:
            PermissionDenied: it may not, or the project does not exist: both answer alike.
            NotFound: an admin named a project that does not exist.
            InvalidArgument: the request names no project.
        """
        if rule.role in (access_pb2.ROLE_PUBLIC, access_pb2.ROLE_KEY):
            return caller
        if request is None:
            raise PermissionDenied("a stream of requests names no project to check a role in")
        if caller.kind is CallerKind.SERVICE:
            if caller.principal not in rule.services:
                raise PermissionDenied(f"service {caller.principal!r} may not call this")
        elif rule.role == access_pb2.ROLE_SERVICE:
            raise PermissionDenied("only services of the platform may call this")
        if not rule.project:
            return self._outside_projects(rule, caller)
        return await self._inside_project(rule, caller, request)

    def _outside_projects(self, rule: access_pb2.AccessRule, caller: Caller) -> Caller:
        if rule.role == access_pb2.ROLE_ADMIN and not caller.is_admin and caller.kind is not CallerKind.SERVICE:
            raise PermissionDenied(f"principal {caller.principal!r} is no admin; an admin's credential is needed")
        return caller

    async def _inside_project(self, rule: access_pb2.AccessRule, caller: Caller, request: Any) -> Caller:
        named = project_in(request, rule.project)
        if self.directory is None:
            raise PermissionDenied("this server knows no projects")
        if caller.kind is CallerKind.SERVICE or caller.is_admin:
            roles = await self.directory.find_project(named)
            if roles is None:
                raise NotFound(f"project {named!r} does not exist; `modelyard project list` shows those that do")
            return _within(caller, roles, access_pb2.ROLE_ADMIN if caller.is_admin else access_pb2.ROLE_SERVICE)
        roles = await self.directory.find_project(named, caller.principal, rule.role)
        role = roles.roles.get(caller.principal, 0) if roles is not None else 0
        if roles is None or role < rule.role:
            needed = access_pb2.Role.Name(rule.role).removeprefix("ROLE_").lower().replace("_", " ")
            raise PermissionDenied(
                f"principal {caller.principal!r} is not {needed} of project {named!r}; an owner of the project can add it "
                "with `modelyard member add`"
            )
        return _within(caller, roles, role)


def _within(caller: Caller, roles: ProjectRoles, role: int) -> Caller:
    return replace(caller, project_uid=roles.project_uid, project=roles.project, role=role)


def project_in(request: Message, path: str) -> str:
    """The project that a request's field names: `projects/{project}/…`.

    Raises:
        InvalidArgument: it names none.
    """
    value: Any = request
    for step in path.split("."):
        value = getattr(value, step)
    match = _PROJECT.match(value)
    if match is None:
        shown = value if len(value) <= 200 else f"{value[:200]}…"
        raise InvalidArgument(f"{path} {shown!r} does not begin with 'projects/{{project}}'", field=path)
    return match.group(1)

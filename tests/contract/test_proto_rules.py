"""Rules every RPC of every service keeps, read from the descriptors: a new RPC is tested before its test is written."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from modelyard.type.v1 import access_pb2

from tests.infra.platform import access_rule, service_methods

METHODS = service_methods()
PROJECT_ROLES = {
    access_pb2.ROLE_BILLING_READER,
    access_pb2.ROLE_READER,
    access_pb2.ROLE_CONTRIBUTOR,
    access_pb2.ROLE_OWNER,
}


def every(prefix: str = "") -> pytest.MarkDecorator:
    chosen = [method for method in METHODS if method.name.startswith(prefix)]
    assert chosen, f"no RPC begins with {prefix!r}"
    return pytest.mark.parametrize("method", chosen, ids=lambda method: method.full_name)


def field_names(message: Descriptor) -> set[str]:
    return set(message.fields_by_name)


@every()
def test_declares_its_role(method: MethodDescriptor) -> None:
    """Every RPC says who may call it."""
    assert access_rule(method).role != access_pb2.ROLE_UNSPECIFIED


@every()
def test_project_roles_name_the_project(method: MethodDescriptor) -> None:
    """A role within a project is worthless without the field that names the project."""
    rule = access_rule(method)
    if rule.role not in PROJECT_ROLES:
        assert rule.project == ""
        return
    message = method.input_type
    *path, last = rule.project.split(".")
    for step in path:
        message = message.fields_by_name[step].message_type
    assert last in field_names(message), f"{method.full_name} has no field {rule.project!r}"


@every("List")
def test_lists_page(method: MethodDescriptor) -> None:
    """Every List takes a page size and an opaque token, and returns the next token."""
    assert {"page_size", "page_token"} <= field_names(method.input_type)
    assert "next_page_token" in field_names(method.output_type)


@every("Create")
def test_creates_are_idempotent(method: MethodDescriptor) -> None:
    """Every Create takes a request id."""
    assert "request_id" in field_names(method.input_type)


@every("Watch")
def test_watches_resume(method: MethodDescriptor) -> None:
    """Every Watch streams and can go on where it ended."""
    assert method.server_streaming
    assert {"resume_token", "after_revision"} & field_names(method.input_type)

"""Roles within a project."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from services.deploy.domain.errors import LastOwner, MemberInvalid, MemberNotFound

PRINCIPAL_LENGTH_MAX = 128


class Role(IntEnum):
    """The numbers are those of `modelyard.type.v1.Role`."""

    BILLING_READER = 3
    READER = 4
    CONTRIBUTOR = 5
    OWNER = 6


def with_member(members: Mapping[str, int], principal: str, role: int) -> dict[str, int]:
    """The members when a principal gets a role.

    Raises:
        MemberInvalid: not a principal, or not a role within a project.
        LastOwner: it would take the last owner's role away.
    """
    if not 1 <= len(principal) <= PRINCIPAL_LENGTH_MAX or not principal.isprintable():
        raise MemberInvalid(
            f"a principal has 1 to {PRINCIPAL_LENGTH_MAX} printable characters; this one has {len(principal)}",
            field="member.principal",
        )
    if role not in set(Role):
        raise MemberInvalid("a member's role is billing reader, reader, contributor or owner", field="member.role")
    changed = {**members, principal: role}
    _check_owner_left(members, changed)
    return changed


def without_member(members: Mapping[str, int], principal: str) -> dict[str, int]:
    """The members when a principal leaves.

    Raises:
        MemberNotFound: it was none.
        LastOwner: it is the last owner.
    """
    if principal not in members:
        raise MemberNotFound(f"principal {principal[:PRINCIPAL_LENGTH_MAX]!r} is no member", field="principal")
    changed = {name: role for name, role in members.items() if name != principal}
    _check_owner_left(members, changed)
    return changed


def _check_owner_left(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    if Role.OWNER in before.values() and Role.OWNER not in after.values():
        raise LastOwner("a project keeps at least one owner; make someone else an owner first")

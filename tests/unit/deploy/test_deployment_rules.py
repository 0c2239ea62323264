"""States, sizes, splits, members: the cases the properties do not name."""

from __future__ import annotations

import pytest

from services.deploy.domain.deployments import (
    NEXT_STATES,
    DeploymentState,
    check_instance_count,
    derive_state,
    size,
)
from services.deploy.domain.errors import (
    InstanceCountInvalid,
    LastOwner,
    MemberInvalid,
    MemberNotFound,
    TrafficNotWhole,
)
from services.deploy.domain.members import PRINCIPAL_LENGTH_MAX, Role, with_member, without_member
from services.deploy.domain.traffic import check_traffic, without

CREATING, ACTIVE, UPDATING, FAILED, DELETING, DELETED = DeploymentState


@pytest.mark.parametrize(
    ("current", "wanted", "living", "ready", "gave_up", "then"),
    [
        (CREATING, 1, 1, 0, False, CREATING),
        (CREATING, 1, 1, 1, False, ACTIVE),
        (CREATING, 2, 2, 1, False, UPDATING),
        (CREATING, 1, 0, 0, True, FAILED),
        (ACTIVE, 1, 1, 0, False, UPDATING),
        (ACTIVE, 1, 2, 2, False, UPDATING),
        (ACTIVE, 1, 0, 0, True, FAILED),
        (UPDATING, 2, 2, 2, False, ACTIVE),
        (UPDATING, 2, 1, 1, True, UPDATING),
        (FAILED, 1, 1, 0, False, UPDATING),
        (FAILED, 1, 1, 1, False, ACTIVE),
    ],
)
def test_the_state_says_what_is_observed(
    current: DeploymentState, wanted: int, living: int, ready: int, gave_up: bool, then: DeploymentState
) -> None:
    """ACTIVE when all answer, FAILED when none does and starting was given up, else on the way."""
    state = derive_state(current, wanted=wanted, living=living, ready=ready, deleting=False, gave_up=gave_up)
    assert state is then


@pytest.mark.parametrize("current", [CREATING, ACTIVE, UPDATING, FAILED])
def test_deleting_comes_before_deleted(current: DeploymentState) -> None:
    """A watcher sees DELETING even where no instance has to end."""
    assert derive_state(current, wanted=1, living=0, ready=0, deleting=True, gave_up=False) is DELETING


def test_a_deployment_is_deleting_while_an_instance_lives() -> None:
    """DELETED says that nothing is left to bill."""
    assert derive_state(DELETING, wanted=1, living=1, ready=1, deleting=True, gave_up=False) is DELETING


def test_nothing_leaves_deleted() -> None:
    """A name that is used again is another deployment."""
    assert NEXT_STATES[DELETED] == frozenset()
    assert derive_state(DELETED, wanted=1, living=1, ready=1, deleting=False, gave_up=False) is DELETED


@pytest.mark.parametrize("count", [1, 50])
def test_a_deployment_has_1_to_50_instances(count: int) -> None:
    """Both limits are allowed."""
    assert check_instance_count(count) == count


@pytest.mark.parametrize("count", [-1, 0, 51])
def test_other_counts_are_refused_by_name(count: int) -> None:
    """The message has the value and the limits; there is no scale to zero."""
    with pytest.raises(InstanceCountInvalid, match=f"instance_count {count}; 1 to 50 are allowed"):
        check_instance_count(count)


def test_sizing_down_ends_the_newest_first() -> None:
    """The oldest are warm and hold the longest calls."""
    assert size(["old", "middle", "new"], 1).release == ("new", "middle")


@pytest.mark.parametrize("traffic", [{"blue": 99}, {"blue": 101}, {"blue": 60, "green": 60}, {"blue": -20}])
def test_a_split_that_is_not_whole_is_refused(traffic: dict[str, int]) -> None:
    """Neither 0 nor 100 in total."""
    with pytest.raises(TrafficNotWhole):
        check_traffic(traffic, ["blue", "green"])


def test_a_negative_share_is_refused_although_the_total_is_100() -> None:
    """Each share is a percentage of its own."""
    with pytest.raises(TrafficNotWhole, match="traffic of 'blue' is -20; 0 to 100 are allowed"):
        check_traffic({"blue": -20, "green": 120}, ["blue", "green"])


def test_shares_of_zero_are_not_kept() -> None:
    """A deployment that takes no traffic is not in the split."""
    assert check_traffic({"blue": 100, "green": 0}, ["blue", "green"]) == {"blue": 100}


def test_a_split_without_one_grows_in_proportion() -> None:
    """Largest remainders first, names decide between equals."""
    assert without({"blue": 50, "green": 25, "red": 25}, "blue") == {"green": 50, "red": 50}
    assert without({"blue": 1, "green": 33, "grey": 33, "red": 33}, "blue") == {"green": 34, "grey": 33, "red": 33}


def test_a_split_without_its_only_deployment_is_empty() -> None:
    """Then calls that name no deployment have none."""
    assert without({"blue": 100}, "blue") == {}


@pytest.mark.parametrize("principal", ["", "a" * (PRINCIPAL_LENGTH_MAX + 1), "user:\nann"])
def test_what_is_no_principal_gets_no_role(principal: str) -> None:
    """1 to 128 printable characters."""
    with pytest.raises(MemberInvalid) as refused:
        with_member({}, principal, Role.READER)
    assert refused.value.field == "member.principal"


@pytest.mark.parametrize("role", [0, 1, 2, 7])
def test_roles_of_the_platform_are_no_roles_in_a_project(role: int) -> None:
    """Nobody becomes an admin through a project."""
    with pytest.raises(MemberInvalid) as refused:
        with_member({}, "user:ann", role)
    assert refused.value.field == "member.role"


def test_the_last_owner_neither_leaves_nor_steps_down() -> None:
    """A project without an owner could never get one again."""
    members = {"user:ann": int(Role.OWNER), "user:bob": int(Role.READER)}
    with pytest.raises(LastOwner):
        without_member(members, "user:ann")
    with pytest.raises(LastOwner):
        with_member(members, "user:ann", Role.READER)


def test_an_owner_leaves_when_another_stays() -> None:
    """The rule is one owner, not this owner."""
    members = {"user:ann": int(Role.OWNER), "user:bob": int(Role.OWNER)}
    assert without_member(members, "user:ann") == {"user:bob": int(Role.OWNER)}


def test_only_members_leave() -> None:
    """Removing a stranger is an error, not a success."""
    with pytest.raises(MemberNotFound, match="user:cid"):
        without_member({"user:ann": int(Role.OWNER)}, "user:cid")

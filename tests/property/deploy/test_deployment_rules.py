"""Deployments never leave their diagram, sizes are reached, splits stay whole, owners stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deploy.domain.deployments import NEXT_STATES, DeploymentState, derive_state, size
from services.deploy.domain.errors import DeploymentNotFound, LastOwner, MemberNotFound, TrafficNotWhole
from services.deploy.domain.members import Role, with_member, without_member
from services.deploy.domain.traffic import check_traffic, without

OBSERVATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "wanted": st.integers(1, 3),
            "living": st.integers(0, 4),
            "ready": st.integers(0, 4),
            "deleting": st.booleans(),
            "gave_up": st.booleans(),
        }
    ),
    max_size=30,
)
NAMES = st.sampled_from(["blue", "green", "grey", "red"])


@given(OBSERVATIONS)
def test_no_sequence_of_observations_leaves_the_diagram(observations: list[dict[str, int]]) -> None:
    """A deployment stays where it is or moves along NEXT_STATES, whatever is observed."""
    state = DeploymentState.CREATING
    for observed in observations:
        observed["ready"] = min(observed["ready"], observed["living"])
        then = derive_state(state, **observed)  # type: ignore[arg-type]
        assert then is state or then in NEXT_STATES[state]
        state = then


@given(st.sampled_from(list(DeploymentState)))
def test_a_deleted_deployment_without_instances_is_gone_after_two_looks(state: DeploymentState) -> None:
    """Nothing keeps a deployment in DELETING once no instance lives."""
    for _ in range(2):
        state = derive_state(state, wanted=1, living=0, ready=0, deleting=True, gave_up=False)
    assert state is DeploymentState.DELETED


@given(st.lists(st.uuids().map(str), unique=True, max_size=10), st.integers(0, 10))
def test_sizing_reaches_what_is_wanted(living: list[str], wanted: int) -> None:
    """What is kept plus what is allocated is what is wanted."""
    sizing = size(living, wanted)
    assert len(living) - len(sizing.release) + sizing.allocate == wanted


@given(st.lists(st.uuids().map(str), unique=True, max_size=10), st.integers(0, 10))
def test_sizing_releases_the_newest(living: list[str], wanted: int) -> None:
    """The oldest instances stay; nothing is released while something is allocated."""
    sizing = size(living, wanted)
    assert list(reversed(sizing.release)) == living[len(living) - len(sizing.release) :]
    assert not (sizing.release and sizing.allocate)


def _split(names: list[str], cuts: list[int]) -> dict[str, int]:
    """Shares of names that total 100, zeros among them."""
    edges = [0, *sorted(cuts[: len(names) - 1]), 100]
    return {name: edges[index + 1] - edges[index] for index, name in enumerate(names)}


SPLITS = st.builds(
    _split,
    st.lists(NAMES, unique=True, min_size=4, max_size=4),
    st.lists(st.integers(0, 100), min_size=3, max_size=3),
)
OPERATIONS = st.lists(
    st.one_of(SPLITS, st.dictionaries(NAMES, st.integers(-5, 105)), NAMES),
    max_size=20,
)


@given(OPERATIONS)
def test_traffic_totals_100_or_is_empty(operations: list[dict[str, int] | str]) -> None:
    """Any sequence of splits and deletions leaves a whole split without zeros, or none."""
    traffic: dict[str, int] = {}
    for operation in operations:
        if isinstance(operation, str):
            traffic = without(traffic, operation)
            assert operation not in traffic
        else:
            try:
                traffic = check_traffic(operation, ["blue", "green", "grey", "red"])
            except TrafficNotWhole:
                assert sum(operation.values()) not in (0, 100) or not all(0 <= n <= 100 for n in operation.values())
        assert sum(traffic.values()) in (0, 100)
        assert all(share > 0 for share in traffic.values())


@given(SPLITS, NAMES)
def test_what_is_left_of_a_split_keeps_its_order(split: dict[str, int], gone: str) -> None:
    """Nobody who had more ends with less, and nobody loses."""
    left = without(split, gone)
    for name, share in left.items():
        assert share >= split[name]
        assert all(left[other] <= share for other in left if split[other] < split[name])


@given(SPLITS, NAMES)
def test_a_share_of_an_unknown_deployment_is_refused(split: dict[str, int], gone: str) -> None:
    """Also a share of zero names a deployment that must exist."""
    with pytest.raises(DeploymentNotFound, match=gone):
        check_traffic(split, [name for name in split if name != gone])


@given(
    st.lists(
        st.tuples(st.sampled_from(["user:ann", "user:bob", "user:cid"]), st.one_of(st.none(), st.sampled_from(Role))),
        max_size=20,
    )
)
def test_a_project_always_has_an_owner(changes: list[tuple[str, Role | None]]) -> None:
    """No sequence of joins, role changes and departures takes the last owner away."""
    members: dict[str, int] = {"user:ann": int(Role.OWNER)}
    for principal, role in changes:
        try:
            members = without_member(members, principal) if role is None else with_member(members, principal, role)
        except MemberNotFound:
            assert principal not in members
        except LastOwner:
            assert [name for name, held in members.items() if held == Role.OWNER] == [principal]
        assert Role.OWNER in members.values()

"""What keeps a version from being quoted or deployed, and whether it fits: every reason at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from services.catalog.domain.checks import (
    Acceptance,
    Candidate,
    Finding,
    Option,
    check_candidate,
    check_offered,
    fitting,
)
from services.catalog.domain.errors import PolicyInvalid
from services.catalog.domain.fit import Needs, Shape, misfits
from services.catalog.domain.lifecycle import Dates, Stage
from services.catalog.domain.policy import Policed, Policy, check_policy, violations

GIB = 1 << 30
MODEL = "publishers/acme/models/talker"
TALKER = Policed("curated", "acme", "Apache-2.0", MODEL, f"{MODEL}/versions/2")
SMALL = Shape("local-1", vcpus=1, memory_bytes=2 * GIB, disk_bytes=4 * GIB, provider="local")
LARGE = Shape("local-4", vcpus=4, gpus=1, memory_bytes=16 * GIB, disk_bytes=64 * GIB, provider="local")
ELSEWHERE = replace(LARGE, id="Standard_NC4", provider="")
UNKNOWN = Shape("Standard_Odd")
CANDIDATE = Candidate(
    policed=TALKER,
    latest_version=TALKER.version,
    license_digest="ab" * 32,
    acceptance_required=False,
    withdrawn=False,
    stage=Stage.GA,
    dates=Dates(),
    replacement="",
    deployment_options=("MANAGED", "SERVERLESS"),
    not_runnable="",
    needs=Needs(vcpus=2, memory_bytes=4 * GIB),
)


def findings(
    candidate: Candidate = CANDIDATE,
    *,
    policy: Policy | None = None,
    acceptance: Acceptance | None = None,
    option: Option | None = Option.MANAGED,
    shape: Shape | None = LARGE,
) -> list[Finding]:
    return check_candidate(
        candidate,
        project="shop",
        policy=policy or Policy(),
        acceptance=acceptance,
        option=option,
        shape=shape,
        offered=[SMALL, LARGE],
    )


def reasons(found: list[Finding]) -> list[str]:
    return [finding.problem.reason for finding in found if finding.problem is not None]


def test_a_version_that_may_be_deployed() -> None:
    """Every question has an answer, and none of them refuses."""
    found = findings()
    assert [finding.subject for finding in found] == [
        "stage",
        "policy",
        "licence",
        "way to deploy",
        "instance type",
        "fit",
    ]
    assert reasons(found) == []


@pytest.mark.parametrize(
    ("candidate", "asked", "reason"),
    [
        (replace(CANDIDATE, stage=Stage.RETIRED), {}, "MODEL_RETIRED"),
        (replace(CANDIDATE, stage=Stage.DEPRECATED), {}, "MODEL_DEPRECATED"),
        (replace(CANDIDATE, withdrawn=True), {}, "MODEL_WITHDRAWN"),
        (CANDIDATE, {"policy": Policy(allowed_publishers=("other",))}, "POLICY_REFUSED"),
        (replace(CANDIDATE, acceptance_required=True), {}, "LICENSE_NOT_ACCEPTED"),
        (replace(CANDIDATE, deployment_options=("SERVERLESS",)), {}, "MODEL_NOT_RUNNABLE"),
        (replace(CANDIDATE, not_runnable="no GPU here"), {}, "MODEL_NOT_RUNNABLE"),
        (replace(CANDIDATE, not_runnable="no engine", architecture="Odd"), {}, "ARCHITECTURE_NOT_SUPPORTED"),
        (
            replace(CANDIDATE, latest_version=f"{MODEL}/versions/3"),
            {"option": Option.SERVERLESS, "shape": None},
            "MODEL_NOT_RUNNABLE",
        ),
        (CANDIDATE, {"shape": ELSEWHERE}, "MODEL_NOT_RUNNABLE"),
        (CANDIDATE, {"shape": UNKNOWN}, "INSTANCE_TYPE_NOT_QUOTABLE"),
        (CANDIDATE, {"shape": SMALL}, "INSTANCE_TYPE_TOO_SMALL"),
        (replace(CANDIDATE, needs=Needs(vcpus=8)), {"shape": None}, "INSTANCE_TYPE_TOO_SMALL"),
        (replace(CANDIDATE, needs=Needs(allowed=("local-9",))), {}, "INSTANCE_TYPE_NOT_ALLOWED"),
    ],
)
def test_one_reason_alone(candidate: Candidate, asked: dict[str, object], reason: str) -> None:
    """Each rule refuses by itself, and no other with it."""
    assert reasons(findings(candidate, **asked)) == [reason]


def test_every_reason_at_once() -> None:
    """Nobody mends one thing to learn of the next; the gravest comes first."""
    everything = replace(
        CANDIDATE, stage=Stage.DEPRECATED, acceptance_required=True, deployment_options=("SERVERLESS",)
    )
    refused = findings(everything, policy=Policy(allowed_licenses=("MIT",), blocked=(MODEL,)), shape=SMALL)
    assert reasons(refused) == [
        "MODEL_DEPRECATED",
        "POLICY_REFUSED",
        "POLICY_REFUSED",
        "LICENSE_NOT_ACCEPTED",
        "MODEL_NOT_RUNNABLE",
        "INSTANCE_TYPE_TOO_SMALL",
    ]


def test_the_way_out_of_a_licence() -> None:
    """The command that accepts it stands in the refusal, ready to be typed."""
    (refusal,) = [
        finding.message for finding in findings(replace(CANDIDATE, acceptance_required=True)) if finding.problem
    ]
    assert "modelyard licenses accept acme/talker --project shop" in refusal


def test_an_accepted_licence_says_who_accepted_it() -> None:
    """Whoever reads the check sees who bound the project, and when."""
    acceptance = Acceptance("user:ann", datetime(2026, 3, 1, 9, tzinfo=UTC))
    found = findings(replace(CANDIDATE, acceptance_required=True), acceptance=acceptance)
    assert "Apache-2.0 was accepted by user:ann on 2026-03-01" in [finding.message for finding in found]
    assert reasons(found) == []


def test_a_refusal_by_policy_names_its_rule() -> None:
    """Rule and value, for people in the message and for programs beside it."""
    policy = Policy(allowed_collections=("hub",), blocked=(TALKER.version,))
    refused = [finding.problem for finding in findings(policy=policy) if finding.problem]
    assert [problem.metadata for problem in refused] == [
        {"rule": "allowed_collections", "value": "curated"},
        {"rule": "blocked", "value": TALKER.version},
    ]
    assert "rule blocked of the policy of project 'shop' holds" in refused[1].message


def test_dates_ahead_are_told_before_they_matter() -> None:
    """A version that goes on for a while is deployable, and its check says for how long."""
    dates = Dates(legacy=date(2026, 1, 1), deprecation=date(2026, 2, 1), retirement=date(2026, 6, 1))
    stage = findings(replace(CANDIDATE, stage=Stage.LEGACY, dates=dates))[0]
    assert stage.message == "it is legacy, no new deployments from 2026-02-01 on, no answers from 2026-06-01 on"


def test_a_replacement_is_the_way_out() -> None:
    """Who may not deploy the old one is told the new one."""
    retired = replace(CANDIDATE, stage=Stage.RETIRED, replacement="publishers/acme/models/speaker")
    assert "deploy publishers/acme/models/speaker instead" in findings(retired)[0].message


def test_types_that_fit() -> None:
    """Only those that are offered and large enough."""
    assert fitting(CANDIDATE, [SMALL, LARGE]) == ["local-4"]


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (Needs(vcpus=2), "cores: 2, and it has 1"),
        (Needs(gpus=1), "accelerators: 1, and it has 0"),
        (Needs(memory_bytes=3 * GIB), "memory: 3 GiB, and it has 2 GiB"),
        (Needs(disk_bytes=5 * GIB), "local disk: 5 GiB, and it has 4 GiB"),
    ],
)
def test_why_a_type_is_too_small(needs: Needs, said: str) -> None:
    """What is wanted and what is there, of each thing that is short."""
    (problem,) = misfits("v", needs, SMALL)
    assert said in problem.message


@pytest.mark.parametrize(("shape", "passes"), [(LARGE, True), (ELSEWHERE, False), (UNKNOWN, False)])
def test_types_alone(shape: Shape, passes: bool) -> None:
    """Without a model a type is quoted where its shape is known and it is offered here."""
    assert [finding.problem is None for finding in check_offered(shape)] == [passes]


def test_an_empty_policy_allows_all() -> None:
    """Nothing is refused that nobody wrote a rule for."""
    assert not list(violations(Policy(), TALKER))


def test_every_list_has_to_agree() -> None:
    """A model that one list holds and another does not is refused by that one alone."""
    policy = Policy(allowed_collections=("curated",), allowed_publishers=("other",), allowed_licenses=("Apache-2.0",))
    assert [violation.rule for violation in violations(policy, TALKER)] == ["allowed_publishers"]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Policy(blocked=tuple(f"m{number}" for number in range(4))), "blocked has 4 entries; at most 3"),
        (Policy(allowed_licenses=("",)), "1 to 512 printable"),
        (Policy(allowed_licenses=("a\nb",)), "1 to 512 printable"),
    ],
)
def test_policies_that_are_refused(policy: Policy, said: str) -> None:
    """The list, the value and the limit are named."""
    with pytest.raises(PolicyInvalid, match=said):
        check_policy(policy, 3)


def test_a_policy_is_kept_sorted_and_once() -> None:
    """Two that say the same are the same."""
    assert check_policy(Policy(blocked=("b", "a", "b")), 3) == Policy(blocked=("a", "b"))

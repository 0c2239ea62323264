"""Checks as messages, and the one refusal that several of them make."""

from __future__ import annotations

from collections.abc import Iterable

from modelyard.type.v1 import checks_pb2

from chassis.errors import Code, Problem


def check_to_proto(subject: str, message: str, problem: Problem | None) -> checks_pb2.Check:
    """The answer to one question; `problem` is the refusal, None where nothing stands in the way."""
    return checks_pb2.Check(
        subject=subject,
        passed=problem is None,
        reason="" if problem is None else problem.reason,
        message=message if problem is None else problem.message,
    )


def problem_from_checks(checks: Iterable[checks_pb2.Check]) -> Problem | None:
    """The refusal that the failed checks make together, None where all passed.

    Its reason is the first one's; its message and its metadata (`reasons`, joined by commas) hold all.
    """
    failed = [check for check in checks if not check.passed]
    if not failed:
        return None
    reasons = list(dict.fromkeys(check.reason for check in failed))
    message = ". Also: ".join(check.message for check in failed)
    problem = Problem(message, metadata={"reasons": ",".join(reasons)})
    problem.code, problem.reason = Code.FAILED_PRECONDITION, reasons[0]
    return problem

"""The dates of the version behind a call, told beside its answer before they come."""

from __future__ import annotations

from email.utils import formatdate

from modelyard.deploy.v1 import routes_pb2

from chassis.answer_headers import say_beside_answer


def tell_dates(deployment: routes_pb2.RouteDeployment) -> None:
    """Say from when the version takes no new deployments (`deprecation`, RFC 9745) and answers nothing (`sunset`, RFC
    8594), each where a date is set. In a stream of calls the last one counts."""
    if deployment.HasField("deprecation_time"):
        say_beside_answer("deprecation", f"@{deployment.deprecation_time.seconds}")
    if deployment.HasField("retire_time"):
        say_beside_answer("sunset", formatdate(deployment.retire_time.seconds, usegmt=True))

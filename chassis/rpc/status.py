"""Problems as google.rpc.Status, and back."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from chassis.errors import Code, Problem

DOMAIN = "modelyard"
_CODE_BY_NUMBER = {code.grpc_number: code for code in Code}


def status_from_problem(problem: Problem) -> grpc.Status:
    """Code, message and details: ErrorInfo always, BadRequest for a field, RetryInfo where a repeat may succeed."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN, metadata=problem.metadata)
    ]
    if problem.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=problem.field, description=problem.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if problem.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(problem.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [_packed(detail) for detail in details]
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=problem.code.grpc_number, message=problem.message, details=packed)
    )
    return status


def problem_from_rpc_error(error: grpc.aio.AioRpcError) -> Problem:
    """The problem another service answered with, as it said it; code, reason, message and metadata are kept."""
    code = _CODE_BY_NUMBER.get(error.code().value[0], Code.INTERNAL)
    problem = Problem(error.details() or error.code().name)
    problem.code = code
    problem.reason = "DEPENDENCY_UNAVAILABLE" if code is Code.UNAVAILABLE else code.name
    status = rpc_status.from_call(error)
    if status is None:
        return problem
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            problem.reason = info.reason
            problem.metadata = dict(info.metadata)
        elif detail.Unpack(retry):
            problem.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return problem


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed

"""gRPC servers and clients with access, errors, deadlines and request ids."""

from chassis.rpc.client import service_channel
from chassis.rpc.server import RpcServer, ServedService, Tls
from chassis.rpc.status import problem_from_rpc_error

__all__ = ["RpcServer", "ServedService", "Tls", "problem_from_rpc_error", "service_channel"]

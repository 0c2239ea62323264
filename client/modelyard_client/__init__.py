"""Client of Modelyard."""

from modelyard_client.addresses import Addresses
from modelyard_client.connection import Modelyard
from modelyard_client.errors import ModelyardError
from modelyard_client.watch import watch_deployment, watch_usage

__all__ = ["Addresses", "Modelyard", "ModelyardError", "watch_deployment", "watch_usage"]

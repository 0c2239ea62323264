"""Client of Modelyard."""

from modelyard_client.addresses import Addresses
from modelyard_client.connection import Modelyard
from modelyard_client.downloads import Downloaded, download_artifact
from modelyard_client.errors import ModelyardError
from modelyard_client.uploads import upload_file
from modelyard_client.watch import watch_deployment, watch_usage

__all__ = [
    "Addresses",
    "Downloaded",
    "Modelyard",
    "ModelyardError",
    "download_artifact",
    "upload_file",
    "watch_deployment",
    "watch_usage",
]

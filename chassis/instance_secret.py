"""The secret that opens one instance's Triton, computed alike by whoever starts it and whoever calls it."""

from __future__ import annotations

import hashlib
import hmac

INSTANCE_SECRET_KEY = "modelyard-instance"  # noqa: S105 - a header's name
# Triton reads a restricted protocol's key from a gRPC header with this prefix.
INSTANCE_SECRET_HEADER = f"triton-grpc-protocol-{INSTANCE_SECRET_KEY}"


def instance_secret(cluster_secret: bytes, instance_uid: str) -> str:
    """HMAC-SHA256 of the instance's uid under the cluster secret, 64 lower-case hex digits.

    Args:
        cluster_secret: Whole content of the cluster secret file, at least 16 bytes.
        instance_uid: The instance it opens, and no other.

    Raises:
        ValueError: the cluster secret is too short to protect anything.
    """
    if len(cluster_secret) < 16:
        raise ValueError(f"the cluster secret has {len(cluster_secret)} bytes; at least 16 are needed")
    return hmac.new(cluster_secret, instance_uid.encode(), hashlib.sha256).hexdigest()

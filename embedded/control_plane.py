"""What the control plane's trust rests on: its signing key, its secrets, and the tokens it issues. All files are 0600."""

from __future__ import annotations

import secrets
from pathlib import Path

from chassis.access import issue_token, new_signing_key
from embedded.nats_identity import write_secret

_ADMIN = "admin"
_TOKEN_S = 365 * 86_400


def kept_secret(path: Path) -> bytes:
    """The random secret in a file; made the first time."""
    if not path.exists():
        write_secret(path, secrets.token_hex(32).encode())
    return path.read_bytes()


def kept_signing_key(private_key: Path, public_key: Path) -> str:
    """The private key in a file (PEM); both keys are made the first time."""
    if not private_key.exists():
        private, public = new_signing_key()
        # The private key is last: where it is, both are.
        write_secret(public_key, public.encode())
        write_secret(private_key, private.encode())
    return private_key.read_text()


def write_service_token(signing_key: str, service: str, path: Path) -> None:
    """Issue a service a new token; earlier ones stay valid."""
    write_secret(path, issue_token(signing_key, service, expires_s=_TOKEN_S, service=service).encode())


def write_admin_token(signing_key: str, path: Path) -> None:
    """Issue the administrator a new token; earlier ones stay valid."""
    write_secret(path, issue_token(signing_key, _ADMIN, expires_s=_TOKEN_S, admin=True).encode())

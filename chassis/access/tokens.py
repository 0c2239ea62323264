"""Control-plane tokens: Ed25519-signed JWTs of our own, or any OIDC issuer's, checked offline."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chassis.errors import Unauthenticated

ISSUER = "modelyard"
AUDIENCE = "modelyard"
_WAY_OUT = "pass a control-plane token as `authorization: Bearer …`; `modelyard token create` makes one"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: a principal, and whether it is an admin or one of the services."""

    principal: str
    is_admin: bool
    service: str


def new_signing_key() -> tuple[str, str]:
    """A new private key and its public key, both PEM."""
    private = Ed25519PrivateKey.generate()
    return (
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    )


def issue_token(private_key_pem: str, principal: str, *, expires_s: int, admin: bool = False, service: str = "") -> str:
    """Sign a token for a principal, an admin or a service."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": principal,
        "iat": now,
        "exp": now + expires_s,
        "modelyard": {"admin": admin, "service": service},
    }
    return jwt.encode(claims, private_key_pem, algorithm="EdDSA")


class TokenVerifier:
    """Checks tokens without asking anyone (an OIDC issuer's keys are fetched once and kept).

    Args:
        public_key_pem: Key of our own tokens; None takes none of them.
        oidc_issuer: Issuer whose tokens are taken too; they are users, never admins or services.
    """

    def __init__(self, public_key_pem: str | None, *, oidc_issuer: str = "", oidc_audience: str = AUDIENCE) -> None:
        self._public_key_pem = public_key_pem
        self._oidc_issuer = oidc_issuer
        self._oidc_audience = oidc_audience
        self._oidc_keys = (
            jwt.PyJWKClient(f"{oidc_issuer.rstrip('/')}/.well-known/jwks.json", timeout=5) if oidc_issuer else None
        )

    async def verify(self, token: str) -> Claims:
        """The claims of a valid token.

        Raises:
            Unauthenticated: expired, signed by someone else, for someone else, or no token at all.
        """
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            if self._oidc_keys is not None and issuer == self._oidc_issuer:
                return await self._verify_oidc(token, self._oidc_keys)
            if self._public_key_pem is None:
                raise jwt.InvalidIssuerError
            claims = jwt.decode(
                token,
                self._public_key_pem,
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": ["exp", "sub", "iat"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(f"the token has expired; {_WAY_OUT}") from None
        except jwt.PyJWTError:
            raise Unauthenticated(f"the token is not valid here; {_WAY_OUT}") from None
        ours = claims.get("modelyard") or {}
        return Claims(str(claims["sub"]), bool(ours.get("admin")), str(ours.get("service") or ""))

    async def _verify_oidc(self, token: str, keys: jwt.PyJWKClient) -> Claims:
        # The issuer's keys come over HTTP when they are not known yet: not on the event loop.
        key = await asyncio.to_thread(keys.get_signing_key_from_jwt, token)
        claims = jwt.decode(
            token,
            key,
            algorithms=["RS256", "ES256", "EdDSA"],
            audience=self._oidc_audience,
            issuer=self._oidc_issuer,
            options={"require": ["exp", "sub"]},
        )
        return Claims(str(claims["sub"]), is_admin=False, service="")


def bearer_token(header: str | None) -> str:
    """The token in an authorization header.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(f"no credential; {_WAY_OUT}")
    return token.strip()

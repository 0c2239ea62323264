"""Control-plane tokens: Ed25519-signed JWTs of our own, or any OIDC issuer's, checked offline."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chassis.errors import DependencyUnavailable, Unauthenticated
from chassis.settings import ServiceSettings

ISSUER = "modelyard"
AUDIENCE = "modelyard"
# A principal is a key in rows and in members of projects.
PRINCIPAL_LENGTH_MAX = 128
_ISSUER_TIMEOUT_S = 5.0
_ISSUER_RETRY_S = 5.0
# Tokens of our own whose signature was checked before: checking takes longer than reading a model.
_KNOWN_MAX = 4096
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

    A token counts until it expires, also where it was made later than our wall clock says: that may have stepped back.

    Args:
        public_key_pem: Key of our own tokens; None takes none of them.
        oidc_issuer: Issuer whose tokens are taken too; they are users, never admins or services.
    """

    def __init__(self, public_key_pem: str | None, *, oidc_issuer: str = "", oidc_audience: str = AUDIENCE) -> None:
        self._public_key_pem = public_key_pem
        self._oidc_issuer = oidc_issuer
        self._oidc_audience = oidc_audience
        self._oidc_keys: jwt.PyJWKClient | None = None
        # What our own tokens say and when they expire, by digest; an issuer's are asked for each time, its keys change.
        self._known: dict[bytes, tuple[Claims, float]] = {}

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> TokenVerifier:
        """What a service's settings say whose tokens it takes."""
        key_file = settings.token_public_key_file
        return cls(
            key_file.read_text() if key_file else None,
            oidc_issuer=settings.oidc_issuer,
            oidc_audience=settings.oidc_audience,
        )

    async def verify(self, token: str) -> Claims:
        """The claims of a valid token.

        Raises:
            Unauthenticated: expired, signed by someone else, for someone else, or no token at all.
            DependencyUnavailable: the OIDC issuer does not give its keys.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known[1] > time.time():
            return known[0]
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            if self._oidc_issuer and issuer == self._oidc_issuer:
                return _claims(await self._verify_oidc(token))
            if self._public_key_pem is None:
                raise jwt.InvalidIssuerError
            claims = jwt.decode(
                token,
                self._public_key_pem,
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": ["exp", "sub", "iat"], "verify_iat": False},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise DependencyUnavailable(
                f"the issuer {self._oidc_issuer} does not give its keys; try again", retry_after_s=_ISSUER_RETRY_S
            ) from error
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(f"the token has expired; {_WAY_OUT}") from None
        except jwt.PyJWTError:
            raise Unauthenticated(f"the token is not valid here; {_WAY_OUT}") from None
        ours = claims.get("modelyard") or {}
        said = _claims(claims, is_admin=bool(ours.get("admin")), service=str(ours.get("service") or ""))
        while len(self._known) >= _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[digest] = said, float(claims["exp"])
        return said

    async def _verify_oidc(self, token: str) -> dict[str, Any]:
        # The issuer's keys come over HTTP when they are not known yet: not on the event loop.
        key = await asyncio.to_thread(self._oidc_key, token)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=["RS256", "ES256", "EdDSA"],
            audience=self._oidc_audience,
            issuer=self._oidc_issuer,
            options={"require": ["exp", "sub"], "verify_iat": False},
        )
        return claims

    def _oidc_key(self, token: str) -> jwt.PyJWK:
        if self._oidc_keys is None:
            self._oidc_keys = jwt.PyJWKClient(_jwks_uri(self._oidc_issuer), timeout=_ISSUER_TIMEOUT_S)
        return self._oidc_keys.get_signing_key_from_jwt(token)


def _jwks_uri(issuer: str) -> str:
    """Where an issuer's keys are, as its discovery document says (OpenID Connect Discovery 1.0, section 4)."""
    address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        with urllib.request.urlopen(address, timeout=_ISSUER_TIMEOUT_S) as answer:  # noqa: S310 - the operator named it
            return str(json.load(answer)["jwks_uri"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise jwt.PyJWKClientConnectionError(f"{address} does not say where the keys are: {error}") from error


def _claims(claims: dict[str, Any], *, is_admin: bool = False, service: str = "") -> Claims:
    principal = str(claims["sub"])
    if not 1 <= len(principal) <= PRINCIPAL_LENGTH_MAX or not principal.isprintable():
        raise Unauthenticated(
            f"the token's subject has {len(principal)} characters; 1 to {PRINCIPAL_LENGTH_MAX} printable ones are allowed"
        )
    return Claims(principal, is_admin, service)


def bearer_token(header: str | None) -> str:
    """The token in an authorization header.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(f"no credential; {_WAY_OUT}")
    return token.strip()

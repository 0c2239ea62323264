"""Control-plane tokens: our own, and those of an OIDC issuer that runs beside the test."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from chassis.access import TokenVerifier, issue_token, new_signing_key
from chassis.errors import DependencyUnavailable, Unauthenticated

PRIVATE_KEY, PUBLIC_KEY = new_signing_key()
# Issuers choose where their keys are; only the discovery document says it.
KEYS_PATH = "/oauth2/v3/certs"


class Issuer:
    """An OpenID Connect issuer as far as verifiers see it."""

    def __init__(self) -> None:
        self._key: RSAPrivateKey = generate_private_key(public_exponent=65537, key_size=2048)
        issuer = self

        class Documents(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = issuer.document(self.path)
                self.send_response(200 if body else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Documents)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def document(self, path: str) -> bytes:
        if path == "/.well-known/openid-configuration":
            return json.dumps({"issuer": self.url, "jwks_uri": self.url + KEYS_PATH}).encode()
        if path == KEYS_PATH:
            public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
            return json.dumps({"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}]}).encode()
        return b""

    def token(self, **changes: object) -> str:
        claims = {"iss": self.url, "aud": "modelyard", "sub": "ann@example.com", "exp": time.time() + 600, **changes}
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "k1"})

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.stop()


async def test_an_issuers_users_are_taken(issuer: Issuer) -> None:
    """Its keys are found where its discovery document says, and its users are never admins or services."""
    verifier = TokenVerifier(PUBLIC_KEY, oidc_issuer=issuer.url)
    claims = await verifier.verify(issuer.token(modelyard={"admin": True, "service": "deploy"}))
    assert (claims.principal, claims.is_admin, claims.service) == ("ann@example.com", False, "")


async def test_keys_are_kept_while_the_issuer_is_away(issuer: Issuer) -> None:
    """Whoever was checked once is checked without asking."""
    verifier = TokenVerifier(PUBLIC_KEY, oidc_issuer=issuer.url)
    await verifier.verify(issuer.token())
    issuer.stop()
    assert (await verifier.verify(issuer.token())).principal == "ann@example.com"


async def test_an_issuer_that_is_away_is_no_bad_token(issuer: Issuer) -> None:
    """The caller did nothing wrong and may try again."""
    issuer.stop()
    with pytest.raises(DependencyUnavailable, match="try again"):
        await TokenVerifier(PUBLIC_KEY, oidc_issuer=issuer.url).verify(issuer.token())


@pytest.mark.parametrize("changes", [{"aud": "elsewhere"}, {"exp": 1}, {"sub": ""}, {"sub": "x" * 129}, {"sub": "a\0"}])
async def test_an_issuers_worthless_tokens(issuer: Issuer, changes: dict[str, object]) -> None:
    """For someone else, expired, or about nobody."""
    with pytest.raises(Unauthenticated):
        await TokenVerifier(PUBLIC_KEY, oidc_issuer=issuer.url).verify(issuer.token(**changes))


async def test_an_issuer_we_do_not_know(issuer: Issuer) -> None:
    """Nobody makes us fetch keys from an address of their choice."""
    with pytest.raises(Unauthenticated):
        await TokenVerifier(PUBLIC_KEY).verify(issuer.token())


async def test_our_own_token_says_who_it_is() -> None:
    """Principal, admin and service come back as they were signed."""
    verifier = TokenVerifier(PUBLIC_KEY)
    admin = await verifier.verify(issue_token(PRIVATE_KEY, "ann", expires_s=60, admin=True))
    service = await verifier.verify(issue_token(PRIVATE_KEY, "deploy", expires_s=60, service="deploy"))
    assert (admin.principal, admin.is_admin, admin.service) == ("ann", True, "")
    assert (service.principal, service.is_admin, service.service) == ("deploy", False, "deploy")


async def test_a_token_that_was_taken_before_expires_all_the_same() -> None:
    verifier = TokenVerifier(PUBLIC_KEY)
    token = issue_token(PRIVATE_KEY, "ann", expires_s=1)
    assert (await verifier.verify(token)) == (await verifier.verify(token))
    await asyncio.sleep(1.1)
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.verify(token)


async def test_a_token_that_was_taken_before_opens_nothing_to_others() -> None:
    """With one letter of its signature changed it is no token."""
    verifier = TokenVerifier(PUBLIC_KEY)
    token = issue_token(PRIVATE_KEY, "ann", expires_s=60)
    await verifier.verify(token)
    with pytest.raises(Unauthenticated):
        await verifier.verify(token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB"))


async def test_no_algorithm_is_no_signature() -> None:
    """A token that claims to need no signature has none."""
    claims = {"iss": "modelyard", "aud": "modelyard", "sub": "ann", "iat": 0, "exp": 2**40}
    with pytest.raises(Unauthenticated):
        await TokenVerifier(PUBLIC_KEY).verify(jwt.encode(claims, "", algorithm="none"))


async def test_a_clock_that_stepped_back_makes_no_token_worthless(issuer: Issuer) -> None:
    """When a token was made says nothing about when it counts (RFC 7519, 4.1.6): ours and an issuer's come from later."""
    later = int(time.time()) + 3600
    claims = {"iss": "modelyard", "aud": "modelyard", "sub": "ann", "iat": later, "exp": later + 60}
    verifier = TokenVerifier(PUBLIC_KEY, oidc_issuer=issuer.url)
    assert (await verifier.verify(jwt.encode(claims, PRIVATE_KEY, algorithm="EdDSA"))).principal == "ann"
    assert (await verifier.verify(issuer.token(sub="bob", iat=later, exp=later + 60))).principal == "bob"

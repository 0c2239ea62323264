"""NATS identities signed offline: operator, accounts and users as JWTs over Ed25519 keys.

Permissions live inside a user's credential, so making one touches no server
(docs/decisions/0003-nats-identities-are-signed-offline.md). The server trusts the operator, knows the two
accounts, and checks signatures.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

_OPERATOR_FILE = "operator.seed"
_ACCOUNT_FILE = "account.seed"
_SYSTEM_FILE = "system.seed"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UNLIMITED = -1


@dataclass(frozen=True)
class Permissions:
    """Subjects a user may publish and subscribe, `*` and `>` allowed. Nothing listed means nothing allowed."""

    publish_allow: tuple[str, ...] = ()
    subscribe_allow: tuple[str, ...] = ()

    def claims(self) -> dict[str, Any]:
        return {"pub": _allow_list(self.publish_allow), "sub": _allow_list(self.subscribe_allow)}


def _allow_list(subjects: tuple[str, ...]) -> dict[str, list[str]]:
    # The server reads an empty allow list as "everything".
    return {"allow": list(subjects)} if subjects else {"deny": [">"]}


class _Key:
    """An Ed25519 key in NATS' encoding: a base32 seed, and a public key that names its kind."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._pair = nkeys.from_seed(bytearray(seed))
        self.public: str = bytes(self._pair.public_key).decode()

    @classmethod
    def create(cls, kind: int) -> _Key:
        return cls(bytes(nkeys.encode_seed(os.urandom(32), kind)))

    def sign_jwt(self, subject: str, name: str, nats: Mapping[str, Any], expires_s: float | None = None) -> str:
        """A signed claim about `subject`, which this key vouches for."""
        now = int(time.time())
        claims: dict[str, Any] = {"iat": now, "iss": self.public, "name": name, "sub": subject}
        claims["nats"] = {**nats, "version": 2}
        if expires_s is not None:
            claims["exp"] = now + max(1, int(expires_s))
        digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
        claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = b".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
        return (body + b"." + _base64(self._pair.sign(body))).decode()


class NatsIdentities:
    """The keys that everything else is signed with. One account holds all the platform's subjects.

    Args:
        folder: Where the seeds lie, mode 0700; each file 0600.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._operator = _Key((folder / _OPERATOR_FILE).read_bytes().strip())
        self._account = _Key((folder / _ACCOUNT_FILE).read_bytes().strip())
        self._system = _Key((folder / _SYSTEM_FILE).read_bytes().strip())

    @classmethod
    def create(cls, folder: Path) -> NatsIdentities:
        """Open the identities in `folder`; keys that are not there yet are made."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kinds = {
            _OPERATOR_FILE: nkeys.PREFIX_BYTE_OPERATOR,
            _ACCOUNT_FILE: nkeys.PREFIX_BYTE_ACCOUNT,
            _SYSTEM_FILE: nkeys.PREFIX_BYTE_ACCOUNT,
        }
        for name, kind in kinds.items():
            if not (folder / name).exists():
                write_secret(folder / name, _Key.create(kind).seed)
        return cls(folder)

    @property
    def system_account(self) -> str:
        """Public key of the account the server keeps its own subjects in."""
        return self._system.public

    def operator_jwt(self) -> str:
        return self._operator.sign_jwt(
            self._operator.public, "modelyard", {"type": "operator", "system_account": self._system.public}
        )

    def account_jwts(self, *, memory_bytes_max: int, file_bytes_max: int) -> dict[str, str]:
        """The accounts the server preloads, by public key.

        Args:
            memory_bytes_max: What memory streams may hold, in all.
            file_bytes_max: What file streams may hold, in all.
        """
        limits = {
            "subs": _UNLIMITED,
            "data": _UNLIMITED,
            "payload": _UNLIMITED,
            "imports": 0,
            "exports": 0,
            "wildcards": True,
            "conn": _UNLIMITED,
            "leaf": 0,
        }
        storage = {
            "mem_storage": memory_bytes_max,
            "disk_storage": file_bytes_max,
            "streams": _UNLIMITED,
            "consumer": _UNLIMITED,
        }
        return {
            key.public: self._operator.sign_jwt(
                key.public,
                name,
                {
                    "type": "account",
                    "limits": own,
                    "default_permissions": {"pub": {}, "sub": {}},
                },
            )
            for key, name, own in (
                (self._account, "modelyard", {**limits, **storage}),
                (self._system, "system", limits),
            )
        }

    def issue_user(self, name: str, permissions: Permissions, expires_s: float | None = None) -> str:
        """Make a new user's credential: the text of a `.creds` file, to be kept like a password.

        Args:
            name: Shown in the server's logs; letters, digits, `-` and `_`, 1 to 64.
            expires_s: From now; the server refuses and disconnects the user afterwards. None: never.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f'NATS user "{name}" is malformed; 1 to 64 letters, digits, "-" and "_" are allowed')
        user = _Key.create(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": _UNLIMITED, "data": _UNLIMITED, "payload": _UNLIMITED}
        jwt = self._account.sign_jwt(user.public, name, {"type": "user", **limits, **permissions.claims()}, expires_s)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read (0600), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")

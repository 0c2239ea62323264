"""Inference keys, as deploy projects them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re

from modelyard.deploy.v1 import routes_pb2

from chassis.bus import Bus
from chassis.clock import Clock, ms_from_time
from services.inference.domain.errors import KeyInvalid, RoutesStale

_KEY = re.compile(r"my_([a-z2-7]{1,32})_[a-z2-7]{1,128}")
_REFUSAL = (
    "the key is missing, wrong, expired or revoked; pass `Authorization: Bearer my_…`, `modelyard key create` makes one"
)


class KeyDirectory:
    """Every key of the platform, by id. The credential itself is only ever compared by digest.

    Args:
        stale_s_max: How long keys serve without being confirmed.
        arrive_s: How long an unknown key is waited for: one that was made a moment ago may be on its way.
        arriving_max: How many calls wait so at once; with more, guessed keys would hold what callers with keys need.
    """

    BUCKET = "access"

    def __init__(
        self, bus: Bus, clock: Clock, *, stale_s_max: float, arrive_s: float = 1.0, arriving_max: int = 100
    ) -> None:
        self._clock = clock
        self._arriving = 0
        self._arriving_max = arriving_max
        self._arrive_s = arrive_s
        self._change = asyncio.Event()
        self._stale_s_max = stale_s_max
        self._keys: dict[str, routes_pb2.KeyAccess] = {}
        self.watch = bus.watch_bucket(self.BUCKET, self._changed)

    async def authenticate(self, header: str | None) -> routes_pb2.KeyAccess:
        """The key in an authorization header.

        Raises:
            KeyInvalid: missing, wrong, expired or revoked; all answer alike.
            RoutesStale: what is known of keys is too old to trust.
        """
        if self.watch.staleness_s > self._stale_s_max:
            raise RoutesStale(
                f"keys were last confirmed {self.watch.staleness_s:.0f} s ago; at most {self._stale_s_max:.0f} s are "
                "allowed: bring NATS back",
                retry_after_s=5.0,
            )
        scheme, _, credential = (header or "").partition(" ")
        match = _KEY.fullmatch(credential.strip()) if scheme.lower() == "bearer" else None
        key = await self._find(match[1]) if match else None
        digest = hashlib.sha256(credential.strip().encode()).digest()
        if key is None or not hmac.compare_digest(digest, key.secret_sha256) or key.revoked or self._expired(key):
            raise KeyInvalid(_REFUSAL)
        return key

    def of_caller(self, key_id: str) -> routes_pb2.KeyAccess:
        """The key that this call was authenticated by.

        Raises:
            KeyInvalid: it has gone since.
        """
        key = self._keys.get(key_id)
        if key is None or key.revoked:
            raise KeyInvalid(_REFUSAL)
        return key

    async def _find(self, key_id: str) -> routes_pb2.KeyAccess | None:
        if (found := self._keys.get(key_id)) is not None or self._arriving >= self._arriving_max:
            return found
        self._arriving += 1
        try:
            async with asyncio.timeout(self._arrive_s):
                while (found := self._keys.get(key_id)) is None:
                    await self._change.wait()
        except TimeoutError:
            return None
        finally:
            self._arriving -= 1
        return found

    def _expired(self, key: routes_pb2.KeyAccess) -> bool:
        return key.HasField("expire_time") and key.expire_time.ToMilliseconds() <= ms_from_time(self._clock.now())

    def _changed(self, key: str, value: bytes | None, _sequence: int) -> None:
        if value is None:
            self._keys.pop(key, None)
        else:
            self._keys[key] = routes_pb2.KeyAccess.FromString(value)
            self._change.set()
            self._change = asyncio.Event()

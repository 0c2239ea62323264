"""The whole platform on one machine: nats-server and the four services under one supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TextIO

from chassis.bus import Bus
from chassis.service import write_atomically
from embedded.home import SERVICES, Home, HomeUnusable
from embedded.nats_identity import NatsIdentities
from embedded.nats_server import NatsServer
from embedded.parent_death import tied_command
from embedded.supervisor import Child, LogLine, Supervisor, SupervisorLimits
from embedded.topology import PROVISIONER, apply_topology, issue_service_credentials

LEASE_TOUCH_S = 2.0
READY_S_MAX = 60.0
# Inference first: instances without calls end at once. Then deploy: their ends must be known while NATS and billing run.
STOP_ORDER = ("inference", "deploy", "billing", "catalog", "nats")
DEPLOY_STOP_S = 60.0


class PlatformFailed(Exception):
    """The platform did not become ready; says which part, and where its log is."""


class Platform:
    """`start` returns when everything answers; `stop` leaves nothing running.

    Args:
        environment: What services are started with; this process's own where it is None.
        limits: How soon a child that ended is started again.
    """

    def __init__(
        self,
        home: Home,
        log_line: LogLine,
        environment: Mapping[str, str] | None = None,
        limits: SupervisorLimits | None = None,
    ) -> None:
        self.home = home
        self._environment = dict(os.environ if environment is None else environment)
        self._log_line = log_line
        self._supervisor = Supervisor(log_line, limits)
        self._identities: NatsIdentities | None = None
        self._nats: NatsServer | None = None
        self._lock: TextIO | None = None
        self._lease: asyncio.Task[None] | None = None
        self.ready_s = 0.0

    @property
    def children(self) -> dict[str, Child]:
        """The processes, by name."""
        return self._supervisor.children

    async def start(self) -> dict[str, object]:
        """Start everything; return the addresses, which stand in addresses.json too.

        Raises:
            HomeUnusable: another platform runs there.
            PlatformFailed: a part did not answer in time.
        """
        began = time.monotonic()
        self._take_lock()
        ports = self.home.prepare()
        self._identities = NatsIdentities.create(self.home.nats_identities)
        issue_service_credentials(self._identities, self.home.nats_identities)
        self.home.lease.touch()
        self._lease = asyncio.create_task(self._touch_lease(), name="lease")
        self._nats = NatsServer(self.home.nats, self._identities)
        self._nats.prepare()
        self._supervisor.start(Child("nats", tied_command(self._nats.command), self._environment))
        for service in SERVICES:
            self._supervisor.start(self._service(service, ports))
        await self._provision(self._nats)
        await self._wait_ready()
        self.ready_s = time.monotonic() - began
        return self._write_addresses()

    def _take_lock(self) -> None:
        self.home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self.home.lock.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise HomeUnusable(
                f"a platform runs in {self.home.path} already (process {holder}); stop it, or name another folder with "
                "--data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock  # kept open: closing it would release the lock

    def _service(self, service: str, ports: dict[str, int]) -> Child:
        home, prefix = self.home, f"MODELYARD_{service.upper()}_"
        assert self._nats is not None  # noqa: S101 - started before any service
        settings = {
            "DATA_DIR": home.service_data(service),
            "GRPC_ADDRESS": f"127.0.0.1:{ports[service]}",
            "NATS_URL": self._nats.url,
            "NATS_CREDENTIAL_FILE": home.nats_credential(service),
            "TOKEN_PUBLIC_KEY_FILE": home.public_key,
            "SERVICE_TOKEN_FILE": home.service_token(service),
            "READY_FILE": home.ready_file(service),
            **{f"{other.upper()}_ADDRESS": f"127.0.0.1:{ports[other]}" for other in ("catalog", "deploy", "billing")},
        }
        if service == "catalog":
            settings |= {
                "HTTP_ADDRESS": f"127.0.0.1:{ports['artifacts']}",
                "DOWNLOAD_KEY_FILE": home.download_key,
                "SOURCE_KEYS_DIR": home.provider_keys,
                "CURATED_DIR": home.curated,
            }
        if service in ("catalog", "deploy"):
            settings["PACKAGES_DIR"] = home.packages
        if service in ("deploy", "inference"):
            settings["CLUSTER_SECRET_FILE"] = home.cluster_secret
        if service == "deploy":
            settings |= {"LEASE_FILE": home.lease, "RELEASE_ON_STOP": "true"}
        if service == "inference":
            settings |= {"REST_ADDRESS": f"127.0.0.1:{ports['rest']}", "PROVIDER_KEYS_DIR": home.provider_keys}
        # What an operator sets in the environment wins over the embedded defaults.
        environment = {
            **{prefix + name: str(value) for name, value in settings.items()},
            **self._environment,
            "MODELYARD_PARENT_PID": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
        }
        return Child(
            service,
            [sys.executable, "-m", f"services.{service}"],
            environment,
            ready_file=home.ready_file(service),
            stop_s=DEPLOY_STOP_S if service == "deploy" else 15.0,
        )

    async def _provision(self, nats: NatsServer) -> None:
        """Make streams, buckets and consumers, as the one identity that may."""
        await nats.ready()
        bus = await Bus.connect(nats.url, self.home.nats_credential(PROVISIONER), PROVISIONER)
        try:
            await apply_topology(bus.jetstream)
        finally:
            await bus.close()

    async def _wait_ready(self) -> None:
        waiting = set(SERVICES)
        try:
            async with asyncio.timeout(READY_S_MAX):
                while waiting:
                    waiting = {name for name in waiting if not self.children[name].is_ready}
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise PlatformFailed(
                f"{', '.join(sorted(waiting))} did not answer within {READY_S_MAX:g} s; the log is in {self.home.logs}"
            ) from None

    def _write_addresses(self) -> dict[str, object]:
        assert self._nats is not None  # noqa: S101 - it answers
        said = {service: json.loads(self.home.ready_file(service).read_text()) for service in SERVICES}
        addresses: dict[str, object] = {
            "rest": said["inference"]["rest"],
            "artifacts": said["catalog"]["artifacts"],
            **{service: said[service]["grpc"] for service in SERVICES},
            "nats": self._nats.url,
            "metrics": {service: said[service]["metrics"] for service in SERVICES},
            "admin_credential_file": str(self.home.admin_credential),
            "data_dir": str(self.home.path),
        }
        write_atomically(self.home.addresses, json.dumps(addresses, indent=2))
        return addresses

    async def _touch_lease(self) -> None:
        while True:
            self.home.lease.touch()
            await asyncio.sleep(LEASE_TOUCH_S)

    async def stop(self) -> None:
        """Stop everything in order; the next start finds its state. A platform that holds no folder stops nothing."""
        if self._lock is None:
            return
        self.home.addresses.unlink(missing_ok=True)
        await self._supervisor.stop(STOP_ORDER)
        if self._lease is not None:
            self._lease.cancel()
            await asyncio.gather(self._lease, return_exceptions=True)
        self._lock.close()
        self._lock = None


@contextlib.asynccontextmanager
async def running_platform(
    data_dir: Path,
    log_line: LogLine,
    environment: Mapping[str, str] | None = None,
    limits: SupervisorLimits | None = None,
) -> AsyncIterator[Platform]:
    """A platform for the block; stopped cleanly however the block ends."""
    platform = Platform(Home(data_dir), log_line, environment, limits)
    try:
        await platform.start()
        yield platform
    finally:
        await platform.stop()

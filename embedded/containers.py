"""The platform in containers: what each of its parts gets before it starts.

    python -m embedded.containers prepare     secrets and configuration, a folder for each part; before all others
    python -m embedded.containers provision   databases, streams, buckets, consumers; once PostgreSQL and NATS run

Both may run again at any time: what is there stays, tokens and credentials are issued anew and earlier ones stay valid.
`deploy/compose` runs them; the names of the parts are the names of its services, and their host names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from chassis.bus import Bus
from chassis.service import write_atomically
from embedded.control_plane import kept_secret, kept_signing_key, write_admin_token, write_service_token
from embedded.home import SERVICES
from embedded.nats_identity import NatsIdentities, write_secret
from embedded.nats_server import NatsServerSettings, nats_configuration
from embedded.topology import PROVISIONER, apply_topology, issue_credential

GRPC_PORTS = {"catalog": 7101, "deploy": 7102, "billing": 7103, "inference": 7104}
REST_PORT = 8080
ARTIFACTS_PORT = 8081
METRICS_PORT = 9464
NATS_PORT = 4222
WITH_DATABASE = ("catalog", "deploy", "billing")
WITH_CLUSTER_SECRET = ("deploy", "inference")
# Where every part finds its own folder.
MOUNTED_AT = Path("/run/modelyard")
# Where the parts keep their state, each in a volume of its own.
STATE = Path("/var/lib/modelyard")
PROVISION_S_MAX = 60.0


def prepare(root: Path) -> None:
    """Write a folder for each part below `root`: `keys` is the root of all trust and is mounted into no service."""
    keys = root / "keys"
    identities = NatsIdentities.create(keys / "nats")
    public_key = keys / "control-plane.pub"
    signing_key = kept_signing_key(keys / "control-plane.key", public_key)
    for service in SERVICES:
        folder = root / service
        write_service_token(signing_key, service, folder / "service.token")
        write_secret(folder / "control-plane.pub", public_key.read_bytes())
        issue_credential(identities, service, folder / "nats.creds")
        if service == "catalog":
            write_secret(folder / "download.key", kept_secret(keys / "download.key"))
        if service in WITH_CLUSTER_SECRET:
            write_secret(folder / "cluster.secret", kept_secret(keys / "cluster.secret"))
        if service in WITH_DATABASE:
            write_secret(folder / "pgpass", b"*:*:*:*:" + kept_secret(keys / f"{service}.password"))
    issue_credential(identities, PROVISIONER, keys / "provisioner.creds")
    write_secret(root / "postgres" / "password", kept_secret(keys / "postgres.password"))
    configuration = nats_configuration(
        identities,
        NatsServerSettings(),
        name="modelyard",
        host="0.0.0.0",  # noqa: S104 - the containers' own network
        port=NATS_PORT,
        store=STATE / "nats",
    )
    write_secret(root / "nats" / "nats.conf", configuration.encode())
    admin = root / "admin"
    write_admin_token(signing_key, admin / "admin.token")
    write_atomically(admin / "addresses.json", json.dumps(_addresses(), indent=2))


def _addresses() -> dict[str, object]:
    """Where the parts answer on the containers' network."""
    return {
        "rest": f"http://inference:{REST_PORT}",
        "artifacts": f"http://catalog:{ARTIFACTS_PORT}",
        **{service: f"{service}:{port}" for service, port in GRPC_PORTS.items()},
        "nats": f"nats://nats:{NATS_PORT}",
        "metrics": {service: f"http://{service}:{METRICS_PORT}/metrics" for service in SERVICES},
        "admin_credential_file": str(MOUNTED_AT / "admin.token"),
        "data_dir": str(STATE),
    }


async def provision(keys: Path) -> None:
    """Make each service's database and its owner, then streams, buckets and consumers.

    Raises:
        TimeoutError: PostgreSQL or NATS did not answer within `PROVISION_S_MAX`.
    """
    async with asyncio.timeout(PROVISION_S_MAX):
        await _make_databases(keys)
        bus = await Bus.connect(f"nats://nats:{NATS_PORT}", keys / "provisioner.creds", PROVISIONER)
        try:
            await apply_topology(bus.jetstream)
        finally:
            await bus.close()


async def _make_databases(keys: Path) -> None:
    password = (keys / "postgres.password").read_text()
    while True:
        try:
            connection = await asyncpg.connect(host="postgres", user="postgres", password=password, database="postgres")
            break
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.5)
    try:
        for service in WITH_DATABASE:
            await _make_database(connection, service, (keys / f"{service}.password").read_text())
    finally:
        await connection.close()


async def _make_database(connection: asyncpg.Connection, name: str, password: str) -> None:
    """Statements that take no parameters: the name is one of ours, the password hexadecimal."""
    if not await connection.fetchval("select 1 from pg_roles where rolname = $1", name):
        await connection.execute(f"create role {name} login")
    await connection.execute(f"alter role {name} password '{password}'")
    if not await connection.fetchval("select 1 from pg_database where datname = $1", name):
        await connection.execute(f"create database {name} owner {name}")
    await connection.execute(f"revoke connect on database {name} from public")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "provision"))
    parser.add_argument("--root", type=Path, default=MOUNTED_AT, help="folder of the parts' folders")
    given = parser.parse_args(arguments)
    if given.step == "prepare":
        prepare(given.root)
    else:
        asyncio.run(provision(given.root / "keys"))


if __name__ == "__main__":
    main(sys.argv[1:])

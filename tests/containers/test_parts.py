"""PostgreSQL and NATS as containers, brought by testcontainers: what we build on is what production runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from testcontainers.community.nats import NatsContainer
from testcontainers.community.postgres import PostgresContainer

from chassis.bus import Bus
from embedded.nats_identity import NatsIdentities
from embedded.nats_server import NatsServerSettings, nats_configuration
from embedded.topology import PROVISIONER, apply_topology, issue_service_credentials
from tests.containers.images import ROOT, docker
from tests.infra.postgres import ADDRESS_VARIABLE

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
_SUITES = (
    "tests/integration/chassis/test_migrations.py",
    "tests/integration/chassis/test_outbox.py",
    "tests/integration/chassis/test_inbox.py",
    "tests/integration/billing/test_posting_usage.py",
)
_EVENTS = 200


def test_the_database_tests_pass_on_a_containers_postgresql(postgres_image: str) -> None:
    """Migrations, outbox, inbox and posting, with passwords and a network between."""
    with PostgresContainer(postgres_image, dbname="postgres", driver=None) as postgres:
        environment = os.environ | {ADDRESS_VARIABLE: postgres.get_connection_url()}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--database", "postgresql", *_SUITES],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


async def test_a_killed_nats_container_keeps_what_it_acknowledged(nats_image: str, tmp_path: Path) -> None:
    """Identities, streams and permissions work as in the embedded broker; an acknowledged event is on disk."""
    identities = NatsIdentities.create(tmp_path / "identities")
    credentials = issue_service_credentials(identities, tmp_path / "credentials")
    configuration = nats_configuration(
        identities,
        NatsServerSettings(),
        name="contained",
        host="0.0.0.0",  # noqa: S104 - the container's own
        port=4222,
        store=Path("/data"),
    )
    (tmp_path / "nats.conf").write_text(configuration)
    container = (
        NatsContainer(nats_image)
        .with_command("--config /etc/nats/nats.conf --http_port 8222")
        .with_volume_mapping(str(tmp_path / "nats.conf"), "/etc/nats/nats.conf")
    )
    with container as nats:
        provisioner = await Bus.connect(nats.nats_uri(), credentials[PROVISIONER], PROVISIONER)
        await apply_topology(provisioner.jetstream)
        await provisioner.close()
        deploy = await Bus.connect(nats.nats_uri(), credentials["deploy"], "deploy")
        subject = "modelyard.deploy.v1.instance.observed._"
        await asyncio.gather(
            *(deploy.jetstream.publish(subject, b"", headers={"Nats-Msg-Id": str(n)}) for n in range(_EVENTS))
        )
        await deploy.close()
        await asyncio.to_thread(nats.get_wrapped_container().kill)
        await asyncio.to_thread(nats.get_wrapped_container().start)
        # Started again, it is published at another port.
        address = docker("port", nats.get_wrapped_container().id, "4222")
        provisioner = await Bus.connect(f"nats://{address}", credentials[PROVISIONER], PROVISIONER)
        found = await provisioner.jetstream.stream_info("DEPLOY")
        await provisioner.close()
    assert found.state.messages == _EVENTS

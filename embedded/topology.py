"""Streams, buckets, durable consumers, and what each service may do with them.

The provisioner applies this at start; services only use what is there. Adding to it is safe at any time;
removing something is a migration to be planned, so nothing is ever deleted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.client import JetStreamContext

from embedded.nats_identity import NatsIdentities, Permissions, write_secret

_MIB = 1 << 20
_DAY_S = 86_400
PROVISIONER = "provisioner"
SERVICES = ("catalog", "deploy", "inference", "billing")
BUCKETS = ("projects", "access", "routes", "watermarks")


@dataclass(frozen=True)
class TopologyLimits:
    """Sizes of streams and buckets; the server reserves them, so their sum must fit its `file_bytes_max`.

    Attributes:
        usage_bytes_max: Usage not yet billed; when it is full, journals hold and inference refuses new work.
        events_age_s_max: How long events stay; consumers that are away longer miss them.
        duplicate_window_s: How long the broker knows a message id; consumers know it for ever.
        replicas: Copies of each stream, 1, 3 or 5.
    """

    catalog_bytes_max: int = 1024 * _MIB
    deploy_bytes_max: int = 1024 * _MIB
    billing_bytes_max: int = 1024 * _MIB
    usage_bytes_max: int = 1024 * _MIB
    bucket_bytes_max: int = 128 * _MIB
    events_age_s_max: float = 30 * _DAY_S
    duplicate_window_s: float = 600.0
    ack_wait_s: float = 30.0
    replicas: int = 1


@dataclass(frozen=True)
class DurableConsumer:
    """A position in a stream that survives its reader.

    Attributes:
        service: The one service that reads it.
        ack_pending_max: Messages delivered and not yet acknowledged.
    """

    service: str
    stream: str
    durable: str
    filter_subject: str
    ack_pending_max: int = 1000


CONSUMERS = (
    DurableConsumer("catalog", "DEPLOY", "catalog-deployments", "modelyard.deploy.v1.deployment.changed.*"),
    DurableConsumer("billing", "DEPLOY", "billing-instances", "modelyard.deploy.v1.instance.*.*"),
    DurableConsumer("billing", "DEPLOY", "billing-projects", "modelyard.deploy.v1.project.created.*"),
    DurableConsumer("billing", "DEPLOY", "billing-deployments", "modelyard.deploy.v1.deployment.changed.*"),
    DurableConsumer("billing", "USAGE", "billing-usage", "modelyard.inference.v1.usage.recorded.>"),
    DurableConsumer("deploy", "CATALOG", "deploy-lifecycle", "modelyard.catalog.v1.version.lifecycle-changed.*"),
    DurableConsumer("deploy", "CATALOG", "deploy-changes-ahead", "modelyard.catalog.v1.version.change-announced.*"),
)


def stream_configs(limits: TopologyLimits) -> list[StreamConfig]:
    """Every stream and bucket as it should be."""

    def events(name: str, subject: str, bytes_max: int, discard: DiscardPolicy) -> StreamConfig:
        return StreamConfig(
            name=name,
            subjects=[subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=discard,
            max_bytes=bytes_max,
            max_age=limits.events_age_s_max,
            duplicate_window=limits.duplicate_window_s,
            num_replicas=limits.replicas,
        )

    # A full stream refuses what others must not miss, and the outbox keeps it. Billing's events only tell
    # what the ledger holds anyway: there the oldest make room.
    streams = [
        events("CATALOG", "modelyard.catalog.v1.>", limits.catalog_bytes_max, DiscardPolicy.NEW),
        events("DEPLOY", "modelyard.deploy.v1.>", limits.deploy_bytes_max, DiscardPolicy.NEW),
        events("BILLING", "modelyard.billing.v1.>", limits.billing_bytes_max, DiscardPolicy.OLD),
        StreamConfig(
            name="USAGE",
            subjects=["modelyard.inference.v1.usage.recorded.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_bytes=limits.usage_bytes_max,
            duplicate_window=limits.duplicate_window_s,
            num_replicas=limits.replicas,
        ),
    ]
    buckets = [
        StreamConfig(
            name=f"KV_{bucket}",
            subjects=[f"$KV.{bucket}.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_msgs_per_subject=1,
            max_bytes=limits.bucket_bytes_max,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
            duplicate_window=limits.duplicate_window_s,
            num_replicas=limits.replicas,
        )
        for bucket in BUCKETS
    ]
    return streams + buckets


async def apply_topology(jetstream: JetStreamContext, limits: TopologyLimits | None = None) -> None:
    """Create or update everything, as the provisioner. Applying it again changes nothing."""
    limits = limits or TopologyLimits()
    for stream in stream_configs(limits):
        try:
            await jetstream.stream_info(stream.name or "")
        except nats.js.errors.NotFoundError:
            await jetstream.add_stream(stream)
        else:
            await jetstream.update_stream(stream)
    for consumer in CONSUMERS:
        # On the server this is create-or-update.
        await jetstream.add_consumer(
            consumer.stream,
            ConsumerConfig(
                durable_name=consumer.durable,
                filter_subject=consumer.filter_subject,
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=limits.ack_wait_s,
                max_deliver=-1,
                max_ack_pending=consumer.ack_pending_max,
            ),
        )


def inbox_of(name: str) -> str:
    """Where replies to one identity go; no other identity may listen there."""
    return f"_INBOX.{name}.>"


def _consumes(service: str) -> tuple[str, ...]:
    """Fetch from and acknowledge to the service's own durable consumers."""
    return tuple(
        subject
        for consumer in CONSUMERS
        if consumer.service == service
        for subject in (
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.durable}",
            f"$JS.ACK.{consumer.stream}.{consumer.durable}.>",
        )
    )


def _reads(stream: str) -> tuple[str, ...]:
    """Follow a stream in order, from any position."""
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",  # the ordered reader names its consumers
        f"$JS.API.CONSUMER.INFO.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        f"$JS.FC.{stream}.>",
    )


def _watches(bucket: str) -> tuple[str, ...]:
    return (*_reads(f"KV_{bucket}"), f"$JS.API.DIRECT.GET.KV_{bucket}.>")


def _writes(bucket: str) -> tuple[str, ...]:
    """Compare and set; the relay reads a value before it writes one."""
    return (
        f"$KV.{bucket}.>",
        f"$JS.API.STREAM.INFO.KV_{bucket}",
        f"$JS.API.DIRECT.GET.KV_{bucket}.>",
    )


_PUBLISHES = {
    "catalog": ("modelyard.catalog.v1.>", *_watches("projects")),
    "deploy": (
        "modelyard.deploy.v1.>",
        *_writes("projects"),
        *_writes("access"),
        *_writes("routes"),
    ),
    "inference": (
        "modelyard.inference.v1.>",
        *_watches("projects"),
        *_watches("access"),
        *_watches("routes"),
        *_watches("watermarks"),
    ),
    "billing": (
        "modelyard.billing.v1.>",
        *_reads("BILLING"),
        *_watches("projects"),
        *_writes("watermarks"),
    ),
}


def service_permissions(service: str) -> Permissions:
    """What a service's credential allows: its own events, buckets, consumers and replies, nothing else."""
    return Permissions(publish_allow=(*_PUBLISHES[service], *_consumes(service)), subscribe_allow=(inbox_of(service),))


def provisioner_permissions() -> Permissions:
    """Streams and consumers are made and described, never read: no message API and no acknowledgement."""
    return Permissions(
        publish_allow=(
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.INFO.*",
            "$JS.API.STREAM.CREATE.*",
            "$JS.API.STREAM.UPDATE.*",
            "$JS.API.CONSUMER.CREATE.>",
            "$JS.API.CONSUMER.DURABLE.CREATE.>",
            "$JS.API.CONSUMER.INFO.>",
            "$JS.API.CONSUMER.LIST.*",
        ),
        subscribe_allow=(inbox_of(PROVISIONER),),
    )


def subscriber_permissions(project_uid: str) -> Permissions:
    """One project's billing and what is ahead of its deployments, live; nothing can be published, so no stream or
    consumer is in reach."""
    return Permissions(
        subscribe_allow=(
            f"modelyard.billing.v1.*.*.{project_uid}",
            f"modelyard.deploy.v1.deployment.change-announced.{project_uid}",
        )
    )


def issue_credential(identities: NatsIdentities, name: str, path: Path) -> None:
    """Write a new credential for a service or the provisioner (0600); earlier ones stay valid."""
    permissions = provisioner_permissions() if name == PROVISIONER else service_permissions(name)
    write_secret(path, identities.issue_user(name, permissions).encode())


def issue_service_credentials(identities: NatsIdentities, folder: Path) -> dict[str, Path]:
    """Write one for each service and the provisioner (`<name>.creds`); return where, by name."""
    written = {name: folder / f"{name}.creds" for name in (*SERVICES, PROVISIONER)}
    for name, path in written.items():
        issue_credential(identities, name, path)
    return written

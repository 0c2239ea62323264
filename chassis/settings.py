"""What every service takes from its environment, `MODELYARD_<SERVICE>_<NAME>`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings


class ServiceSettings(BaseSettings):
    """Settings every service has; a service subclasses it and sets `env_prefix`."""

    # Where its state lies; made with mode 0700.
    data_dir: Path
    # `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`; empty means a SQLite file in data_dir.
    database_url: str = ""
    # Connections kept to PostgreSQL.
    database_pool_size_max: int = 10
    # SQLite: pages the writer keeps in memory, bytes, and how long its log grows before it is moved into the database.
    database_cache_bytes: int = 4_096_000
    database_log_bytes: int = 4_096_000
    # Upgrade the database at start; production may run `python -m services.X migrate` instead.
    migrate_on_start: bool = True

    # A wall clock further behind the newest stored instant than this refuses to start, seconds.
    clock_behind_s_max: float = 60.0

    nats_url: str = "nats://127.0.0.1:4222"
    nats_credential_file: Path | None = None

    # `host:port`; port 0 takes a free one. An address that is not loopback needs TLS.
    grpc_address: str = "127.0.0.1:0"
    grpc_message_bytes_max: int = 8 * 1024 * 1024
    grpc_concurrent_rpcs_max: int = 1000
    # Deadline of a unary call that came without one, seconds.
    grpc_deadline_s_default: float = 60.0
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    # Listen beyond loopback without TLS.
    insecure: bool = False

    # Public key of the control-plane's own tokens (PEM).
    token_public_key_file: Path | None = None
    # OIDC issuer whose tokens are taken too; its keys are read from `<issuer>/.well-known/openid-configuration`.
    oidc_issuer: str = ""
    oidc_audience: str = "modelyard"
    # How long an unknown project, member or key is waited for, seconds: one made a moment ago may be on its way.
    access_arrive_s: float = 1.0
    # Token this service calls others with.
    service_token_file: Path | None = None

    # Where the other services answer, `host:port`.
    catalog_address: str = ""
    deploy_address: str = ""
    billing_address: str = ""

    # Written when the service answers: {"pid": …, "grpc": "host:port", …}.
    ready_file: Path | None = None
    log_level: str = "info"
    # Receiver of traces (OTLP over gRPC), `http://host:port`; empty makes none.
    otlp_endpoint: str = ""
    # Share of traces that begin here and are kept, 0 to 1.
    trace_ratio: float = 1.0
    # `host:port` of Prometheus' `/metrics`; port 0 takes a free one, empty measures nothing.
    metrics_address: str = "127.0.0.1:0"
    # Longest time a clean stop may take, seconds.
    stop_s_max: float = 10.0

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment; end the process with status 2 and a line for each setting that is missing or wrong."""
        try:
            return cls()
        except ValidationError as error:
            prefix = cls.model_config.get("env_prefix", "")
            for wrong in error.errors(include_input=False, include_url=False):
                name = f"{prefix}{'_'.join(map(str, wrong['loc'])).upper()}"
                print(f"{name}: {wrong['msg']}", file=sys.stderr)  # noqa: T201 - logging is not configured yet
            sys.exit(2)

    def resolved_database_url(self, service: str) -> str:
        """The database URL, with the default file filled in."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / service}.db"

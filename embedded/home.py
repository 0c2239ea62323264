"""The data directory of one embedded platform: what lies where, and its first-run state."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from embedded.control_plane import kept_secret, kept_signing_key, write_admin_token, write_service_token
from embedded.ports import free_port, take

SERVICES = ("catalog", "deploy", "billing", "inference")
LISTENERS = (*SERVICES, "rest", "artifacts")


class HomeUnusable(Exception):
    """The data directory cannot be used; says why and the way out."""


@dataclass(frozen=True)
class Home:
    """Paths below one data directory (mode 0700); every file with a secret has mode 0600."""

    path: Path

    @property
    def addresses(self) -> Path:
        """Where the platform answers; written when all services do."""
        return self.path / "addresses.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor; holds its process id."""
        return self.path / "up.lock"

    @property
    def lease(self) -> Path:
        """Touched while the supervisor lives; instances end when it is old."""
        return self.path / "lease"

    @property
    def signing_key(self) -> Path:
        return self.path / "secrets" / "control-plane.key"

    @property
    def public_key(self) -> Path:
        return self.path / "secrets" / "control-plane.pub"

    @property
    def cluster_secret(self) -> Path:
        return self.path / "secrets" / "cluster.secret"

    @property
    def download_key(self) -> Path:
        """Signs the catalog's download addresses."""
        return self.path / "secrets" / "download.key"

    @property
    def admin_credential(self) -> Path:
        return self.path / "secrets" / "admin.token"

    @property
    def provider_keys(self) -> Path:
        """Keys of external providers, one a file named as its source refers to it; the operator writes them."""
        return self.path / "secrets" / "providers"

    @property
    def curated(self) -> Path:
        """Folders of reviewed models, for sources of kind curated; the operator writes them."""
        return self.path / "curated"

    @property
    def nats_identities(self) -> Path:
        return self.path / "secrets" / "nats"

    @property
    def nats(self) -> Path:
        return self.path / "nats"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def service_token(self, service: str) -> Path:
        return self.path / "secrets" / f"{service}.token"

    def nats_credential(self, name: str) -> Path:
        return self.nats_identities / f"{name}.creds"

    def service_data(self, service: str) -> Path:
        return self.path / service

    @property
    def instances(self) -> Path:
        """Where deploy's keepers write, a folder an instance."""
        return self.service_data("deploy") / "instances"

    @property
    def packages(self) -> Path:
        """Wheels that are installed on demand, unpacked; the catalog writes it, deploy reads it."""
        return self.path / "packages"

    def ready_file(self, service: str) -> Path:
        """Written by a service when it answers."""
        return self.path / "run" / f"{service}.json"

    def prepare(self) -> dict[str, int]:
        """Make what is missing; return the port of each listener, kept from the last start where it is free.

        Raises:
            HomeUnusable: the directory is someone else's, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise HomeUnusable(
                f"{self.path} cannot be used ({error.strerror}); name another folder with --data-dir or MODELYARD_HOME"
            ) from None
        for folder in (self.logs, self.path / "run", self.curated):
            folder.mkdir(exist_ok=True)
        self.provider_keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        signing_key = kept_signing_key(self.signing_key, self.public_key)
        kept_secret(self.cluster_secret)
        kept_secret(self.download_key)
        write_admin_token(signing_key, self.admin_credential)
        for service in SERVICES:
            write_service_token(signing_key, service, self.service_token(service))
            self.ready_file(service).unlink(missing_ok=True)
        self.addresses.unlink(missing_ok=True)
        return self._ports()

    def _ports(self) -> dict[str, int]:
        path = self.path / "ports.json"
        kept: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        ports: dict[str, int] = {}
        for name in LISTENERS:
            port = kept.get(name, 0)
            ports[name] = port if port and take(port) else free_port()
        path.write_text(json.dumps(ports))
        return ports

    def running_pid(self) -> int | None:
        """Process id of the supervisor that holds this home; None when none does."""
        try:
            pid = int(self.lock.read_text() or "0")
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid or None

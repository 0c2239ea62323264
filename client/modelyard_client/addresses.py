"""Where a platform answers, as `modelyard up` writes it to addresses.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Addresses:
    """REST is a URL; the gRPC addresses are `host:port`; NATS is a URL."""

    rest: str
    catalog: str
    deploy: str
    billing: str
    inference: str
    nats: str
    admin_credential_file: str
    data_dir: str

    @classmethod
    def read(cls, path: Path) -> Addresses:
        """Read addresses.json.

        Raises:
            FileNotFoundError: there is none; the platform does not run.
            ValueError: it lacks an address.
        """
        facts = json.loads(path.read_text())
        names = cls.__dataclass_fields__
        if missing := [name for name in names if name not in facts]:
            raise ValueError(f"{path} has no {missing[0]!r}; `modelyard up` writes it anew")
        return cls(**{name: facts[name] for name in names})

"""An S3 of our own: moto's server in a thread, with one bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from services.catalog.artifacts.store import StoreSettings

BUCKET = "artifacts"


@contextmanager
def running_s3(folder: Path) -> Iterator[StoreSettings]:
    """Where a store with one empty bucket answers, for the length of the block."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="ann",
            aws_secret_access_key="a secret",
        )
        client.create_bucket(Bucket=BUCKET)
        client.close()
        credential = folder / "s3.credential"
        credential.write_text("ann:a secret")
        credential.chmod(0o600)
        yield StoreSettings(f"s3://{BUCKET}/some/prefix", s3_endpoint=endpoint, s3_credential_file=credential)
    finally:
        server.stop()

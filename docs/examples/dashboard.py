"""Print one project's usage as billing posts it: a dashboard in thirty lines.

    modelyard subscriber create --project shop          # writes subscriber-shop.creds and prints the next line
    python docs/examples/dashboard.py nats://127.0.0.1:4222 subscriber-shop.creds PROJECT_UID

It needs nats-py and the generated contracts, nothing of the platform.
"""

from __future__ import annotations

import asyncio
import sys

import nats
from modelyard.billing.v1 import events_pb2
from modelyard.type.v1 import money_pb2
from nats.aio.msg import Msg


async def main(url: str, credential_file: str, project_uid: str) -> None:
    async def show(message: Msg) -> None:
        posted = events_pb2.UsagePosted.FromString(message.data)
        for usage in posted.usage:
            counts = ", ".join(
                f"{quantity.value} {money_pb2.Meter.Name(quantity.meter).removeprefix('METER_').lower()}"
                for quantity in usage.record.quantities
            )
            print(f"{usage.record.occur_time.ToJsonString()}  {usage.record.model_version}  {counts}")

    connection = await nats.connect(url, user_credentials=credential_file)
    await connection.subscribe(f"modelyard.billing.v1.usage.posted.{project_uid}", cb=show)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(
            "usage: dashboard.py NATS_URL CREDENTIAL_FILE PROJECT_UID; `modelyard subscriber create` prints all three"
        )
    asyncio.run(main(*sys.argv[1:4]))

"""One fault under load, from a healthy platform to the proof that it cost no more than it may.

tenant = await Tenant.create(modelyard)
async with tenant.load(seed).running() as log:
    await moment_to_strike(log, rng)
    fault = strike(part, ...)
    await recovered(modelyard, tenant, log, fault)
await tenant.delete_managed()
ledger = await tenant.whole_ledger(log)
assert await differences(...) == []
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard.inference.v1 import operations_pb2
from modelyard_client import Modelyard, ModelyardError

from chassis.ids import new_uid
from cli.commands.deployments import create_deployment
from cli.commands.discover import find_model
from cli.session import collect
from embedded.platform import Platform
from tests.infra.load import ClientLog, End, Load, Targets
from tests.infra.witnesses import (
    Fault,
    Ledger,
    check_bill,
    check_calls,
    check_lives,
    check_processes,
    engine_counts,
    instance_owners,
    instance_processes,
    read_lives,
)

TEXT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
TEXT_ENGINE = "llamacpp"
POOL = "pool"
CHAT, VECTORS, MANAGED, DEPLOYMENT = "chat", "vectors", "managed", "blue"
TARGETS = Targets(chat=(CHAT, MANAGED), embed=(VECTORS,))
READY_S_MAX = 60.0
# A broker that was killed, or a consumer that died with messages in hand, gets them again after 30 s.
RECOVERED_S_MAX = 60.0
LEDGER_S_MAX = 75.0
# Pieces of text that have come when a fault strikes: streams are under way, and every client is at another point.
PIECES_BEFORE = (30, 120)
REPLACED_S_MAX = 30.0
# Where within one of the journal's intervals a fault strikes.
PHASE_S_MAX = 0.05


class Part(Enum):
    """What is killed. Of instances: the pool's, except where the name says otherwise."""

    CATALOG = "catalog"
    DEPLOY = "deploy"
    BILLING = "billing"
    INFERENCE = "inference"
    NATS = "nats"
    TRITON = "triton"
    STUB = "stub"
    MANAGED_KEEPER = "managed keeper"


SERVICES = (Part.CATALOG, Part.DEPLOY, Part.BILLING, Part.INFERENCE, Part.NATS)
_ROLES = {Part.TRITON: "triton", Part.STUB: "stub", Part.MANAGED_KEEPER: "keeper"}


async def until(holds: Callable[[], Awaitable[bool]], what: str, *, s_max: float) -> None:
    """Wait until something holds; a refusal counts as not yet.

    Raises:
        AssertionError: naming what did not come about, and the last refusal.
    """
    give_up_s = time.monotonic() + s_max
    why = ""
    while True:
        try:
            if await holds():
                return
        except ModelyardError as error:
            why = f"; {error}"
        if time.monotonic() > give_up_s:
            raise AssertionError(f"not within {s_max:g} s: {what}{why}")
        await asyncio.sleep(0.05)


@dataclass
class Tenant:
    """A project with a chat model and an embedding model on the shared pool, and a chat model on an instance."""

    modelyard: Modelyard
    name: str
    key: str
    data_dir: Path

    @classmethod
    async def create(cls, modelyard: Modelyard) -> Tenant:
        """A new one; every deployment of it answers when this returns."""
        project_id = f"t{new_uid()[-12:]}"
        project = await modelyard.projects.CreateProject(deploy_pb2.CreateProjectRequest(project_id=project_id))
        made = await modelyard.projects.CreateApiKey(deploy_pb2.CreateApiKeyRequest(parent=project.name))
        tenant = cls(modelyard, project.name, made.secret, Path(modelyard.addresses.data_dir))
        for endpoint, model, instance_type in (
            (CHAT, TEXT_MODEL, ""),
            (VECTORS, EMBEDDING_MODEL, ""),
            (MANAGED, TEXT_MODEL, "instanceTypes/local-1"),
        ):
            version = (await find_model(modelyard, model)).latest_version
            request = billing_pb2.CreateQuoteRequest(
                parent=tenant.name, model_version="" if instance_type else version, instance_type=instance_type
            )
            quote = await modelyard.billing.CreateQuote(request)
            await create_deployment(
                modelyard, tenant.name, endpoint, DEPLOYMENT, version, quote, count=1 if instance_type else 0
            )
        await until(tenant.answers, f"{tenant.name} is deployed", s_max=READY_S_MAX)
        return tenant

    @property
    def instances_dir(self) -> Path:
        """Where keepers and engines write."""
        return self.data_dir / "deploy" / "instances"

    @property
    def managed(self) -> str:
        """Resource name of the deployment with instances of its own."""
        return f"{self.name}/endpoints/{MANAGED}/deployments/{DEPLOYMENT}"

    def load(self, seed: str) -> Load:
        """Clients of this project."""
        addresses = self.modelyard.addresses
        return Load(addresses.rest, addresses.inference, self.key, TARGETS, seed=seed)

    async def answers(self) -> bool:
        """Whether every deployment has all the instances it wants."""
        request = deploy_pb2.ListDeploymentsRequest(parent=f"{self.name}/endpoints/-")
        deployments = await collect(self.modelyard.deploy.ListDeployments, request, "deployments")
        return all(one.state == deploy_pb2.DEPLOYMENT_STATE_ACTIVE for one in deployments)

    async def delete_managed(self) -> None:
        """Delete the managed deployment, and wait until its instances have ended."""
        await self.modelyard.deploy.DeleteDeployment(deploy_pb2.DeleteDeploymentRequest(name=self.managed, force=True))

        async def ended() -> bool:
            lives = read_lives(self.instances_dir)
            return all(lives[uid].exited_ms is not None for uid in await self._own_instances())

        await until(ended, f"the instances of {self.managed} end", s_max=READY_S_MAX)

    async def _own_instances(self) -> set[str]:
        """Instances of the managed deployment that ever ran."""
        owners, lives = await instance_owners(self.modelyard), read_lives(self.instances_dir)
        return {uid for uid, owner in owners.items() if owner == self.managed and uid in lives and lives[uid].started}

    async def whole_ledger(self, log: ClientLog) -> Ledger:
        """The ledger when it has heard of every call and of the end of every instance; else as it is in the end."""
        heard = {call.request_id for call in log.ended(End.COMPLETED)}
        ran = await self._own_instances()
        deadline_s = time.monotonic() + LEDGER_S_MAX
        while True:
            state = await self.modelyard.operations.GetDataPathState(operations_pb2.GetDataPathStateRequest())
            ledger = await Ledger.read(self.modelyard, self.name)
            is_whole = (
                state.running_count == 0
                and state.committed_seq == state.last_seq
                and heard <= {record.request_id for record in ledger.records}
                and ran <= {window.instance_uid for window in ledger.windows if not window.open}
                and not any(window.open for window in ledger.windows)
            )
            if is_whole:
                # Its parts were read one after the other while it grew; now it grows no more.
                return await Ledger.read(self.modelyard, self.name)
            if time.monotonic() > deadline_s:
                return ledger
            await asyncio.sleep(0.1)

    async def differences(self, log: ClientLog, ledger: Ledger, fault: Fault) -> list[str]:
        """Everything in which the witnesses differ, once load has stopped and the managed deployment is deleted."""
        owners = await instance_owners(self.modelyard)
        lives = read_lives(self.instances_dir)
        return [
            *check_calls(log.calls, ledger, engine_counts(self.instances_dir), fault),
            *check_bill(ledger),
            *check_lives(lives, owners, self.managed, ledger, fault),
            *check_processes(self.data_dir, lives),
        ]


async def moment_to_strike(log: ClientLog, rng: random.Random) -> None:
    """Wait until everything has been called once, a seeded number of pieces has come, and a seeded moment passed."""
    await log.until(
        lambda: log.completed_since(0) >= TARGETS.ways(), "every endpoint answers in every way", s_max=READY_S_MAX
    )
    pieces = log.pieces_count + rng.randint(*PIECES_BEFORE)
    await log.until(lambda: log.pieces_count >= pieces, f"{pieces} pieces come", s_max=READY_S_MAX)
    await asyncio.sleep(rng.uniform(0, PHASE_S_MAX))


def kill_processes(part: Part, pids: list[int], keepers: frozenset[str] = frozenset()) -> Fault:
    """kill -9, now."""
    at_s = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    engine_lost = part in (Part.TRITON, Part.STUB, Part.MANAGED_KEEPER)
    return Fault(part.value, at_s, time.time_ns() // 1_000_000, engine_lost, keepers)


async def strike_instance(part: Part, tenant: Tenant) -> Fault:
    """Kill a process of the pool's text instance, or the keeper of the tenant's own instance."""
    owners = await instance_owners(tenant.modelyard)
    owner = tenant.managed if part is Part.MANAGED_KEEPER else POOL
    lives = read_lives(tenant.instances_dir)
    (victim,) = (
        process
        for process in instance_processes(tenant.data_dir)
        if process.role == _ROLES[part]
        and owners[process.instance_uid] == owner
        and lives[process.instance_uid].engine == TEXT_ENGINE
    )
    keepers = frozenset({victim.instance_uid}) if part is Part.MANAGED_KEEPER else frozenset()
    return kill_processes(part, [victim.pid], keepers)


async def strike(part: Part, platform: Platform, tenant: Tenant) -> Fault:
    """Kill a part and, where it is the supervisor's child, see it replaced."""
    if part not in SERVICES:
        return await strike_instance(part, tenant)
    child = platform.children[part.value]
    assert child.process is not None
    killed = child.process.pid
    fault = kill_processes(part, [killed])

    async def replaced() -> bool:
        is_new = child.process is not None and child.process.pid != killed
        return is_new and (child.is_ready or child.ready_file is None)

    await until(replaced, f"{part.value} is started again", s_max=REPLACED_S_MAX)
    return fault


async def recovered(tenant: Tenant, log: ClientLog, fault: Fault) -> float:
    """Wait until calls begun after the fault are answered everywhere in every way, and every service answers.

    Returns:
        Seconds since the fault.
    """
    await log.until(
        lambda: log.completed_since(fault.at_s) >= TARGETS.ways(),
        f"load succeeds again after the kill of {fault.part}",
        s_max=RECOVERED_S_MAX,
    )
    modelyard = tenant.modelyard

    async def all_answer() -> bool:
        await modelyard.catalog.ListModels(catalog_pb2.ListModelsRequest(parent="publishers/-"))
        await modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=tenant.name))
        return await tenant.answers()

    await until(all_answer, f"every service answers after the kill of {fault.part}", s_max=RECOVERED_S_MAX)
    return time.monotonic() - fault.at_s

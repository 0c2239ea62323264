"""A project under test: its three deployments, load on them, and the proof of its bill when the load has stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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
from tests.infra.load import ClientLog, End, Load, Targets
from tests.infra.witnesses import (
    CutTokens,
    Fault,
    Ledger,
    Life,
    check_bill,
    check_calls,
    check_lives,
    check_processes,
    engine_counts,
    instance_owners,
    read_lives,
)

TEXT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
CHAT, VECTORS, MANAGED, DEPLOYMENT = "chat", "vectors", "managed", "blue"
TARGETS = Targets(chat=(CHAT, MANAGED), embed=(VECTORS,))
READY_S_MAX = 60.0
# A broker that was killed, or a consumer that died with messages in hand, gets them again after 30 s.
RECOVERED_S_MAX = 60.0
LEDGER_S_MAX = 75.0
# What a process that has ended its instance takes to leave a busy machine.
LEFT_LOOK_S, LEFT_LOOKS_MAX = 0.2, 75


@dataclass(frozen=True)
class Proof:
    """What one round of faults cost.

    Attributes:
        recover_s: Seconds from each fault until every endpoint and every service answered again.
        cut_tokens: What calls that did not come to their end brought, were billed and made.
        core_ms_diff: Largest difference between an instance's life and its bill.
        orphans: Processes of instances that do not live, and missing ones of those that do.
        differences: Everything in which the witnesses differ, a sentence each.
    """

    log: ClientLog
    ledger: Ledger
    recover_s: Sequence[float]
    cut_tokens: CutTokens
    core_ms_diff: int
    orphans: int
    differences: Sequence[str]


class NotYet(Exception):
    """What does not hold yet; the text says more than that."""


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
        except (ModelyardError, NotYet) as error:
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
        """True when every deployment has all the instances it wants.

        Raises:
            NotYet: with the state of each that has not.
        """
        waiting = [one for one in await self._deployments() if one.state != deploy_pb2.DEPLOYMENT_STATE_ACTIVE]
        if waiting:
            name = deploy_pb2.DeploymentState.Name
            raise NotYet(", ".join(f"{one.name} is {name(one.state)} ({one.state_detail})" for one in waiting))
        return True

    async def _deployments(self) -> list[deploy_pb2.Deployment]:
        request = deploy_pb2.ListDeploymentsRequest(parent=f"{self.name}/endpoints/-")
        return await collect(self.modelyard.deploy.ListDeployments, request, "deployments")

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

    async def scale(self, count: int) -> None:
        """Ask for another number of instances of the managed deployment."""
        request = deploy_pb2.ScaleDeploymentRequest(name=self.managed, instance_count=count)
        await self.modelyard.deploy.ScaleDeployment(request)

    async def recovered(self, log: ClientLog, since_s: float) -> float:
        """Wait until every endpoint has answered a call begun after a moment, and every service answers.

        Returns:
            Seconds since the moment.
        """
        await log.until(
            lambda: {endpoint for _, endpoint in log.completed_since(since_s)} >= TARGETS.endpoints(),
            "load succeeds again",
            s_max=RECOVERED_S_MAX,
        )

        async def all_answer() -> bool:
            await self.modelyard.catalog.ListModels(catalog_pb2.ListModelsRequest(parent="publishers/-"))
            await self.modelyard.billing.GetBill(billing_pb2.GetBillRequest(parent=self.name))
            await self._deployments()
            return True

        await until(all_answer, "every service answers", s_max=RECOVERED_S_MAX)
        return time.monotonic() - since_s

    async def steady(self, log: ClientLog, since_s: float) -> None:
        """Wait until every way of calling every endpoint has succeeded since a moment, and no instance is missing."""
        await log.until(
            lambda: log.completed_since(since_s) >= TARGETS.ways(),
            "every endpoint answers in every way",
            s_max=RECOVERED_S_MAX,
        )
        await until(self.answers, f"every deployment of {self.name} has its instances", s_max=READY_S_MAX)

    async def orphans(self, lives: Mapping[str, Life]) -> list[str]:
        """Processes that run and should not, or the other way round, once those that are leaving have left."""
        for _ in range(LEFT_LOOKS_MAX):
            # A keeper writes down its end a moment before it is gone.
            if not check_processes(self.data_dir, lives):
                break
            await asyncio.sleep(LEFT_LOOK_S)
        return check_processes(self.data_dir, lives)

    async def prove(self, log: ClientLog, faults: Sequence[Fault], recover_s: Sequence[float] = ()) -> Proof:
        """Delete the managed deployment, wait for the whole ledger, and compare all witnesses. Load has stopped."""
        await self.delete_managed()
        ledger = await self.whole_ledger(log)
        owners, lives = await instance_owners(self.modelyard), read_lives(self.instances_dir)
        billed = ledger.billed_core_ms()
        core_ms_diffs = [
            abs(life.vcpus * (life.exited_ms - life.allocated_ms) - billed[uid])
            for uid, life in lives.items()
            if owners.get(uid) == self.managed and life.exited_ms is not None
        ]
        orphans = await self.orphans(lives)
        engines = engine_counts(self.instances_dir)
        differences = [
            *check_calls(log.calls, ledger, engines, faults),
            *check_bill(ledger),
            *check_lives(lives, owners, self.managed, ledger, faults),
            *orphans,
        ]
        return Proof(
            log,
            ledger,
            recover_s,
            CutTokens.of(log.calls, ledger, engines),
            max(core_ms_diffs, default=0),
            len(orphans),
            differences,
        )

"""One call: admitted, journaled, answered, settled exactly once, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import routes_pb2
from modelyard.type.v1 import usage_pb2
from tritonclient.grpc import service_pb2

from chassis.clock import Clock, ms_from_time
from chassis.errors import Problem
from chassis.ids import new_uid
from chassis.telemetry import get_logger, request_id, span, traceparent
from chassis.timestamps import timestamp
from services.inference.access.routes import Destination, RouteDirectory
from services.inference.backends.provider import ProviderBackend
from services.inference.backends.templates import TemplateProcesses
from services.inference.backends.triton import EMBED_ROWS_MAX, TritonBackend, named_outputs, sum_of
from services.inference.domain.calls import (
    INPUTS_MAX,
    Message,
    Sampling,
    check_inputs,
    check_messages,
    check_sampling,
)
from services.inference.domain.errors import (
    EngineTimeout,
    RawTensorsOnServerless,
    RequestInvalid,
    TaskNotSupported,
)
from services.inference.domain.output import Embedded, Piece
from services.inference.domain.prompts import render_prompt
from services.inference.domain.usage import Counts, Outcome, billed, cut_by_us
from services.inference.journal.journal import Entry, Journal
from services.inference.usecases.generation import Generation
from services.inference.usecases.instances import ask_one, stream_from_one
from services.inference.usecases.measures import CallMeasure
from services.inference.usecases.whole import WholeCall

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """`call_s_max`: the whole call, queueing included, seconds."""

    call_s_max: float = 180.0


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole embedding answer."""

    id: str
    rows: list[bytes]
    input_tokens: int
    instance_uid: str


class Calls:
    """Admits calls and runs them."""

    def __init__(
        self,
        routes: RouteDirectory,
        journal: Journal,
        backend: TritonBackend,
        providers: ProviderBackend,
        templates: TemplateProcesses,
        clock: Clock,
        limits: CallLimits,
    ) -> None:
        self.routes = routes
        self.journal = journal
        self.backend = backend
        self.providers = providers
        self.templates = templates
        self.clock = clock
        self.limits = limits
        # Set when the service stops: calls that are cut from then on were cut by us.
        self.stopping = False

    async def chat(
        self, key: routes_pb2.KeyAccess, model: str, messages: Sequence[Message], sampling: Sampling
    ) -> Generation:
        """Admit a chat completion.

        Raises:
            Problem: refused; nothing is recorded and nothing is charged.
        """
        check_messages(messages)
        check_sampling(sampling)
        destination = await self.find(key, model, catalog_pb2.TASK_CHAT_COMPLETION, "chat completions")
        deployment = destination.deployment
        if deployment.HasField("provider"):
            return Generation(
                self,
                key,
                destination,
                lambda call: self.providers.generate(deployment.provider, call.id, messages, sampling),
            )
        prompt = await self._prompt(deployment.serving, messages)
        return Generation(
            self, key, destination, lambda call: self._generate_on_one(call, destination, prompt, sampling)
        )

    async def _prompt(self, serving: catalog_pb2.Serving, messages: Sequence[Message]) -> str:
        words = {"bos_token": serving.bos_token, "eos_token": serving.eos_token}
        if serving.untrusted_template:
            return await self.templates.render(serving.chat_template, messages, **words)
        return render_prompt(serving.chat_template, messages, **words)

    def _generate_on_one(
        self, call: Generation, destination: Destination, prompt: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        def ask(target: routes_pb2.RouteTarget) -> AsyncGenerator[Piece, None]:
            call.instance_uid = target.instance_uid
            return self.backend.generate(target, call.id, prompt, sampling.parameters())

        return stream_from_one(self.backend, destination, ask)

    async def embed(
        self, key: routes_pb2.KeyAccess, model: str, inputs: Sequence[str], *, dimensions: int | None = None
    ) -> Answered:
        """Embed texts; the record is durable when this returns.

        Args:
            dimensions: Length of a vector; None takes the model's. Only a provider's model may give another one.

        Raises:
            Problem: refused, or failed and recorded at zero.
        """
        check_inputs(inputs)
        destination = await self.find(key, model, catalog_pb2.TASK_EMBEDDINGS, "embeddings")
        deployment = destination.deployment
        width = deployment.serving.embedding_dimensions
        if dimensions not in (None, width) and not deployment.HasField("provider"):
            raise RequestInvalid(f"dimensions is {dimensions}; the model gives {width}", field="dimensions")
        call = WholeCall(self, key, destination, "embeddings")
        rows_max = INPUTS_MAX if deployment.HasField("provider") else EMBED_ROWS_MAX

        async def answer() -> Answered:
            rows: list[bytes] = []
            # Parts are read one after the other; the answer leaves as a whole.
            for start in range(0, len(inputs), rows_max):
                part = await self._embed(call, inputs[start : start + rows_max], dimensions)
                call.read += Counts(input_tokens=part.input_tokens)
                rows += part.rows
            return Answered(call.id, rows, call.read.input_tokens, call.instance_uid)

        return await call.run(answer, ask_for_less="send fewer texts")

    async def _embed(self, call: WholeCall, texts: Sequence[str], dimensions: int | None) -> Embedded:
        deployment = call.destination.deployment
        if deployment.HasField("provider"):
            return await self.providers.embed(deployment.provider, call.id, texts, dimensions)
        return await call.ask(lambda target: self.backend.embed(target, call.id, texts))

    async def infer(
        self, key: routes_pb2.KeyAccess, request: service_pb2.ModelInferRequest
    ) -> service_pb2.ModelInferResponse:
        """A raw tensor call with one response, on a managed deployment; the record is durable when this returns.

        Args:
            request: Used up: it becomes what the engine is asked, without a copy of its tensors.

        Raises:
            RawTensorsOnServerless: the shared pool takes none.
            Problem: refused, or failed and recorded.
        """
        destination = await self.raw_destination(key, request.model_name)
        measure = CallMeasure("infer", destination.deployment)
        with span("infer", measure.attributes):
            return await self._infer(key, destination, request, measure)

    async def _infer(
        self,
        key: routes_pb2.KeyAccess,
        destination: Destination,
        request: service_pb2.ModelInferRequest,
        measure: CallMeasure,
    ) -> service_pb2.ModelInferResponse:
        received = Counts()
        outcome: Outcome | None = None
        entry = self.open_with(key, destination, urgent=False)
        asked_model, asked_id = request.model_name, request.id
        request.model_version, request.id = "", entry.record.id

        def ask(target: routes_pb2.RouteTarget) -> Awaitable[service_pb2.ModelInferResponse]:
            request.model_name = target.model_name
            return self.backend.raw_infer(target, request, timeout_s=self.limits.call_s_max)

        try:
            response = await ask_one(self.backend, destination, ask)
            received = _counted(response, received)
            response.model_name, response.id = asked_model, asked_id
            # Its opening is durable at the latest with its settlement, which the answer waits for.
            if entry.opened.done():
                entry.opened.result()
            outcome = Outcome.COMPLETED
        except Problem:
            outcome = Outcome.FAILED
            raise
        finally:
            outcome = outcome or self.outcome_of_cut(None, Counts())
            usage = billed(outcome, received, Counts())
            durable = entry.settle(outcome, usage)
            measure.settled(outcome, usage, entry.record.id)
        await durable
        return response

    async def raw(
        self, key: routes_pb2.KeyAccess, request: service_pb2.ModelInferRequest
    ) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
        """A raw tensor call with a stream of responses, on a managed deployment: one request, one usage record.

        Raises:
            RawTensorsOnServerless: the shared pool takes none.
            Problem: refused, or failed and recorded.
        """
        destination = await self.raw_destination(key, request.model_name)
        measure = CallMeasure("infer", destination.deployment)
        with span("infer", measure.attributes):
            async with aclosing(self._raw(key, destination, request, measure)) as responses:
                async for response in responses:
                    yield response

    async def _raw(
        self,
        key: routes_pb2.KeyAccess,
        destination: Destination,
        request: service_pb2.ModelInferRequest,
        measure: CallMeasure,
    ) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
        inner = service_pb2.ModelInferRequest()
        inner.CopyFrom(request)
        inner.model_version = ""

        def ask(target: routes_pb2.RouteTarget) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
            inner.model_name = target.model_name
            return self.backend.raw_stream(target, inner)

        received, delivered = Counts(), Counts()
        outcome: Outcome | None = None
        entry = self.open_with(key, destination)
        inner.id = entry.record.id
        limit = asyncio.timeout(self.limits.call_s_max)
        try:
            async with limit, aclosing(stream_from_one(self.backend, destination, ask)) as responses:
                async for response in responses:
                    received = _counted(response, received)
                    measure.output()
                    await entry.opened
                    response.model_name, response.id = request.model_name, request.id
                    yield response
                    delivered = received
                    if delivered.has_output:
                        entry.progress(delivered)
            outcome = Outcome.COMPLETED
        except TimeoutError:
            outcome = Outcome.TIMED_OUT
            raise EngineTimeout(f"the call took longer than {self.limits.call_s_max:g} s") from None
        except EngineTimeout:
            outcome = Outcome.TIMED_OUT if delivered.has_output else Outcome.FAILED
            raise
        except Problem:
            outcome = cut_by_us(delivered)
            raise
        finally:
            is_heard = outcome is not None
            outcome = outcome or self.outcome_of_cut(limit, delivered)
            usage = billed(outcome, received, delivered)
            durable = entry.settle(outcome, usage)
            measure.settled(outcome, usage, entry.record.id)
            if is_heard and outcome is not Outcome.FAILED:
                await durable

    def outcome_of_cut(self, limit: asyncio.Timeout | None, delivered: Counts) -> Outcome:
        """How a call ended that was cancelled while it waited: for its client, its engine or its deadline."""
        if limit is not None and limit.expired():
            return Outcome.TIMED_OUT
        return cut_by_us(delivered) if self.stopping else Outcome.CANCELLED

    async def raw_destination(self, key: routes_pb2.KeyAccess, model: str) -> Destination:
        """Where a raw call goes.

        Raises:
            RawTensorsOnServerless: the endpoint is on the shared pool.
        """
        destination = await self.routes.find_arriving(key, model)
        if destination.route.serverless:
            raise RawTensorsOnServerless(
                f"endpoint {model!r} is serverless and takes no raw tensors; deploy on managed compute, or call chat "
                "completions or embeddings"
            )
        return destination

    def open_with(self, key: routes_pb2.KeyAccess, destination: Destination, *, urgent: bool = True) -> Entry:
        """Write the call's journal entry; it becomes durable beside the engine's work.

        Args:
            urgent: As `Journal.open` takes it.

        Raises:
            JournalFull: usage cannot be recorded, so no work is taken.
        """
        now = self.clock.now()
        return self.journal.open(
            usage_pb2.UsageRecord(
                id=new_uid(ms_from_time(now)),
                project_uid=destination.route.project_uid,
                endpoint_uid=destination.route.endpoint_uid,
                deployment_uid=destination.deployment.uid,
                model_version=destination.deployment.model_version,
                key_id=key.key_id,
                price_version=destination.deployment.price_version,
                quote=destination.deployment.quote,
                occur_time=timestamp(now),
                request_id=request_id.get(),
                traceparent=traceparent(),
            ),
            urgent=urgent,
        )

    async def find(
        self, key: routes_pb2.KeyAccess, model: str, task: catalog_pb2.Task.ValueType, said: str
    ) -> Destination:
        """Where a call goes that only models of one task answer.

        Args:
            said: The task in words.

        Raises:
            TaskNotSupported: the model does something else.
            Problem: the key may not call it, or nothing answers there now.
        """
        destination = await self.routes.find_arriving(key, model)
        if task not in destination.deployment.tasks:
            raise TaskNotSupported(f"the model behind {model!r} does not answer {said}", field="model")
        return destination


def _counted(response: service_pb2.ModelInferResponse, counts: Counts) -> Counts:
    """What a raw response tells of its use; text engines tell it where the caller asked for it."""
    outputs = named_outputs(response)
    read = outputs.get("num_input_tokens") or outputs.get("NUM_INPUT_TOKENS") or b""
    said = sum_of(read, 4)
    return Counts(
        said or counts.input_tokens,
        counts.output_tokens + sum_of(outputs.get("num_output_tokens", b""), 4),
        counts.audio_milliseconds + sum_of(outputs.get("AUDIO_MILLISECONDS", b""), 8),
        counts.images + sum_of(outputs.get("NUM_IMAGES", b""), 4),
    )

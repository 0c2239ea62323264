"""What callers ask for, checked; errors name the value, the limit and the way out, never the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.inference.domain.errors import RequestInvalid

MESSAGES_MAX = 2048
INPUTS_MAX = 2048
STOPS_MAX = 4
STOP_LENGTH_MAX = 256
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is produced; None leaves it to the engine.

    `max_tokens_name` is the field the caller said `max_tokens` with: of providers' models some take the one, some the
    other, and who calls one knows which.
    """

    max_tokens: int | None = None
    max_tokens_name: str = "max_tokens"
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    presence_penalty: float | None = None

    def parameters(self) -> dict[str, object]:
        """The text engines' sampling parameters."""
        named: dict[str, object] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
        }
        given = {name: value for name, value in named.items() if value is not None}
        if self.stop:
            given["stop"] = list(self.stop)
        return given

    def provider_parameters(self) -> dict[str, object]:
        """The same as fields of OpenAI's API."""
        given = self.parameters()
        if self.max_tokens is not None:
            given[self.max_tokens_name] = given.pop("max_tokens")
        return given


def check_messages(messages: Sequence[Message]) -> None:
    """A conversation that can be answered.

    Raises:
        RequestInvalid: naming the field and the limit.
    """
    if not 1 <= len(messages) <= MESSAGES_MAX:
        raise RequestInvalid(f"messages has {len(messages)} entries; 1 to {MESSAGES_MAX} are allowed", field="messages")
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise RequestInvalid(
                f"messages[{index}].role is {message.role[:32]!r}; {', '.join(ROLES)} are allowed",
                field=f"messages[{index}].role",
            )


def check_sampling(sampling: Sampling) -> None:
    """Sampling within its ranges.

    Raises:
        RequestInvalid: naming the field, its value and the range.
    """
    _in_range("max_tokens", sampling.max_tokens, 1, 1_000_000)
    _in_range("temperature", sampling.temperature, 0, 2)
    _in_range("top_p", sampling.top_p, 0, 1)
    _in_range("frequency_penalty", sampling.frequency_penalty, -2, 2)
    _in_range("presence_penalty", sampling.presence_penalty, -2, 2)
    _in_range("seed", sampling.seed, -(2**63), 2**63 - 1)
    if len(sampling.stop) > STOPS_MAX:
        raise RequestInvalid(f"stop has {len(sampling.stop)} entries; at most {STOPS_MAX} are allowed", field="stop")
    for index, stop in enumerate(sampling.stop):
        if not 1 <= len(stop) <= STOP_LENGTH_MAX:
            raise RequestInvalid(
                f"stop[{index}] has {len(stop)} characters; 1 to {STOP_LENGTH_MAX} are allowed", field="stop"
            )


def check_inputs(inputs: Sequence[str]) -> None:
    """Texts that can be embedded.

    Raises:
        RequestInvalid: naming the count, or the empty one.
    """
    if not 1 <= len(inputs) <= INPUTS_MAX:
        raise RequestInvalid(f"input has {len(inputs)} texts; 1 to {INPUTS_MAX} are allowed", field="input")
    for index, text in enumerate(inputs):
        if not text:
            raise RequestInvalid(f"input[{index}] is empty; at least 1 character is needed", field="input")


def _in_range(name: str, value: float | None, low: float, high: float) -> None:
    # The comparison is written so that NaN, which is in no range, is refused too.
    if value is not None and not low <= value <= high:
        raise RequestInvalid(f"{name} is {value}; {low} to {high} are allowed", field=name)


def split_address(model: str) -> tuple[str, str]:
    """`ENDPOINT` or `ENDPOINT/DEPLOYMENT` as (endpoint, deployment or "").

    Raises:
        RequestInvalid: empty, or of another form.
    """
    endpoint, slash, deployment = model.partition("/")
    if not endpoint or "/" in deployment or (slash and not deployment) or len(model) > 80:
        raise RequestInvalid(f"model {model[:80]!r} is not 'ENDPOINT' or 'ENDPOINT/DEPLOYMENT'", field="model")
    return endpoint, deployment

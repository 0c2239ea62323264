"""OpenAI's request bodies: what is taken, what is accepted and without effect, and what is refused by name."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from services.inference.domain.calls import Message, Sampling
from services.inference.domain.errors import RequestInvalid

Body = TypeVar("Body")

# Sent by clients as a matter of course; they change nothing here.
WITHOUT_EFFECT = frozenset({"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"})
_CHAT = frozenset(
    {
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
        "seed", "stop", "frequency_penalty", "presence_penalty", "n", "logprobs", "response_format",
    }
)  # fmt: skip
_EMBEDDINGS = frozenset({"model", "input", "encoding_format", "dimensions"})


class ChatBody(msgspec.Struct, frozen=True):
    """A chat completion request, checked for types; ranges are the domain's."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    n: int | None = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    stream_options: dict[str, Any] | None = None

    @property
    def wants_running_usage(self) -> bool:
        """Usage in every chunk, as vLLM names it."""
        return bool((self.stream_options or {}).get("continuous_usage_stats"))

    def sampling(self) -> Sampling:
        """How the answer is produced."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        is_newer = self.max_completion_tokens is not None
        return Sampling(
            max_tokens=self.max_completion_tokens if is_newer else self.max_tokens,
            max_tokens_name="max_completion_tokens" if is_newer else "max_tokens",
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=stops,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
        )


class EmbeddingsBody(msgspec.Struct, frozen=True):
    """An embeddings request."""

    model: str
    input: str | list[Any]
    encoding_format: str = "float"
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """The texts, one or many."""
        given = [self.input] if isinstance(self.input, str) else self.input
        if any(not isinstance(text, str) for text in given):
            raise RequestInvalid("input holds tokens or other values; send texts", field="input")
        return given


def read_chat(body: bytes) -> ChatBody:
    """A chat request.

    Raises:
        RequestInvalid: malformed, a field that is not taken, or one with another value than is taken.
    """
    chat = read_object(body, _CHAT, ChatBody)
    if chat.n not in (None, 1):
        raise RequestInvalid(f"n is {chat.n}; 1 is allowed", field="n")
    if chat.logprobs:
        raise RequestInvalid("logprobs is true; this platform gives none", field="logprobs")
    if chat.response_format not in (None, {"type": "text"}):
        raise RequestInvalid(
            "response_format is not {'type': 'text'}, the only one that is taken", field="response_format"
        )
    return chat


def read_embeddings(body: bytes) -> EmbeddingsBody:
    """An embeddings request.

    Raises:
        RequestInvalid: see `read_chat`.
    """
    embeddings = read_object(body, _EMBEDDINGS, EmbeddingsBody)
    if embeddings.encoding_format not in ("float", "base64"):
        raise RequestInvalid(
            f"encoding_format is {embeddings.encoding_format[:32]!r}; float and base64 are allowed",
            field="encoding_format",
        )
    return embeddings


def messages_of(chat: ChatBody) -> list[Message]:
    """The conversation; a content of text parts is joined.

    Raises:
        RequestInvalid: a message that is not a role and a text.
    """
    return [_message(index, message) for index, message in enumerate(chat.messages)]


def _message(index: int, message: dict[str, Any]) -> Message:
    where = f"messages[{index}]"
    # A field without a value says nothing: the `openai` client sends back the answers it got, `refusal: null` included.
    if unknown := sorted({name for name, value in message.items() if value is not None} - {"role", "content", "name"}):
        raise RequestInvalid(f"{where} has the field {unknown[0][:64]!r}; role and content are taken", field=where)
    role, content = message.get("role"), message.get("content")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if any(not isinstance(part, str) for part in parts):
            raise RequestInvalid(
                f"{where}.content holds a part that is no text; only text parts are taken", field=where
            )
        content = "".join(part for part in parts if part is not None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise RequestInvalid(f"{where} needs a role and a content, both text", field=where)
    return Message(role, content)


def read_object(body: bytes, taken: frozenset[str], form: type[Body]) -> Body:
    """A JSON body of one form.

    Raises:
        RequestInvalid: malformed, a field that is not taken, or one of another type.
    """
    return _converted(_object(body, taken), form)


def _object(body: bytes, taken: frozenset[str]) -> dict[str, Any]:
    try:
        # msgspec would take invalid UTF-8 inside strings that are not used; a body is text as a whole.
        found = msgspec.json.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestInvalid(f"the body is not UTF-8 at byte {error.start}") from None
    except (msgspec.DecodeError, RecursionError):
        raise RequestInvalid("the body is not JSON, or too deeply nested") from None
    if not isinstance(found, dict):
        raise RequestInvalid("the body is not a JSON object")
    if unknown := sorted(set(found) - taken - WITHOUT_EFFECT):
        raise RequestInvalid(
            f"the field {unknown[0][:64]!r} is not taken; taken are {', '.join(sorted(taken))}", field=unknown[0][:64]
        )
    return {name: value for name, value in found.items() if name in taken}


def _converted(found: dict[str, Any], form: type[Body]) -> Body:
    """Check types.

    Raises:
        RequestInvalid: naming the field and what was expected.
    """
    try:
        return msgspec.convert(found, form)
    except msgspec.ValidationError as invalid:
        expected, _, path = str(invalid).partition(" - at `$")
        field = path.strip("`.") or None
        raise RequestInvalid(f"{field or 'the body'}: {expected}", field=field) from None

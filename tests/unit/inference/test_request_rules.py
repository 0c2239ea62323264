"""What callers ask for: bodies, ranges, prompts, addresses; and how a refusal looks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.inference.domain.calls import Message, Sampling, check_inputs, check_messages, check_sampling
from services.inference.domain.errors import BodyTooLarge, KeyInvalid, NoReadyInstance, RequestInvalid
from services.inference.domain.prompts import render_prompt
from services.inference.domain.usage import Counts, Outcome, billed, cut_by_us
from services.inference.http.answers import error_body, error_response
from services.inference.http.bodies import messages_of, read_chat, read_embeddings

HELLO = {"role": "user", "content": "hello"}


def chat(**changes: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [HELLO], **changes}).encode()


def embeddings(**changes: Any) -> bytes:
    return json.dumps({"model": "m", "input": "text", **changes}).encode()


# What is billed


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.COMPLETED, Counts(5, 9)),
        (Outcome.CANCELLED, Counts(5, 9)),
        (Outcome.TIMED_OUT, Counts(5, 9)),
        (Outcome.INTERRUPTED, Counts(5, 4)),
        (Outcome.FAILED, Counts()),
    ],
)
def test_a_call_is_billed_by_how_it_ended(outcome: Outcome, expected: Counts) -> None:
    assert billed(outcome, received=Counts(5, 9), delivered=Counts(5, 4)) == expected


def test_what_we_break_before_any_output_has_failed() -> None:
    assert (cut_by_us(Counts(5, 0)), cut_by_us(Counts(5, 1))) == (Outcome.FAILED, Outcome.INTERRUPTED)


# Ranges


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("max_tokens", 0, "max_tokens is 0; 1 to 1000000 are allowed"),
        ("max_tokens", -1, "max_tokens is -1; 1 to 1000000 are allowed"),
        ("temperature", 2.1, "temperature is 2.1; 0 to 2 are allowed"),
        ("temperature", float("nan"), "temperature is nan; 0 to 2 are allowed"),
        ("top_p", -0.1, "top_p is -0.1; 0 to 1 are allowed"),
        ("frequency_penalty", 3, "frequency_penalty is 3; -2 to 2 are allowed"),
        ("presence_penalty", -3, "presence_penalty is -3; -2 to 2 are allowed"),
        ("seed", 2**63, f"seed is {2**63}"),
        ("stop", ("a",) * 5, "stop has 5 entries; at most 4 are allowed"),
        ("stop", ("",), r"stop\[0\] has 0 characters; 1 to 256 are allowed"),
        ("stop", ("a", "b" * 257), r"stop\[1\] has 257 characters"),
    ],
)
def test_sampling_out_of_range_is_named_with_its_value_and_range(field: str, value: Any, says: str) -> None:
    with pytest.raises(RequestInvalid, match=says) as refused:
        check_sampling(Sampling(**{field: value}))
    assert refused.value.field == field


def test_sampling_at_its_limits_is_taken() -> None:
    check_sampling(Sampling(max_tokens=1, temperature=2, top_p=0, seed=-(2**63), stop=("a" * 256,) * 4))
    check_sampling(Sampling())


def test_only_what_was_given_goes_to_the_engine() -> None:
    given = Sampling(max_tokens=3, temperature=0.0, stop=("end",)).parameters()
    assert given == {"max_tokens": 3, "temperature": 0.0, "stop": ["end"]}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages has 0 entries; 1 to 2048 are allowed"),
        ([Message("user", "x")] * 2049, "messages has 2049 entries"),
        ([Message("user", "x"), Message("tool", "x")], r"messages\[1\].role is 'tool'"),
    ],
)
def test_messages_that_cannot_be_answered_are_refused(messages: list[Message], says: str) -> None:
    with pytest.raises(RequestInvalid, match=says):
        check_messages(messages)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "input has 0 texts; 1 to 2048 are allowed"),
        (["x"] * 2049, "input has 2049 texts"),
        (["x", ""], r"input\[1\] is empty"),
    ],
)
def test_inputs_that_cannot_be_embedded_are_refused(inputs: list[str], says: str) -> None:
    with pytest.raises(RequestInvalid, match=says):
        check_inputs(inputs)


# Prompts


def prompt(template: str, *messages: Message) -> str:
    return render_prompt(template, messages or [Message("user", "a secret")], bos_token="<s>", eos_token="</s>")


def test_a_template_sees_messages_and_the_texts_of_special_tokens() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}={{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    assert prompt(template, Message("system", "be"), Message("user", "hi")) == "<s>system=be</s>user=hi</s>>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append('x') }}",
        "{% for n in range(1000000) %}x{% endfor %}",
        "{{ messages[0].content.nothing.at.all }}",
        "{{ messages[0].content % 'x' + 1 }}",
        "{{ raise_exception('no ' + messages[0].content) }}",
        "{% broken",
    ],
)
def test_a_template_reaches_nothing_and_its_refusal_quotes_nothing(template: str) -> None:
    """Templates come with models, so they run in a sandbox; what they complain about may quote the messages."""
    with pytest.raises(RequestInvalid) as refused:
        prompt(template)
    assert "secret" not in refused.value.message
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_a_template_sees_nothing_of_the_functions_it_may_call() -> None:
    assert prompt("{{ raise_exception.__globals__ }}{{ raise_exception.__code__ }}") == ""


def test_a_model_without_a_template_takes_no_messages() -> None:
    with pytest.raises(RequestInvalid, match="has no chat template"):
        prompt("")


def test_a_template_that_grows_without_end_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="at most 8388608 are allowed"):
        prompt("{% for n in range(9000) %}{{ messages[0].content }}{% endfor %}", Message("user", "x" * 1000))


# Bodies


def test_a_chat_body_becomes_messages_and_sampling() -> None:
    body = read_chat(chat(max_tokens=5, stop="end", temperature=1, stream=True, stream_options={"include_usage": True}))
    assert body.stream
    assert messages_of(body) == [Message("user", "hello")]
    assert body.sampling() == Sampling(max_tokens=5, temperature=1, stop=("end",))


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert read_chat(chat(max_tokens=5, max_completion_tokens=3)).sampling().max_tokens == 3


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    body = read_chat(chat(messages=[{"role": "user", "content": parts}]))
    assert messages_of(body) == [Message("user", "one two")]


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    """As the `openai` client does with the message of an answer: `refusal` and others are there without a value."""
    said = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None}
    assert messages_of(read_chat(chat(messages=[HELLO, said])))[1] == Message("assistant", "hi")


@pytest.mark.parametrize("name", ["user", "store", "metadata", "service_tier"])
def test_what_clients_send_as_a_matter_of_course_changes_nothing(name: str) -> None:
    assert read_chat(chat(**{name: "x"})) == read_chat(chat())


@pytest.mark.parametrize(
    ("body", "says", "field"),
    [
        (b"", "the body is not JSON", None),
        (b"{", "the body is not JSON", None),
        (b"[]", "the body is not a JSON object", None),
        (b'"\xff"', "the body is not UTF-8 at byte 1", None),
        (b"[" * 100_000, "the body is not JSON, or too deeply nested", None),
        (chat(model=3), "model: Expected `str`, got `int`", "model"),
        (b'{"messages": []}', "missing required field `model`", None),
        (chat(messages="x"), "messages: Expected `array`", "messages"),
        (chat(messages=["x"]), "Expected `object`, got `str`", "messages[0]"),
        (chat(messages=[{"role": "user"}]), r"messages\[0\] needs a role and a content", "messages[0]"),
        (chat(messages=[{"role": "user", "content": None}]), r"messages\[0\] needs a role", "messages[0]"),
        (chat(messages=[{**HELLO, "tool_calls": [1]}]), r"messages\[0\] has the field 'tool_calls'", "messages[0]"),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "holds a part that is no text",
            "messages[0]",
        ),
        (chat(tools=[]), "the field 'tools' is not taken; taken are frequency_penalty,", "tools"),
        (chat(max_tokens=1.5), "max_tokens: Expected `int", "max_tokens"),
        (chat(max_tokens=True), "max_tokens: Expected `int", "max_tokens"),
        (chat(temperature="hot"), "temperature: Expected `float", "temperature"),
        (chat(n=2), "n is 2; 1 is allowed", "n"),
        (chat(logprobs=True), "logprobs is true", "logprobs"),
        (chat(response_format={"type": "json_object"}), "the only one that is taken", "response_format"),
    ],
)
def test_a_chat_body_of_another_form_is_refused_by_name(body: bytes, says: str, field: str | None) -> None:
    with pytest.raises(RequestInvalid, match=says) as refused:
        messages_of(read_chat(body))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (embeddings(input=[1, 2]), "input holds tokens or other values; send texts"),
        (embeddings(input=["a", None]), "input holds tokens or other values"),
        (embeddings(input={"a": 1}), "input: Expected `str | array`"),
        (embeddings(encoding_format="int8"), "encoding_format is 'int8'; float and base64 are allowed"),
        (embeddings(input_type="query"), "the field 'input_type' is not taken"),
    ],
)
def test_an_embeddings_body_of_another_form_is_refused_by_name(body: bytes, says: str) -> None:
    with pytest.raises(RequestInvalid, match=says.replace("|", r"\|")):
        read_embeddings(body).texts()


def test_a_lone_surrogate_is_no_text() -> None:
    """It would break wherever the text is written next."""
    with pytest.raises(RequestInvalid):
        read_chat(b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}')


# Refusals


def test_a_refusal_has_openais_shape() -> None:
    assert error_body(RequestInvalid("n is 2; 1 is allowed", field="n")) == {
        "error": {
            "message": "n is 2; 1 is allowed",
            "type": "invalid_request_error",
            "code": "request_invalid",
            "param": "n",
        }
    }


@pytest.mark.parametrize(
    ("problem", "status", "header", "value"),
    [
        (KeyInvalid("no"), 401, "www-authenticate", "Bearer"),
        (NoReadyInstance("none", retry_after_s=2.0), 503, "retry-after", "2"),
        (NoReadyInstance("none", retry_after_s=0.1), 503, "retry-after", "1"),
        (BodyTooLarge("big"), 413, "x-ms-error-code", "BODY_TOO_LARGE"),
    ],
)
def test_a_refusal_says_in_headers_what_clients_act_on(problem: Any, status: int, header: str, value: str) -> None:
    response = error_response(problem)
    assert (response.status_code, response.headers[header]) == (status, value)

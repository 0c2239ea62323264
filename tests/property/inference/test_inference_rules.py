"""Rules of inference that hold for every input."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from modelyard.inference.v1 import journal_pb2
from modelyard.type.v1 import usage_pb2

from services.inference.domain.balance import choose_by_weight, choose_least_loaded
from services.inference.domain.calls import split_address
from services.inference.domain.errors import RequestInvalid
from services.inference.domain.usage import Counts, Outcome, billed, cut_by_us
from services.inference.http.bodies import messages_of, read_chat, read_embeddings
from services.inference.journal.frames import encode_frame, read_frames
from services.inference.journal.recovery import recover

COUNTS = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))
WEIGHTS = st.lists(st.integers(0, 100), min_size=1, max_size=6).map(
    lambda weights: [(f"d{n}", weight) for n, weight in enumerate(weights)]
)


@given(st.sampled_from(Outcome), COUNTS, COUNTS)
def test_no_call_is_billed_above_what_was_received(
    outcome: Outcome, delivered: tuple[int, int], more: tuple[int, int]
) -> None:
    received = Counts(delivered[0] + more[0], delivered[1] + more[1])
    paid = billed(outcome, received, Counts(*delivered))
    assert paid.input_tokens <= received.input_tokens
    assert paid.output_tokens <= received.output_tokens


@given(COUNTS, COUNTS)
def test_what_we_cut_is_never_billed_above_what_was_delivered(
    delivered: tuple[int, int], more: tuple[int, int]
) -> None:
    received = Counts(delivered[0] + more[0], delivered[1] + more[1])
    paid = billed(cut_by_us(Counts(*delivered)), received, Counts(*delivered))
    assert paid in (Counts(*delivered), Counts())
    assert (paid == Counts()) or paid.output_tokens > 0


@given(WEIGHTS)
def test_every_deployment_takes_its_share_of_evenly_spread_draws(weights: list[tuple[str, int]]) -> None:
    """Exactly: a thousandth of the draws for each thousandth of the whole, give or take one at each border."""
    total = sum(weight for _, weight in weights)
    taken = Counter(choose_by_weight(weights, draw / 1000) for draw in range(1000))
    if not total:
        assert taken == {None: 1000}
        return
    for name, weight in weights:
        assert abs(taken[name] - 1000 * weight / total) <= 2
        assert weight or not taken[name]


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_a_deployment_without_traffic_is_never_drawn(weights: list[tuple[str, int]], draw: float) -> None:
    chosen = choose_by_weight(weights, draw)
    assert chosen is None or dict(weights)[chosen] > 0


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(0, 5), min_size=1), st.integers(0, 1000))
def test_the_chosen_instance_has_the_fewest_calls(in_flight: dict[str, int], turn: int) -> None:
    assert in_flight[choose_least_loaded(sorted(in_flight), in_flight, turn)] == min(in_flight.values())


@given(st.integers(1, 5), st.integers(1, 60))
def test_calls_that_stay_spread_evenly(instances: int, calls: int) -> None:
    uids = [f"i{n}" for n in range(instances)]
    in_flight: Counter[str] = Counter()
    for turn in range(calls):
        in_flight[choose_least_loaded(uids, in_flight, turn)] += 1
    assert max(in_flight.values()) - min(in_flight[uid] for uid in uids) <= 1


@given(st.text(max_size=90))
def test_an_address_is_split_or_refused(model: str) -> None:
    try:
        endpoint, deployment = split_address(model)
    except RequestInvalid:
        return
    assert endpoint
    assert model == (f"{endpoint}/{deployment}" if deployment else endpoint)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["model", "messages", "input", "max_tokens", "stop", "temperature", "stream", "encoding_format", "x"]
    ),
    JSON | st.just([{"role": "user", "content": "hi"}]),
)


@given(st.binary(max_size=64) | FIELDS.map(msgspec.json.encode))
def test_a_body_is_read_or_refused_and_nothing_else_happens(body: bytes) -> None:
    for read in (lambda: messages_of(read_chat(body)), lambda: read_embeddings(body).texts()):
        with contextlib.suppress(RequestInvalid):
            read()


def frame(kind: str, seq: int, tokens: int) -> journal_pb2.JournalFrame:
    if kind == "progress":
        return journal_pb2.JournalFrame(progress=journal_pb2.JournalProgress(journal_seq=seq, output_tokens=tokens))
    return journal_pb2.JournalFrame(**{kind: usage_pb2.UsageRecord(id=str(seq), journal_seq=seq)})


@given(
    st.lists(
        st.builds(frame, st.sampled_from(["opened", "progress", "settled"]), st.integers(1, 9), st.integers(0, 9)),
        min_size=1,
    ),
    st.data(),
)
def test_a_journal_cut_anywhere_holds_the_frames_before_the_cut(
    frames: list[journal_pb2.JournalFrame], data: st.DataObject
) -> None:
    """And every call that it knows as opened is settled, or will be."""
    encoded = [encode_frame(one) for one in frames]
    cut = data.draw(st.integers(0, sum(map(len, encoded))))
    whole = 0
    while whole < len(encoded) and sum(map(len, encoded[: whole + 1])) <= cut:
        whole += 1
    with TemporaryDirectory() as name:
        path = Path(name) / "000000000001.journal"
        path.write_bytes(b"".join(encoded)[:cut])
        assert [found for _, found in read_frames(path)] == frames[:whole]
        recovered = recover(Path(name))
        assert [found for _, found in read_frames(path)] == frames[:whole]
    opened = {one.opened.journal_seq for one in frames[:whole] if one.WhichOneof("step") == "opened"}
    ended = set(recovered.settled) | {record.journal_seq for record in recovered.interrupted}
    assert opened <= ended
    assert not set(recovered.settled) & {record.journal_seq for record in recovered.interrupted}

"""A card's samples, called again: which face takes them, and whether the answer is the one that was stated."""

from __future__ import annotations

import json
import math
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import APIConnectionError, APIStatusError, AsyncOpenAI

# What a call has tells where it goes.
_FACES = {
    "messages": "/chat/completions",
    "input": "/embeddings",
    "file": "/audio/transcriptions",
    "image": "/images/classifications",
}
_ENDPOINT = "ENDPOINT"
# Scores differ in their last digits from one processor to another.
_RELATIVE_TOLERANCE = 0.02


class SampleUnusable(Exception):
    """A sample that cannot be called; says why."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One sample and what became of it."""

    title: str
    path: str
    answer: Any
    # What is stated and not so, each with its place; empty when the answer is the one that was stated.
    differences: tuple[str, ...]


async def replay(client: AsyncOpenAI, endpoint: str, title: str, body: str, stated: str, files: Path) -> Replayed:
    """Call one sample on an endpoint.

    Args:
        body: Its JSON; ENDPOINT stands for the endpoint, and `@NAME` for a file.
        stated: JSON of what the answer holds at least; empty where nothing is stated.
        files: Folder of those files.

    Raises:
        SampleUnusable: neither JSON nor a body that any face takes, or a file is not there.
    """
    call = _call(title, body, endpoint)
    path = next((face for key, face in _FACES.items() if key in call), None)
    if path is None:
        raise SampleUnusable(f"sample {title!r} has none of {', '.join(_FACES)}, which tell where it goes")
    try:
        answer = await _post(client, path, call, files)
    except APIStatusError as refused:
        return Replayed(title, path, refused.body, (f"answered {refused.status_code}: {refused.message}",))
    except APIConnectionError as lost:
        return Replayed(title, path, None, (f"no answer: {lost}",))
    return Replayed(title, path, answer, tuple(differences(json.loads(stated), answer)) if stated else ())


def differences(stated: Any, answer: Any, place: str = "answer") -> Iterator[str]:
    """Where an answer does not hold what is stated; keys that are not stated may be anything."""
    if isinstance(stated, Mapping) and isinstance(answer, Mapping):
        for key, value in stated.items():
            if key in answer:
                yield from differences(value, answer[key], f"{place}.{key}")
            else:
                yield f"{place}.{key} is missing"
    elif isinstance(stated, list) and isinstance(answer, list) and len(stated) == len(answer):
        for position, (one, other) in enumerate(zip(stated, answer, strict=True)):
            yield from differences(one, other, f"{place}[{position}]")
    elif isinstance(stated, float) and isinstance(answer, (int, float)):
        if not math.isclose(stated, answer, rel_tol=_RELATIVE_TOLERANCE):
            yield f"{place} is {answer!r}; {stated!r} is stated"
    elif stated != answer:
        yield f"{place} is {_shortened(answer)}; {_shortened(stated)} is stated"


def _call(title: str, body: str, endpoint: str) -> dict[str, Any]:
    try:
        call = json.loads(body)
    except ValueError as malformed:
        raise SampleUnusable(f"sample {title!r} is not JSON: {malformed}") from None
    if not isinstance(call, dict):
        raise SampleUnusable(f"sample {title!r} is no JSON object")
    return {key: endpoint if value == _ENDPOINT else value for key, value in call.items()}


async def _post(client: AsyncOpenAI, path: str, call: dict[str, Any], folder: Path) -> Any:
    named = {key: value[1:] for key, value in call.items() if isinstance(value, str) and value.startswith("@")}
    if not named:
        return await client.post(path, body=call, cast_to=object)
    files = []
    for key, name in named.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise SampleUnusable(f"{file} is not there; name the folder of the samples' files with --files")
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        files.append((key, (name, file.read_bytes(), media_type)))
    return await client.post(
        path,
        body={key: value for key, value in call.items() if key not in named},
        files=files,
        options={"headers": {"Content-Type": "multipart/form-data"}},
        cast_to=object,
    )


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"

"""Call deployed models."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from modelyard.inference.v1 import inference_pb2
from modelyard_client import Modelyard

from cli.output import Json, err, json_document, json_line, out, short_name, table
from cli.session import Key, UsageMistake, collect, needed_key, run


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("callable")(callables)
    app.command("chat")(chat)
    app.command("embed")(embed)
    app.command("transcribe")(transcribe)
    app.command("classify")(classify)


def callables(key: Key = "", as_json: Json = False) -> None:
    """List exactly what a key may call."""

    async def work(modelyard: Modelyard) -> None:
        found = await collect(modelyard.inference.ListCallable, inference_pb2.ListCallableRequest(), "callables")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("model", "model version", "billed"),
            (
                (
                    one.model,
                    short_name(one.model_version),
                    "by use" if one.serverless else "core-hours",
                )
                for one in found
            ),
        )

    run(work, key=needed_key(key))


def chat(
    model: Annotated[str, typer.Argument(metavar="ENDPOINT[/DEPLOYMENT]")],
    text: Annotated[str, typer.Argument(help="What to say; standard input where it is -.")],
    key: Key = "",
    system: Annotated[str, typer.Option(help="System message.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens to produce; 0 for up to the context's end.")] = 256,
    temperature: Annotated[float | None, typer.Option(help="0 to 2.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the answer repeatable where the engine can.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a chat model; the answer streams, then what it cost in tokens."""
    said = sys.stdin.read() if text == "-" else text
    messages = [inference_pb2.ChatMessage(role="user", content=said)]
    if system:
        messages.insert(0, inference_pb2.ChatMessage(role="system", content=system))
    request = inference_pb2.ChatCompletionRequest(
        model=model, messages=messages, max_tokens=max_tokens, temperature=temperature, seed=seed
    )

    async def work(modelyard: Modelyard) -> None:
        began, first_s = time.monotonic(), 0.0
        async for piece in modelyard.inference.ChatCompletion(request):
            first_s = first_s or time.monotonic() - began
            if as_json:
                json_line(piece)
                continue
            print(piece.text, end="", flush=True)
            if piece.HasField("usage"):
                print()
                err.print(
                    f"[dim]{piece.usage.input_tokens} tokens in, {piece.usage.output_tokens} out, first after "
                    f"{first_s:.2f} s, {time.monotonic() - began:.2f} s in all; record {piece.id}[/]"
                )

    run(work, key=needed_key(key))


def embed(
    model: Annotated[str, typer.Argument(metavar="ENDPOINT[/DEPLOYMENT]")],
    texts: Annotated[list[str], typer.Argument(help="Texts to embed.")],
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Turn texts into vectors."""
    if not texts:
        raise UsageMistake("name at least one text")

    async def work(modelyard: Modelyard) -> None:
        answer = await modelyard.inference.Embed(inference_pb2.EmbedRequest(model=model, inputs=texts))
        if as_json:
            json_document(answer)
            return
        for text, embedding in zip(texts, answer.embeddings, strict=True):
            shown = ", ".join(f"{value:+.4f}" for value in embedding.values[:4])
            out.print(f"[{shown}, … {len(embedding.values)} values]  {text}", markup=False)
        err.print(f"[dim]{answer.usage.input_tokens} tokens; record {answer.id}[/]")

    run(work, key=needed_key(key))


# A request is one message, and the platform takes none above 8 MiB.
FILE_BYTES_MAX = 8_000_000


def transcribe(
    model: Annotated[str, typer.Argument(metavar="ENDPOINT[/DEPLOYMENT]")],
    file: Annotated[Path, typer.Argument(help="A WAV, FLAC, MP3 or Ogg Vorbis file.")],
    key: Key = "",
    language: Annotated[
        str, typer.Option(help="What is spoken, such as en; the model decides where it is not set.")
    ] = "",
    prompt: Annotated[str, typer.Option(help="Text that was said before, for spelling and style.")] = "",
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Print each piece with its time.")] = False,
    as_json: Json = False,
) -> None:
    """Write down what is said in an audio file."""
    request = inference_pb2.TranscribeRequest(
        model=model, audio=read_files([file])[0], language=language, prompt=prompt
    )

    async def work(modelyard: Modelyard) -> None:
        answer = await modelyard.inference.Transcribe(request)
        if as_json:
            json_document(answer)
            return
        if timestamps:
            for segment in answer.segments:
                print(f"{segment.start_s:8.2f} {segment.end_s:8.2f}  {segment.text.strip()}")
        else:
            print(answer.text)
        err.print(f"[dim]{answer.usage.audio_milliseconds / 1000:,.3f} s of audio; record {answer.id}[/]")

    run(work, key=needed_key(key))


def classify(
    model: Annotated[str, typer.Argument(metavar="ENDPOINT[/DEPLOYMENT]")],
    files: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files, up to 16.")],
    key: Key = "",
    top_k: Annotated[int, typer.Option(help="Most labels of one image.")] = 5,
    as_json: Json = False,
) -> None:
    """Say what images show, by labels."""
    request = inference_pb2.ClassifyImagesRequest(model=model, images=read_files(files), top_k=top_k)

    async def work(modelyard: Modelyard) -> None:
        answer = await modelyard.inference.ClassifyImages(request)
        if as_json:
            json_document(answer)
            return
        table(
            "",
            ("image", "label", "probability"),
            (
                (file if place == 0 else "", label.label, f"{label.score:.4f}")
                for file, classification in zip(files, answer.classifications, strict=True)
                for place, label in enumerate(classification.labels)
            ),
            right=("probability",),
        )
        err.print(f"[dim]{answer.usage.images} images; record {answer.id}[/]")

    run(work, key=needed_key(key))


def read_files(files: list[Path]) -> list[bytes]:
    """What files hold.

    Raises:
        UsageMistake: one cannot be read, or together they are more than one call takes.
    """
    try:
        contents = [file.read_bytes() for file in files]
    except OSError as missing:
        raise UsageMistake(f"{missing.filename} cannot be read: {missing.strerror}") from None
    size = sum(map(len, contents))
    if size > FILE_BYTES_MAX:
        raise UsageMistake(
            f"{size:,} bytes are more than the {FILE_BYTES_MAX:,} that this command sends; REST takes more: "
            "/v1/audio/transcriptions and /v1/images/classifications"
        )
    return contents

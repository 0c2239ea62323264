"""Download the files of a version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from modelyard.catalog.v1 import artifacts_pb2, catalog_pb2
from modelyard_client import Downloaded, Modelyard, download_artifact
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.commands.discover import find_version, models
from cli.output import Json, err, json_document, moment, short_name, table
from cli.session import UsageMistake, run


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    models.command("download")(download)
    models.command("url")(url)


def download(
    name: Annotated[
        str, typer.Argument(help="Name, PUBLISHER/NAME, or the whole resource name of a model or version.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder; one named after the version where it is not set.")
    ] = None,
    files: Annotated[list[str] | None, typer.Option("--file", help="Only this file; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Download a version's files, checked by digest; run it again to go on after an interruption."""

    async def work(modelyard: Modelyard) -> None:
        version = await modelyard.catalog.GetModelVersion(
            catalog_pb2.GetModelVersionRequest(name=await find_version(modelyard, name))
        )
        if not version.artifacts:
            # It says why it gives none out.
            await modelyard.artifacts.SignDownloadUrl(artifacts_pb2.SignDownloadUrlRequest(name=version.name))
        chosen = _chosen(version, files or [])
        folder = to if to is not None else Path(short_name(version.name).replace("/", "-").replace(" ", "-"))
        with transfer_progress(hidden=as_json) as shown:
            done = [await _one(modelyard, version.name, artifact, folder, shown) for artifact in chosen]
        if as_json:
            json_document({"model_version": version.name, "files": [_as_json(one) for one in done]})
            return
        table(
            "",
            ("file", "bytes", "came now", "sha256"),
            ((one.path, f"{one.size_bytes:,}", f"{one.received_bytes:,}", one.sha256) for one in done),
            right=("bytes", "came now"),
            whole=("sha256",),
        )

    run(work)


def url(
    name: Annotated[
        str, typer.Argument(help="Name, PUBLISHER/NAME, or the whole resource name of a model or version.")
    ],
    file: Annotated[str, typer.Argument(help="Name of the file; `models show` lists them.")],
    lifetime_s: Annotated[int, typer.Option("--lifetime-s", help="How long it works, seconds; 7 days at most.")] = 3600,
    as_json: Json = False,
) -> None:
    """Sign an address that anyone who has it can download one file from, for a while."""

    async def work(modelyard: Modelyard) -> None:
        request = artifacts_pb2.SignDownloadUrlRequest(
            name=await find_version(modelyard, name), artifact=file, lifetime_s=lifetime_s
        )
        signed = await modelyard.artifacts.SignDownloadUrl(request)
        if as_json:
            json_document(signed)
            return
        print(signed.url)
        err.print(f"[dim]works until {moment(signed.expire_time)} UTC; sha256 {signed.sha256}[/]")

    run(work)


def _chosen(version: catalog_pb2.ModelVersion, wanted: list[str]) -> list[catalog_pb2.Artifact]:
    """The files that were named, or all."""
    by_name = {artifact.name: artifact for artifact in version.artifacts}
    if missing := [name for name in wanted if name not in by_name]:
        there = ", ".join(by_name) or "none"
        raise UsageMistake(f"{version.name} has no file {missing[0]!r}; it has {there}")
    return [by_name[name] for name in wanted] or list(version.artifacts)


async def _one(
    modelyard: Modelyard, version: str, artifact: catalog_pb2.Artifact, folder: Path, shown: Progress
) -> Downloaded:
    task: TaskID = shown.add_task(artifact.name, total=artifact.size_bytes)
    return await download_artifact(
        modelyard, version, artifact, folder, progress=lambda received: shown.update(task, completed=received)
    )


def transfer_progress(*, hidden: bool) -> Progress:
    """Bars of files on their way, on standard error where a person looks at it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, disable=hidden or not sys.stderr.isatty(), transient=True)


def _as_json(one: Downloaded) -> dict[str, object]:
    return {
        "name": one.name,
        "path": str(one.path),
        "sha256": one.sha256,
        "size_bytes": one.size_bytes,
        "received_bytes": one.received_bytes,
    }

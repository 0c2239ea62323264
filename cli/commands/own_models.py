"""A project's own models: register files, label versions, archive and restore."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from modelyard.catalog.v1 import catalog_pb2, registry_pb2
from modelyard_client import Modelyard, upload_file

from cli.commands.discover import models
from cli.commands.downloads import transfer_progress
from cli.output import Json, enum_word, err, facts, json_document, moment, out, short_name, table
from cli.session import Project, UsageMistake, collect, project_name, run

Name = Annotated[str, typer.Argument(help="Id of the project's model, or its whole resource name.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    models.command("register")(register)
    models.command("own")(own)
    models.command("label")(label)
    models.command("archive")(archive)
    models.command("restore")(restore)
    models.command("uploads")(uploads)


def register(
    path: Annotated[
        Path, typer.Argument(help="A GGUF file, a folder with an ONNX encoder, or a Triton model repository.")
    ],
    project: Project = "",
    name: Annotated[str, typer.Option("--name", help="Id of the model; made of the path's name where not set.")] = "",
    version: Annotated[str, typer.Option("--version", help="Id of the version; the next number where not set.")] = "",
    display_name: Annotated[str, typer.Option(help="What people call it.")] = "",
    summary: Annotated[str, typer.Option(help="One sentence.")] = "",
    license_id: Annotated[str, typer.Option("--license", help="Id of its licence, such as Apache-2.0.")] = "",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            help="NAME=VALUE: context_tokens or slots of a text model, task=embeddings of a Triton repository with an "
            "encoder; may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a version of a model of your own; run it again to go on after an interruption."""
    parent = project_name(project)
    files = dict(model_files(path))
    request = registry_pb2.RegisterModelVersionRequest(
        parent=parent,
        model_id=name or model_id_of(path),
        version_id=version,
        display_name=display_name,
        summary=summary,
        license_id=license_id,
        parameters=pairs(parameters or [], "such as slots=4"),
    )

    async def work(modelyard: Modelyard) -> None:
        with transfer_progress(hidden=as_json) as shown:
            for file, at in files.items():
                task = shown.add_task(file, total=at.stat().st_size)

                def progress(sent_bytes: int, task: Any = task) -> None:
                    shown.update(task, completed=sent_bytes)

                upload = await upload_file(modelyard, parent, at, progress=progress)
                request.files.add(name=file, sha256=upload.sha256)
        # The same files under the same words are one registration, however often they are sent.
        if version:
            request.request_id = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        registered = await modelyard.registry.RegisterModelVersion(request)
        if as_json:
            json_document(registered)
        else:
            _print_registered(registered)

    run(work)


def own(
    project: Project = "",
    archived: Annotated[bool, typer.Option("--archived", help="Archived models too.")] = False,
    as_json: Json = False,
) -> None:
    """List a project's own models."""

    async def work(modelyard: Modelyard) -> None:
        request = registry_pb2.ListProjectModelsRequest(parent=project_name(project), show_archived=archived)
        found = await collect(modelyard.registry.ListProjectModels, request, "models")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("model", "does", "deploy as", "latest", "labels", "archived"),
            (
                (
                    one.name.rpartition("/")[2],
                    _tasks(one),
                    _options(one),
                    one.latest_version.rpartition("/")[2],
                    _labels(one),
                    moment(one.archive_time),
                )
                for one in found
            ),
            whole=("model",),
        )

    run(work)


def label(
    name: Name,
    labels: Annotated[list[str], typer.Argument(help="LABEL=VERSION …; LABEL= takes the label away.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Let labels name versions: `versions/LABEL` is then that version, as `versions/latest` is the newest one."""
    request = registry_pb2.UpdateModelLabelsRequest(
        name=own_name(name, project), labels=pairs(labels, "such as stable=2")
    )

    async def work(modelyard: Modelyard) -> None:
        changed = await modelyard.registry.UpdateModelLabels(request)
        if as_json:
            json_document(changed)
        else:
            out.print(_labels(changed) or "no labels", markup=False)

    run(work)


def archive(
    name: Annotated[str, typer.Argument(help="Id of the model, or ID/versions/VERSION for one of its versions.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Close a model or one version to new deployments; those that are there go on."""
    request = registry_pb2.ArchiveProjectModelRequest(name=own_name(name, project))

    async def work(modelyard: Modelyard) -> None:
        _print_changed(await modelyard.registry.ArchiveProjectModel(request), as_json=as_json)

    run(work)


def restore(
    name: Annotated[str, typer.Argument(help="Id of the model, or ID/versions/VERSION for one of its versions.")],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Open what was archived to new deployments again."""
    request = registry_pb2.RestoreProjectModelRequest(name=own_name(name, project))

    async def work(modelyard: Modelyard) -> None:
        _print_changed(await modelyard.registry.RestoreProjectModel(request), as_json=as_json)

    run(work)


def uploads(
    project: Project = "",
    drop: Annotated[list[str] | None, typer.Option("--drop", help="Give this upload up; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """List a project's uploads, or give some up; `models register` goes on with those that were interrupted."""
    parent = project_name(project)

    async def work(modelyard: Modelyard) -> None:
        for one in drop or []:
            request = registry_pb2.DeleteUploadRequest(name=f"{parent}/uploads/{one.rpartition('/')[2]}")
            await modelyard.registry.DeleteUpload(request)
        found = await collect(modelyard.registry.ListUploads, registry_pb2.ListUploadsRequest(parent=parent), "uploads")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("upload", "state", "bytes here", "of", "given up at", "sha256", "why"),
            (
                (
                    one.name.rpartition("/")[2],
                    enum_word(registry_pb2.UploadState, one.state, "UPLOAD_STATE_"),
                    f"{one.received_bytes:,}",
                    f"{one.size_bytes:,}",
                    moment(one.expire_time),
                    f"{one.sha256[:12]}…",
                    one.detail,
                )
                for one in found
            ),
            right=("bytes here", "of"),
            whole=("upload",),
        )

    run(work)


def model_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Names in the version, and where the files lie: a file by itself, or all below a folder but hidden ones.

    Raises:
        UsageMistake: nothing is there, or a link leads out of the folder.
    """
    if path.is_file():
        yield path.name, path
        return
    if not path.is_dir():
        raise UsageMistake(f"{path} is not there; name a file or a folder")
    root, count, hidden = path.resolve(), 0, 0
    for at, folders, names in os.walk(root):
        hidden += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted((*folders, *names)):
            file = Path(at) / name
            if name.startswith("."):
                continue
            if not file.resolve().is_relative_to(root) or (file.is_symlink() and file.is_dir()):
                raise UsageMistake(
                    f"{file} is a link that leads elsewhere; copy the folder with `cp -rL` and register the copy"
                )
            if file.is_file():
                count += 1
                yield file.relative_to(root).as_posix(), file
    if hidden:
        err.print(f"[dim]{hidden} hidden files and folders are left out[/]")
    if not count:
        raise UsageMistake(f"{path} has no files")


def model_id_of(path: Path) -> str:
    """An id made of a file's or folder's name: lower-case letters, digits and single dashes."""
    stem = path.resolve().name
    stem = stem.removesuffix(".gguf") if path.is_file() else stem
    found = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64].rstrip("-")
    if not re.match(r"[a-z].{2}", found):
        raise UsageMistake(f"{stem!r} makes no id of a model; name it with --name")
    return found


def own_name(name: str, project: str) -> str:
    """The resource name of a project's own model, or of a version of it, by its id or as it is."""
    return name if name.startswith("projects/") else f"{project_name(project)}/models/{name}"


def pairs(given: list[str], example: str) -> dict[str, str]:
    """NAME=VALUE …

    Raises:
        UsageMistake: one is of another form.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise UsageMistake(f"{one!r} is not of the form NAME=VALUE, {example}")
        found[name] = value
    return found


def _print_registered(version: catalog_pb2.ModelVersion) -> None:
    size_bytes = sum(artifact.size_bytes for artifact in version.artifacts)
    priced = version.price_resource.removeprefix("ownModels/")
    facts(
        [
            ("version", version.name),
            ("files", f"{len(version.artifacts)}, {size_bytes:,} bytes"),
            ("engine", version.serving.engine),
            ("does", _tasks(version) or "raw tensors, called by the Open Inference Protocol"),
            ("deploy as", _options(version)),
            ("tokens priced as", priced or "serverless is not offered"),
        ]
    )
    short = short_name(version.name.partition("/versions/")[0])
    out.print(f"`modelyard deploy {short} --endpoint NAME --instance-type TYPE` deploys it.", markup=False)


def _print_changed(model: catalog_pb2.Model, *, as_json: bool) -> None:
    if as_json:
        json_document(model)
        return
    latest = model.latest_version.rpartition("/")[2]
    state = f"archived since {moment(model.archive_time)} UTC" if model.HasField("archive_time") else "open"
    out.print(f"{short_name(model.name)} is {state}; its latest version is {latest}", markup=False)


def _tasks(one: catalog_pb2.Model | catalog_pb2.ModelVersion) -> str:
    return ", ".join(enum_word(catalog_pb2.Task, task, "TASK_") for task in one.tasks)


def _options(one: catalog_pb2.Model | catalog_pb2.ModelVersion) -> str:
    options = one.deployment_options
    return ", ".join(enum_word(catalog_pb2.DeploymentOption, option, "DEPLOYMENT_OPTION_") for option in options)


def _labels(model: catalog_pb2.Model) -> str:
    return ", ".join(f"{label}={version}" for label, version in sorted(model.labels.items()))

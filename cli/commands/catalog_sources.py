"""Sources of models: configure, preview and sync them."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from google.protobuf.json_format import ParseDict, ParseError
from modelyard.catalog.v1 import sources_pb2
from modelyard_client import Modelyard, ModelyardError

from cli.commands.catalog import catalog
from cli.output import Json, enum_word, facts, json_document, moment, out, short_name, table
from cli.session import UsageMistake, collect, run

sources = typer.Typer(help="Where models come from besides the shipped content.")
Name = Annotated[str, typer.Argument(help="Name of the source.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the sync has ended.")]
_LOOK_S = 0.5
_ENDED = (
    sources_pb2.SYNC_STATE_SUCCEEDED,
    sources_pb2.SYNC_STATE_FAILED,
    sources_pb2.SYNC_STATE_INTERRUPTED,
)


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    catalog.add_typer(sources, name="sources")


@sources.callback(invoke_without_command=True)
def list_sources(context: typer.Context, as_json: Json = False) -> None:
    """List sources with their last sync."""
    if context.invoked_subcommand is not None:
        return

    async def work(modelyard: Modelyard) -> None:
        found = await collect(modelyard.sources.ListModelSources, sources_pb2.ListModelSourcesRequest(), "sources")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("source", "kind", "collection", "models", "last sync", "ended (UTC)", "next (UTC)"),
            (
                (
                    short_name(one.name),
                    one.WhichOneof("kind"),
                    short_name(one.collection),
                    one.model_count,
                    _state(one.last_run) if one.HasField("last_run") else "",
                    moment(one.last_run.end_time),
                    "paused" if one.paused else moment(one.next_sync_time),
                )
                for one in found
            ),
            right=("models",),
        )

    run(work)


@sources.command("show")
def show_source(name: Name, as_json: Json = False) -> None:
    """Show a source, its last sync, and the models that failed in it."""

    async def work(modelyard: Modelyard) -> None:
        source = await modelyard.sources.GetModelSource(sources_pb2.GetModelSourceRequest(name=_whole(name)))
        last = await _run_named(modelyard, source.last_run.name) if source.HasField("last_run") else None
        if as_json:
            json_document({"source": source, "last_run": last})
            return
        facts(
            [
                ("source", short_name(source.name)),
                ("kind", source.WhichOneof("kind")),
                ("base URL", source.provider.base_url or source.hub.endpoint),
                ("folder", source.curated.folder),
                ("author", source.hub.author),
                ("search", source.hub.search),
                ("task", source.hub.task),
                ("tags", ", ".join(source.hub.tags)),
                ("collection", short_name(source.collection)),
                ("publisher", short_name(source.provider.publisher)),
                ("include", ", ".join(source.include)),
                ("exclude", ", ".join(source.exclude)),
                ("credential", source.key_reference),
                ("terms", source.terms.url or source.terms.id),
                ("supported by", source.support.supported_by),
                ("contact", source.support.contact),
                ("SLA", source.support.sla),
                ("every", f"{source.interval_s} s" if source.interval_s else "only when asked to"),
                ("paused", "yes" if source.paused else ""),
                ("models", source.model_count),
                ("etag", source.etag),
            ]
        )
        if last is not None:
            _print_run(last)

    run(work)


@sources.command("apply")
def apply(
    file: Annotated[Path, typer.Argument(help="YAML of one source; docs/catalog.md shows its fields.")],
    preview_only: Annotated[
        bool, typer.Option("--preview", help="Only say what a sync would change; nothing is stored.")
    ] = False,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Create a source, or replace what is configured of it, and sync it."""
    wanted = read_source(file)

    async def work(modelyard: Modelyard) -> None:
        if preview_only:
            await _preview(modelyard, wanted, as_json=as_json)
            return
        source = await _create_or_update(modelyard, wanted)
        if wait and source.HasField("last_run"):
            source.last_run.CopyFrom(await _ended_run(modelyard, source.last_run.name))
        if as_json:
            json_document(source)
        else:
            out.print(f"{short_name(source.name)} is stored")
            if source.HasField("last_run"):
                _print_run(source.last_run)
        _fail_with(source.last_run)

    run(work)


@sources.command("preview")
def preview(name: Name, as_json: Json = False) -> None:
    """Say what a sync would change, and change nothing."""
    run(lambda modelyard: _preview(modelyard, sources_pb2.ModelSource(name=_whole(name)), as_json=as_json))


@sources.command("sync")
def sync(name: Name, wait: Wait = True, as_json: Json = False) -> None:
    """Sync a source now."""

    async def work(modelyard: Modelyard) -> None:
        asked = await modelyard.sources.SyncModelSource(sources_pb2.SyncModelSourceRequest(name=_whole(name)))
        done = await _ended_run(modelyard, asked.name) if wait else asked
        if as_json:
            json_document(done)
        else:
            _print_run(done)
        _fail_with(done)

    run(work)


@sources.command("runs")
def runs(name: Name, as_json: Json = False) -> None:
    """List the syncs of a source, newest first."""

    async def work(modelyard: Modelyard) -> None:
        found = await collect(
            modelyard.sources.ListSyncRuns, sources_pb2.ListSyncRunsRequest(parent=_whole(name)), "runs"
        )
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("began (UTC)", "state", "by", "seconds", "listed", "added", "changed", "withdrawn", "failed", "why"),
            (
                (
                    moment(one.start_time or one.create_time),
                    _state(one),
                    one.trigger,
                    _seconds(one),
                    one.counts.listed,
                    one.counts.added,
                    one.counts.changed,
                    one.counts.withdrawn,
                    one.counts.failed,
                    one.detail,
                )
                for one in found
            ),
            right=("seconds", "listed", "added", "changed", "withdrawn", "failed"),
        )

    run(work)


@sources.command("delete")
def delete(name: Name, as_json: Json = False) -> None:
    """Delete a source: its models take no new deployments, and those that are there go on."""

    async def work(modelyard: Modelyard) -> None:
        await modelyard.sources.DeleteModelSource(sources_pb2.DeleteModelSourceRequest(name=_whole(name)))
        if as_json:
            json_document({"deleted": _whole(name)})
        else:
            out.print(f"{name} is deleted; its models are withdrawn")

    run(work)


def read_source(file: Path) -> sources_pb2.ModelSource:
    """A source from YAML: fields as the contract names them, with the prefixes of names and kinds left out.

    Raises:
        UsageMistake: naming the file and the field.
    """
    try:
        said = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UsageMistake(f"{file} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageMistake(f"{file} is not YAML: {error}") from None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise UsageMistake(f"{file} is not one source with a name; docs/catalog.md shows its fields")
    _prefix(said, "name", "sources/")
    _prefix(said, "collection", "collections/")
    if isinstance(provider := said.get("provider"), dict):
        _prefix(provider, "publisher", "publishers/")
        _prefix(provider, "kind", "PROVIDER_KIND_")
        if isinstance(version := provider.get("api_version"), date):
            # Without quotes YAML takes it for a day.
            provider["api_version"] = version.isoformat()
    if "hub" in said and said["hub"] is None:
        # A hub without any filter.
        said["hub"] = {}
    try:
        return ParseDict(said, sources_pb2.ModelSource())
    except ParseError as wrong:
        raise UsageMistake(f"{file}: {wrong}") from None


def _prefix(holder: dict[str, Any], field: str, prefix: str) -> None:
    value = holder.get(field)
    if isinstance(value, str) and not value.startswith(prefix):
        holder[field] = prefix + value


async def _create_or_update(modelyard: Modelyard, wanted: sources_pb2.ModelSource) -> sources_pb2.ModelSource:
    try:
        known = await modelyard.sources.GetModelSource(sources_pb2.GetModelSourceRequest(name=wanted.name))
    except ModelyardError as error:
        if error.reason != "SOURCE_NOT_FOUND":
            raise
        request = sources_pb2.CreateModelSourceRequest(source_id=short_name(wanted.name), source=wanted)
        created: sources_pb2.ModelSource = await modelyard.sources.CreateModelSource(request)
        return created
    wanted.etag = known.etag
    updated: sources_pb2.ModelSource = await modelyard.sources.UpdateModelSource(
        sources_pb2.UpdateModelSourceRequest(source=wanted)
    )
    return updated


async def _preview(modelyard: Modelyard, source: sources_pb2.ModelSource, *, as_json: bool) -> None:
    found = await modelyard.sources.PreviewModelSource(sources_pb2.PreviewModelSourceRequest(source=source))
    if as_json:
        json_document(found)
        return
    _print_counts(found.counts)
    table("", ("model", "would be"), ((short_name(one.model), one.change) for one in found.changes))
    _print_failures(found.failures)
    if found.truncated:
        out.print("There are more models than a preview looks at.")


async def _run_named(modelyard: Modelyard, name: str) -> sources_pb2.SyncRun:
    found: sources_pb2.SyncRun = await modelyard.sources.GetSyncRun(sources_pb2.GetSyncRunRequest(name=name))
    return found


async def _ended_run(modelyard: Modelyard, name: str) -> sources_pb2.SyncRun:
    seen = await _run_named(modelyard, name)
    while seen.state not in _ENDED:
        await asyncio.sleep(_LOOK_S)
        seen = await _run_named(modelyard, name)
    return seen


def _fail_with(done: sources_pb2.SyncRun) -> None:
    if done.state in (sources_pb2.SYNC_STATE_FAILED, sources_pb2.SYNC_STATE_INTERRUPTED):
        raise typer.Exit(1)


def _print_run(one: sources_pb2.SyncRun) -> None:
    out.print(f"sync {_state(one)}" + (f" in {_seconds(one)} s" if one.HasField("end_time") else "") + _why(one))
    _print_counts(one.counts)
    _print_failures(one.failures)


def _why(one: sources_pb2.SyncRun) -> str:
    return f": {one.detail}" if one.detail else ""


def _print_counts(counts: sources_pb2.SyncCounts) -> None:
    words = [f"{value} {field.name}" for field, value in counts.ListFields()]
    out.print(", ".join(words) or "no models")


def _print_failures(failures: Any) -> None:
    if failures:
        table("Not taken", ("model", "field", "why"), ((one.model, one.field, one.reason) for one in failures))


def _state(one: sources_pb2.SyncRun) -> str:
    return enum_word(sources_pb2.SyncState, one.state, "SYNC_STATE_")


def _seconds(one: sources_pb2.SyncRun) -> str:
    if not one.HasField("end_time") or not one.HasField("start_time"):
        return ""
    return f"{(one.end_time.ToMilliseconds() - one.start_time.ToMilliseconds()) / 1000:.1f}"


def _whole(name: str) -> str:
    return name if name.startswith("sources/") else f"sources/{name}"

"""Import models from elsewhere, and export them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from modelyard.catalog.v1 import imports_pb2
from modelyard_client import Modelyard

from cli.assets import FoundAsset, UnreadableAsset, find_assets
from cli.commands.catalog import catalog
from cli.commands.discover import find_model
from cli.output import Json, err, json_document, out, table
from cli.session import run

# One call is one transaction, and stays well below the largest message.
_BATCH_ASSETS, _BATCH_BYTES = 1000, 4 * 1024 * 1024

imports = typer.Typer(help="Take models over from elsewhere.", no_args_is_help=True)
catalog.add_typer(imports, name="import")


@imports.command("azureml-assets")
def import_azureml_assets(
    path: Annotated[Path, typer.Argument(help="Folder of */spec.yaml with their description.md, or JSON lines.")],
    as_json: Json = False,
) -> None:
    """Import published assets; the same again changes nothing, so an import that broke off is begun anew."""
    found = find_assets(path)
    total = imports_pb2.ImportAssetsResponse()

    async def work(modelyard: Modelyard) -> None:
        with err.status("importing") as shown:
            for batch in _batches(found, total):
                answer = await modelyard.imports.ImportAssets(imports_pb2.ImportAssetsRequest(assets=batch))
                total.imported += answer.imported
                total.unchanged += answer.unchanged
                total.failed.extend(answer.failed)
                shown.update(f"{total.imported:,} imported, {total.unchanged:,} unchanged, {len(total.failed)} failed")

    run(work)
    if as_json:
        json_document(total)
    else:
        if total.failed:
            table("", ("failed", "field", "reason"), ((one.path, one.field, one.reason) for one in total.failed))
        out.print(f"{total.imported:,} imported, {total.unchanged:,} unchanged, {len(total.failed):,} failed")
    if total.failed:
        raise typer.Exit(1)


def _batches(
    found: Iterable[FoundAsset | UnreadableAsset], total: imports_pb2.ImportAssetsResponse
) -> Iterator[list[imports_pb2.Asset]]:
    """Assets in parts that one call takes; what cannot be sent is noted as failed."""
    batch: list[imports_pb2.Asset] = []
    size = 0
    for one in found:
        if isinstance(one, UnreadableAsset):
            total.failed.append(imports_pb2.ImportFailure(path=one.path, field=one.field, reason=one.reason))
            continue
        if batch and (len(batch) == _BATCH_ASSETS or size + len(one.document) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(imports_pb2.Asset(path=one.path, document=one.document))
        size += len(one.document)
    if batch:
        yield batch


@catalog.command("export")
def export_assets(
    model: Annotated[str, typer.Option(help="Only this model: its name, PUBLISHER/NAME, or resource name.")] = "",
    as_json: Json = False,
) -> None:
    """Print what was imported, one asset a line, as it came: JSON with `--json` and without."""

    async def work(modelyard: Modelyard) -> None:
        name = (await find_model(modelyard, model)).name if model else ""
        async for part in modelyard.imports.ExportAssets(imports_pb2.ExportAssetsRequest(model=name)):
            for asset in part.assets:
                sys.stdout.buffer.write(asset.document + b"\n")
        sys.stdout.buffer.flush()

    run(work)

"""Curate the catalog: check content before it is loaded."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel

from cli.output import Json, err, json_document, out

if TYPE_CHECKING:
    from services.catalog.sources.content_files import Finding

catalog = typer.Typer(help="Check, import and export what the catalog holds.", no_args_is_help=True)


class ContentFile(StrEnum):
    """Kinds of content files."""

    MODELS = "models"
    COLLECTIONS = "collections"
    INSTANCE_TYPES = "instance-types"
    PUBLISHERS = "publishers"


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(catalog, name="catalog", rich_help_panel="Discover")


def shipped_content() -> Path:
    """The content folder that comes with the platform."""
    from services.catalog.sources.content_files import SHIPPED

    return SHIPPED


@catalog.command()
def lint(
    folder: Annotated[
        Path | None, typer.Argument(help="Content folder; the one that comes with the platform where it is not named.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a content folder, or a folder of models alone as sources of kind curated read it, without a running platform:
    every mistake with file, line, field and reason."""
    folder = folder or shipped_content()
    counts, findings = _looked_at(folder)
    if as_json:
        json_document({"folder": str(folder), "findings": [asdict(finding) for finding in findings], **counts})
    elif not findings:
        out.print(f"{folder}: {counts['models']} models of {counts['publishers']} publishers, nothing to mend")
    else:
        for finding in findings:
            out.print(str(finding), markup=False, soft_wrap=True)
        err.print(f"{len(findings)} to mend; docs/catalog.md lists every field")
    if findings:
        raise typer.Exit(1)


def _looked_at(folder: Path) -> tuple[dict[str, int], list[Finding]]:
    """How many models and publishers a folder has (nothing where that cannot be said), and what is wrong with it."""
    from services.catalog.sources.content_files import check_content, check_models

    if not (folder / "collections.yaml").exists() and not (folder / "instance_types.yaml").exists():
        read = check_models(folder)
        publishers = {model.publisher for model in read.models.values()}
        findings = [*read.findings, *(finding for _, finding in read.wrong)]
        return {"models": len(read.models), "publishers": len(publishers)}, findings
    content, findings = check_content(folder)
    counts = {} if content is None else {"models": len(content.models), "publishers": len(content.publishers)}
    return counts, findings


@catalog.command()
def schema(
    file: Annotated[ContentFile, typer.Argument(help="Which kind of content file.")] = ContentFile.MODELS,
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of a kind of content file, for editors that check while one types; JSON in any case."""
    from services.catalog.sources.content import Collections, InstanceTypes, Models, Publishers

    forms: dict[ContentFile, type[BaseModel]] = {
        ContentFile.MODELS: Models,
        ContentFile.COLLECTIONS: Collections,
        ContentFile.INSTANCE_TYPES: InstanceTypes,
        ContentFile.PUBLISHERS: Publishers,
    }
    json_document(forms[file].model_json_schema())

"""Take models of a hub into the catalog, one by one."""

from __future__ import annotations

from typing import Annotated

import typer
from modelyard.catalog.v1 import catalog_pb2, hub_pb2
from modelyard_client import Modelyard

from cli.commands.imports import imports
from cli.output import Json, enum_word, facts, json_document, out, short_name
from cli.session import run

# A hub may ask to wait, and the head of a large file may take a while to come.
_DEADLINE_S = 600.0


@imports.command("hub")
def import_hub(
    hub_id: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The model's name at the hub.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit; the newest commit where it is not named.")] = "",
    file: Annotated[str, typer.Option(help="Which GGUF file, where the model has several.")] = "",
    as_json: Json = False,
) -> None:
    """Take a model of the hub in at one commit; its weights stay there until a deployment pulls them."""
    request = hub_pb2.ImportHubModelRequest(hub_id=hub_id, revision=revision, file=file)

    async def work(modelyard: Modelyard) -> None:
        taken = await modelyard.hub.ImportHubModel(request, timeout=_DEADLINE_S)
        if as_json:
            json_document(taken)
        else:
            _print_taken(taken)

    run(work)


def _print_taken(taken: hub_pb2.ImportHubModelResponse) -> None:
    model = taken.model
    dropped = ", ".join(f"{count} with {reason}" for reason, count in sorted(taken.dropped_scores.items()))
    facts(
        [
            ("model", short_name(model.name)),
            ("version", taken.model_version.rpartition("/")[2]),
            ("commit", taken.revision),
            ("licence", model.license.id),
            ("results", f"{taken.score_count}" + (f"; left out: {dropped}" if dropped else "")),
            ("usable here", enum_word(catalog_pb2.Usability, model.usability, "USABILITY_")),
            ("", model.usability_detail),
        ]
    )
    out.print(enum_word(hub_pb2.HubImportOutcome, taken.outcome, "HUB_IMPORT_OUTCOME_"))
    if model.usability == catalog_pb2.USABILITY_RUNS_HERE:
        out.print(
            f"`modelyard deploy {short_name(model.name)} --endpoint NAME --instance-type TYPE` deploys it.",
            markup=False,
        )

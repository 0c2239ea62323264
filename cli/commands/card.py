"""A model's card: quick facts, price, versions, artifacts, deployments, licence, samples, responsible use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from modelyard.billing.v1 import billing_pb2
from modelyard.catalog.v1 import catalog_pb2
from modelyard.deploy.v1 import deploy_pb2
from modelyard_client import Modelyard
from rich.markdown import Markdown
from rich.syntax import Syntax

from cli.commands.discover import find_model, models
from cli.output import GIB, Json, enum_word, facts, json_document, moment, out, rate_words, table
from cli.session import Project, collect, run


@dataclass(frozen=True)
class Card:
    """All that the card shows."""

    model: catalog_pb2.Model
    versions: Sequence[catalog_pb2.ModelVersion]
    prices: Sequence[billing_pb2.Price]
    # Of the asking project; empty where none was named.
    deployments: Sequence[deploy_pb2.Deployment]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    models.command("show")(show_model)


def show_model(
    name: Annotated[str, typer.Argument(help="Name, PUBLISHER/NAME, or the whole resource name.")],
    project: Project = "",
    license_text: Annotated[bool, typer.Option("--license-text", help="Print the licence's text too.")] = False,
    as_json: Json = False,
) -> None:
    """Show a model's card, versions, prices, licence and your deployments of it."""

    async def work(modelyard: Modelyard) -> None:
        model = await find_model(modelyard, name, catalog_pb2.TEXT_FORMAT_TERMINAL)
        card = await read_card(modelyard, model, project)
        if as_json:
            json_document(
                {
                    "model": card.model,
                    "versions": card.versions,
                    "prices": card.prices,
                    "deployments": card.deployments,
                }
            )
            return
        print_card(card)
        if license_text:
            out.print()
            out.print(
                model.license.text or "The licence's text is not shipped; see the publisher's page.", markup=False
            )

    run(work)


async def read_card(modelyard: Modelyard, model: catalog_pb2.Model, project: str = "") -> Card:
    """What the services know of a model."""
    versions = await collect(
        modelyard.catalog.ListModelVersions, catalog_pb2.ListModelVersionsRequest(parent=model.name), "model_versions"
    )
    # Own models are priced by their class, others by their name.
    priced = next((version.price_resource for version in versions if version.price_resource), model.name)
    prices = await collect(
        modelyard.billing.ListPrices, billing_pb2.ListPricesRequest(resource=priced, current_only=True), "prices"
    )
    deployments = await deployments_of(modelyard, project, model) if project else []
    return Card(model, versions, prices, deployments)


async def deployments_of(modelyard: Modelyard, project: str, model: catalog_pb2.Model) -> list[deploy_pb2.Deployment]:
    """A project's deployments of any version of a model."""
    parent = f"projects/{project.removeprefix('projects/')}/endpoints/-"
    request = deploy_pb2.ListDeploymentsRequest(parent=parent)
    found = await collect(modelyard.deploy.ListDeployments, request, "deployments")
    return [one for one in found if one.model_version.startswith(f"{model.name}/versions/")]


def print_card(card: Card) -> None:
    """The whole card."""
    model = card.model
    out.print(f"[bold]{model.display_name}[/]  {model.summary}")
    facts(_quick_facts(card))
    table(
        "Serverless price",
        ("rate", "price version", "source"),
        ((rate_words(rate), price.price_version, price.source) for price in card.prices for rate in price.rates),
    )
    _print_versions(card.versions)
    if card.deployments:
        table(
            "Your deployments",
            ("deployment", "version", "state", "instances"),
            (
                (
                    one.name.partition("/endpoints/")[2].replace("/deployments/", "/"),
                    one.model_version.rpartition("/")[2],
                    enum_word(deploy_pb2.DeploymentState, one.state, "DEPLOYMENT_STATE_"),
                    one.ready_instance_count,
                )
                for one in card.deployments
            ),
            right=("instances",),
        )
    for text in (model.card, model.evaluation):
        if text:
            # Links are shown as text: a card of any origin leads nobody anywhere.
            out.print(Markdown(text, hyperlinks=False))
    if model.notes:
        out.print("[bold]Responsible use[/]")
        out.print(Markdown(model.notes, hyperlinks=False))
    for sample in model.samples:
        out.print(f"[bold]{sample.title}[/]", markup=True)
        for body in filter(None, (sample.input, sample.output)):
            out.print(Syntax(body, "json", background_color="default", word_wrap=True))
    out.print(f"[dim]Code for it: `modelyard models samples {model.name.split('/')[1]}/{model.name.split('/')[3]}`[/]")


def _quick_facts(card: Card) -> list[tuple[str, object]]:
    model = card.model
    serving = next((version.serving for version in card.versions if version.HasField("serving")), None)
    licence = model.license.id + (" (text: --license-text)" if model.license.text else "")
    if model.license.acceptance_required:
        licence += "; a project accepts it before it quotes or deploys"
    return [
        ("name", model.name),
        ("collection", model.collection.removeprefix("collections/")),
        ("stage", enum_word(catalog_pb2.LifecycleStage, model.stage, "LIFECYCLE_STAGE_")),
        ("archived since", moment(model.archive_time)),
        ("labels", ", ".join(f"{label}={version}" for label, version in sorted(model.labels.items()))),
        ("licence", licence),
        ("does", ", ".join(model.inference_tasks)),
        ("fine-tuning", ", ".join(model.fine_tune_tasks)),
        ("takes", ", ".join(model.input_modalities)),
        ("gives", ", ".join(model.output_modalities)),
        ("capabilities", ", ".join(model.capabilities)),
        ("industries", ", ".join(model.industries)),
        (
            "deploy as",
            ", ".join(
                enum_word(catalog_pb2.DeploymentOption, option, "DEPLOYMENT_OPTION_")
                for option in model.deployment_options
            ),
        ),
        ("usable here", enum_word(catalog_pb2.Usability, model.usability, "USABILITY_")),
        ("why not", model.usability_detail),
        ("languages", ", ".join(model.languages)),
        ("parameters", f"{model.parameter_count:,}" if model.parameter_count else ""),
        ("size", f"{model.size_bytes / GIB:.2f} GiB" if model.size_bytes else ""),
        ("context", f"{model.context_tokens:,} tokens" if model.context_tokens else ""),
        ("longest output", f"{model.output_tokens_max:,} tokens" if model.output_tokens_max else ""),
        ("training data to", model.training_data_date),
        ("published", model.release_date),
        ("served here with", _engine(serving) if serving else ""),
        ("needs", f"{serving.min_vcpus} core, {serving.min_memory_bytes / GIB:g} GiB memory" if serving else ""),
        ("supported by", model.support.supported_by),
        ("contact", model.support.contact),
        ("availability", model.support.sla),
        ("tags", ", ".join(model.tags)),
        ("sources", "\n".join(f"{source.location} ({source.date})" for source in model.sources)),
    ]


def _engine(serving: catalog_pb2.Serving) -> str:
    return serving.engine + (f", context {serving.context_tokens:,} tokens" if serving.context_tokens else "")


def _print_versions(versions: Sequence[catalog_pb2.ModelVersion]) -> None:
    table(
        "Versions, newest first",
        ("version", "stage", "retires", "artifact", "bytes", "sha256"),
        (
            (
                version.name.rpartition("/")[2],
                enum_word(catalog_pb2.LifecycleStage, version.stage, "LIFECYCLE_STAGE_"),
                moment(version.retire_time)[:10],
                artifact.name,
                f"{artifact.size_bytes:,}" if artifact.size_bytes else "",
                artifact.sha256,
            )
            for version in versions
            for artifact in version.artifacts or [catalog_pb2.Artifact(name="none here")]
        ),
        right=("bytes",),
    )
    own = [version for version in versions if version.registered_by]
    if own:
        table(
            "Where they come from",
            ("version", "registered by", "at", "made by job", "archived"),
            (
                (
                    version.name.rpartition("/")[2],
                    version.registered_by,
                    moment(version.create_time),
                    version.created_by_job or "– (uploaded)",
                    moment(version.archive_time),
                )
                for version in own
            ),
        )
    table(
        "Verified to run",
        ("version", "engine", "instance type", "date"),
        (
            (version.name.rpartition("/")[2], one.engine, one.instance_type, one.date)
            for version in versions
            for one in version.verified
        ),
    )

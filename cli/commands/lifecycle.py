"""What is ahead of versions, for whom it matters, and who let one end early."""

from __future__ import annotations

from typing import Annotated

import typer
from modelyard.catalog.v1 import lifecycle_pb2
from modelyard.deploy.v1 import notices_pb2
from modelyard_client import Modelyard

from cli.commands.discover import find_version
from cli.output import Json, enum_word, json_document, moment, out, short_name, table
from cli.session import Project, UsageMistake, collect, project_name, run

lifecycle = typer.Typer(help="Days on which versions change.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(lifecycle, name="lifecycle")
    app.command("notices")(notices)


@lifecycle.command("upcoming")
def upcoming(
    days: Annotated[int, typer.Option(help="How far ahead.")] = 90,
    as_json: Json = False,
) -> None:
    """List what is ahead of versions: legacy, deprecation and retirement, of inference and of fine-tuning."""

    async def work(modelyard: Modelyard) -> None:
        request = lifecycle_pb2.ListUpcomingChangesRequest(days=days)
        found = await collect(modelyard.lifecycle.ListUpcomingChanges, request, "upcoming_changes")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("day (UTC)", "in days", "model version", "change", "move to"),
            (
                (
                    moment(one.change_time)[:10],
                    one.days_left,
                    short_name(one.model_version),
                    _change_word(one.change),
                    short_name(one.replacement) if one.replacement else "",
                )
                for one in found
            ),
            right=("in days",),
        )

    run(work)


@lifecycle.command("override")
def override(
    version: Annotated[str, typer.Argument(metavar="MODEL[/versions/V]", help="Which version.")],
    reason: Annotated[str, typer.Option(help="Why; it stays on record.")],
    legacy: Annotated[str, typer.Option(help="Day it becomes legacy, YYYY-MM-DD.")] = "",
    deprecation: Annotated[str, typer.Option(help="Day from which it takes no new deployments.")] = "",
    retirement: Annotated[str, typer.Option(help="Day from which it answers nothing.")] = "",
    as_json: Json = False,
) -> None:
    """Let the content give a version exactly these dates although they come sooner than is promised."""
    if not (legacy or deprecation or retirement):
        raise UsageMistake("name the dates as the content will state them: --legacy, --deprecation, --retirement")

    async def work(modelyard: Modelyard) -> None:
        made = await modelyard.lifecycle.CreateNoticeOverride(
            lifecycle_pb2.CreateNoticeOverrideRequest(
                model_version=await find_version(modelyard, version),
                dates=lifecycle_pb2.LifecycleDates(legacy=legacy, deprecation=deprecation, retirement=retirement),
                reason=reason,
            )
        )
        if as_json:
            json_document(made)
        else:
            out.print(f"{made.model_version} may get these dates when the content is read next", markup=False)

    run(work)


@lifecycle.command("overrides")
def overrides(as_json: Json = False) -> None:
    """List all overrides of promised notice: who, when, why, before and after."""

    async def work(modelyard: Modelyard) -> None:
        request = lifecycle_pb2.ListNoticeOverridesRequest()
        found = await collect(modelyard.lifecycle.ListNoticeOverrides, request, "notice_overrides")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("at (UTC)", "by", "model version", "before", "after", "used at (UTC)", "reason"),
            (
                (
                    moment(one.create_time),
                    one.principal,
                    short_name(one.model_version),
                    _dates_words(one.before),
                    _dates_words(one.after),
                    moment(one.use_time),
                    one.reason,
                )
                for one in found
            ),
        )

    run(work)


def notices(project: Project = "", as_json: Json = False) -> None:
    """List what a project was told about the versions it has deployed, newest first."""

    async def work(modelyard: Modelyard) -> None:
        request = notices_pb2.ListNoticesRequest(parent=project_name(project))
        found = await collect(modelyard.notices.ListNotices, request, "notices")
        if as_json:
            json_document(found)
            return
        table(
            "",
            ("told at (UTC)", "deployment", "model version", "change", "on (UTC)", "move to"),
            (
                (
                    moment(one.create_time),
                    one.deployment.partition("/endpoints/")[2].replace("/deployments/", "/"),
                    short_name(one.model_version),
                    _change_word(one.change),
                    moment(one.change_time)[:10],
                    short_name(one.replacement) if one.replacement else "",
                )
                for one in found
            ),
        )

    run(work)


def _change_word(change: int) -> str:
    return enum_word(lifecycle_pb2.VersionChange, change, "VERSION_CHANGE_")


def _dates_words(dates: lifecycle_pb2.LifecycleDates) -> str:
    named = (("legacy", dates.legacy), ("deprecation", dates.deprecation), ("retirement", dates.retirement))
    return ", ".join(f"{name} {day}" for name, day in named if day) or "none"

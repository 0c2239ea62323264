"""Events that could not take effect, for operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from modelyard.events.v1 import dead_letters_pb2
from modelyard_client import Modelyard

from cli.output import Json, json_document, moment, out, table
from cli.session import UsageMistake, collect, run

REPLAYED_AT_ONCE = 100

event_group = typer.Typer(help="Events that could not take effect.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(event_group, name="events")


@event_group.command("dead-letters")
def dead_letters(
    show_replayed: Annotated[bool, typer.Option("--all", help="Also those that took effect when replayed.")] = False,
    as_json: Json = False,
) -> None:
    """List events that a service could not take, oldest first."""

    async def work(modelyard: Modelyard) -> None:
        found = await _letters(modelyard, show_replayed=show_replayed)
        if as_json:
            json_document([{"service": service, "dead_letter": letter} for service, letter in found])
            return
        table(
            "",
            ("service", "id", "consumer", "subject", "refused (UTC)", "replayed (UTC)", "why"),
            (
                (
                    service,
                    letter.id,
                    letter.consumer,
                    letter.subject,
                    moment(letter.receive_time),
                    moment(letter.replay_time) if letter.HasField("replay_time") else "",
                    letter.why,
                )
                for service, letter in found
            ),
        )

    run(work)


@event_group.command("replay")
def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which; all that wait if none.")] = None,
    as_json: Json = False,
) -> None:
    """Hand dead letters to their consumers again, after what was wrong is right."""

    async def work(modelyard: Modelyard) -> None:
        waiting = await _letters(modelyard)
        unknown = set(ids or ()) - {letter.id for _, letter in waiting}
        if unknown:
            raise UsageMistake(
                f"no dead letter {', '.join(sorted(unknown))} waits; `modelyard events dead-letters` lists those that do"
            )
        chosen = [(service, letter.id) for service, letter in waiting if not ids or letter.id in ids]
        replayed, failures = await _replay(modelyard, chosen)
        if as_json:
            json_document({"replayed_ids": replayed, "failures": failures})
        else:
            out.print(f"{len(replayed)} took effect, {len(failures)} did not")
            for one in failures:
                out.print(f"{one.id}: {one.why}")
        if failures:
            raise typer.Exit(1)

    run(work)


async def _letters(
    modelyard: Modelyard, *, show_replayed: bool = False
) -> list[tuple[str, dead_letters_pb2.DeadLetter]]:
    """Dead letters with the service that keeps each."""
    request = dead_letters_pb2.ListDeadLettersRequest(show_replayed=show_replayed)
    return [
        (service, letter)
        for service, stub in modelyard.dead_letters.items()
        for letter in await collect(stub.ListDeadLetters, request, "dead_letters")
    ]


async def _replay(
    modelyard: Modelyard, chosen: Sequence[tuple[str, str]]
) -> tuple[list[str], list[dead_letters_pb2.ReplayFailure]]:
    replayed: list[str] = []
    failures: list[dead_letters_pb2.ReplayFailure] = []
    for service, stub in modelyard.dead_letters.items():
        ids = [letter_id for keeper, letter_id in chosen if keeper == service]
        for first in range(0, len(ids), REPLAYED_AT_ONCE):
            request = dead_letters_pb2.ReplayDeadLettersRequest(ids=ids[first : first + REPLAYED_AT_ONCE])
            answer = await stub.ReplayDeadLetters(request)
            replayed += answer.replayed_ids
            failures += answer.failures
    return replayed, failures

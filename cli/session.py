"""Which platform a command talks to, as whom, and how its coroutine runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from modelyard_client import Addresses, Modelyard

Project = Annotated[
    str, typer.Option("--project", "-p", envvar="MODELYARD_PROJECT", help="Project; MODELYARD_PROJECT sets it too.")
]
Key = Annotated[
    str, typer.Option("--key", envvar="MODELYARD_KEY", help="Inference key; MODELYARD_KEY is better: no history.")
]


class UsageMistake(Exception):
    """What was asked for cannot be done as it was asked; says the way out."""


@dataclass(frozen=True)
class Target:
    """The options before the command."""

    data_dir: Path
    addresses_file: Path | None
    credential_file: Path | None

    def addresses(self) -> Addresses:
        """Where the platform answers.

        Raises:
            UsageMistake: none runs there.
        """
        path = self.addresses_file or self.data_dir / "addresses.json"
        try:
            return Addresses.read(path)
        except FileNotFoundError:
            raise UsageMistake(
                f"no platform runs in {self.data_dir}: {path} is not there; start one with `modelyard up`, or name its "
                "folder with MODELYARD_HOME or --data-dir before the command"
            ) from None
        except PermissionError:
            raise UsageMistake(
                f"{path} may be read by its owner only; ask the operator for addresses and a token of your own, and name "
                "them with MODELYARD_ADDRESSES and MODELYARD_CREDENTIAL_FILE"
            ) from None
        except ValueError as malformed:
            raise UsageMistake(str(malformed)) from None


_target = Target(Path("var"), None, None)


def choose_target(target: Target) -> None:
    """For the root command, once."""
    global _target
    _target = target


def current_target() -> Target:
    """What the options before the command said."""
    return _target


def connect(*, key: str | None = None, **options: Any) -> Modelyard:
    """A client of the platform."""
    target = current_target()
    addresses = target.addresses()
    secret = target.credential_file or Path(addresses.admin_credential_file)
    if not secret.exists():
        raise UsageMistake(f"the credential {secret} is not there; name another with MODELYARD_CREDENTIAL_FILE")
    return Modelyard(addresses, lambda: secret.read_text().strip(), key=key, **options)


def run(work: Callable[[Modelyard], Coroutine[Any, Any, None]], *, key: str | None = None) -> None:
    """Connect, do the work, and close."""

    async def connected() -> None:
        async with connect(key=key) as modelyard:
            await work(modelyard)

    asyncio.run(connected())


async def every(method: Callable[[Any], Any], request: Any, items: str) -> AsyncIterator[Any]:
    """Every item of a List, page after page."""
    asked = type(request)()
    asked.CopyFrom(request)
    if not asked.page_size:
        asked.page_size = 1000
    while True:
        page = await method(asked)
        for item in getattr(page, items):
            yield item
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token


async def collect(method: Callable[[Any], Any], request: Any, items: str) -> list[Any]:
    """Every item of a List."""
    return [item async for item in every(method, request, items)]


def project_name(project: str) -> str:
    """`projects/{project}` from what was typed.

    Raises:
        UsageMistake: nothing was.
    """
    if not project:
        raise UsageMistake("name the project with --project or MODELYARD_PROJECT; `modelyard project list` shows them")
    return project if project.startswith("projects/") else f"projects/{project}"


def needed_key(key: str) -> str:
    """The inference key.

    Raises:
        UsageMistake: none was given.
    """
    if not key:
        raise UsageMistake("set MODELYARD_KEY to an inference key; `modelyard key create --project P` makes one")
    return key

"""The entry point: options before the command, the commands, and how errors end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import grpc
import typer
from modelyard_client import ModelyardError

from cli.commands import (
    access,
    benchmark_runs,
    billing,
    calls,
    card,
    catalog,
    catalog_sources,
    compare,
    demonstrate,
    deployments,
    discover,
    downloads,
    events,
    fits,  # noqa: F401 - adds `fit` and `check` to the models group
    hub,  # noqa: F401 - adds `import hub`
    imports,  # noqa: F401 - adds `import` and `export` to the catalog group
    installs,
    licenses,
    lifecycle,
    own_models,
    platform,
    policies,
    prices,
    samples,
    search,
    trials,
    verify,  # noqa: F401 - adds `verify` to the catalog group
)
from cli.output import problem
from cli.session import Target, UsageMistake, choose_target

app = typer.Typer(
    name="modelyard",
    help="Discover models, see the price, deploy them two ways, call them, and get one exact bill.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    platform,
    demonstrate,
    discover,
    downloads,
    installs,
    own_models,
    catalog,
    catalog_sources,
    card,
    samples,
    search,
    trials,
    compare,
    benchmark_runs,
    lifecycle,
    licenses,
    policies,
    prices,
    deployments,
    calls,
    billing,
    access,
    events,
):
    module.add_to(app)


@app.callback()
def root(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", envvar="MODELYARD_HOME", help="Folder of the platform on this machine.")
    ] = Path("var"),
    addresses: Annotated[
        Path | None,
        typer.Option("--addresses", envvar="MODELYARD_ADDRESSES", help="addresses.json of a platform elsewhere."),
    ] = None,
    credential_file: Annotated[
        Path | None,
        typer.Option(
            "--credential-file",
            envvar="MODELYARD_CREDENTIAL_FILE",
            help="File with your control-plane token; the admin's where it is not set.",
        ),
    ] = None,
) -> None:
    choose_target(Target(data_dir, addresses, credential_file))


def main() -> None:
    """Run a command. Exit status: 0 done, 1 refused or failed, 2 asked for in the wrong way, 130 interrupted."""
    as_json = "--json" in sys.argv[1:]
    try:
        app()
    except ModelyardError as refused:
        problem(refused.message, reason=refused.reason, as_json=as_json)
        sys.exit(1)
    except grpc.aio.AioRpcError as lost:
        problem(f"the platform does not answer ({lost.code().name}); `modelyard status` says why", as_json=as_json)
        sys.exit(1)
    except UsageMistake as mistake:
        problem(str(mistake), reason="USAGE", as_json=as_json)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output (`head`, `less`) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)

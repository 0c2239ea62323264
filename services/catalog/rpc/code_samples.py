"""CodeSampleService."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modelyard.catalog.v1 import code_samples_pb2, code_samples_pb2_grpc

from chassis.database import Database
from chassis.errors import InvalidArgument
from services.catalog.rpc.naming import Naming
from services.catalog.sources.code_samples import CodeSampleTemplates
from services.catalog.usecases.find import find_model

Context = Any
# What may stand inside code: nothing that ends a string or a line, or begins a command.
_VALUES = {
    "endpoint": re.compile(r"[a-z0-9][a-z0-9-]{0,63}(/[a-z0-9][a-z0-9-]{0,63})?"),
    "project": re.compile(r"[a-z0-9][a-z0-9-]{0,63}"),
    "rest_url": re.compile(r"https?://[A-Za-z0-9.\-\[\]:]{1,255}"),
    "grpc_address": re.compile(r"[A-Za-z0-9.\-\[\]:]{1,255}"),
    "instance_type": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
}
_TO_REPLACE = {
    "endpoint": "ENDPOINT",
    "project": "PROJECT",
    "rest_url": "http://HOST:PORT",
    "grpc_address": "HOST:PORT",
    "instance_type": "",
}


class CodeSampleServicer(code_samples_pb2_grpc.CodeSampleServiceServicer):
    """Fills templates of the content folder."""

    def __init__(self, database: Database, naming: Naming, folder: Path) -> None:
        self._database = database
        self._naming = naming
        self._templates = CodeSampleTemplates(folder)

    async def GetCodeSamples(
        self, request: code_samples_pb2.GetCodeSamplesRequest, context: Context
    ) -> code_samples_pb2.CodeSamples:
        asked = await self._naming.model(request)
        values: dict[str, str | bool] = {field: _checked(request, field) for field in _VALUES}
        async with self._database.reader() as session:
            row = await find_model(session, asked.name, asked.project_uid)
        options = row.facts.get("deployment_options", ())
        values |= {
            "short_name": row.name if row.project_uid else f"{row.publisher}/{row.name.rpartition('/')[2]}",
            "version": row.latest_version,
            "serverless": not request.instance_type and "SERVERLESS" in options,
        }
        if not values["serverless"]:
            values["instance_type"] = request.instance_type or "INSTANCE_TYPE"
        tasks = [task.lower().replace("_", "-") for task in row.facts.get("tasks", ())]
        return code_samples_pb2.CodeSamples(
            samples=[
                code_samples_pb2.CodeSample(
                    purpose=code_samples_pb2.CodeSamplePurpose.Value(f"CODE_SAMPLE_PURPOSE_{sample.purpose.upper()}"),
                    client=sample.client,
                    language=sample.language,
                    code=sample.code,
                )
                for sample in self._templates.render(tasks, values)
            ]
        )


def _checked(request: code_samples_pb2.GetCodeSamplesRequest, field: str) -> str:
    value: str = getattr(request, field)
    if not value:
        return _TO_REPLACE[field]
    if not _VALUES[field].fullmatch(value):
        raise InvalidArgument(
            f"{field} {value[:100]!r} cannot stand in code; {_VALUES[field].pattern} is allowed", field=field
        )
    return value

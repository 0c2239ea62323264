"""Code samples from the content folder: `{task}/{purpose}.{client}.{py|sh}.jinja`, and `any/` for every model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_LANGUAGES = {"py": "python", "sh": "shell"}
_PURPOSES = ("call", "deploy", "evaluate")


@dataclass(frozen=True, slots=True)
class CodeSample:
    """One rendered sample; `purpose` is "call", "deploy" or "evaluate"."""

    purpose: str
    client: str
    language: str
    code: str


class CodeSampleTemplates:
    """Renders samples; every value that goes in was checked by the caller, since code is never escaped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = Environment(
            loader=FileSystemLoader(folder),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701 - code, not HTML
            keep_trailing_newline=True,
        )

    def render(self, tasks: list[str], values: dict[str, str | bool]) -> list[CodeSample]:
        """Samples for what a model does, ordered by purpose, then client.

        Args:
            tasks: Folders of samples, such as "chat-completion"; those without samples give none.
        """
        rendered = []
        for task in [*tasks, "any"]:
            for path in sorted((self._folder / task).glob("*.jinja")):
                purpose, client, suffix, _ = path.name.split(".")
                template = self._environment.get_template(f"{task}/{path.name}")
                rendered.append(CodeSample(purpose, client, _LANGUAGES[suffix], template.render(values)))
        return sorted(rendered, key=lambda sample: (_PURPOSES.index(sample.purpose), sample.client))

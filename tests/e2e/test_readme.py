"""The README's commands work as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from openai import OpenAI

from tests.infra.up import Up

README = Path(__file__).parents[2] / "README.md"
# A file and a hub's model that only the reader has; test_own_models.py and test_hub_models.py run these commands.
OF_YOUR_OWN = {"./model.gguf", "ORG/NAME"}


def readme_commands() -> list[str]:
    """`$ modelyard …` and `$ export …` lines of "Run it" and "The catalog", comments left out."""
    sections = re.findall(r"^## (?:Run it|The catalog)$(.*?)(?=^## )", README.read_text(), re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^\$ (.*?)(?:\s+# .*)?$", "".join(sections), re.MULTILINE)
    return [line for line in lines if line.startswith(("modelyard", "export")) and not set(line.split()) & OF_YOUR_OWN]


def test_the_readmes_commands_work(up: Up) -> None:
    """In order, with the key that the README's own command made; then its Python example's call."""
    key = ""
    ran = 0
    for line in readme_commands():
        words = shlex.split(line)
        if words[0] == "export":
            continue
        done = up.run(*words[1:], MODELYARD_KEY=key)
        ran += 1
        if words[1:3] == ["key", "create"]:
            key = done.stdout.split()[0]
    assert ran >= 12
    with OpenAI(base_url=f"{up.addresses['rest']}/v1", api_key=key) as client:
        answer = client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "Hello"}], max_tokens=8
        )
    assert answer.choices[0].message.content
    assert answer.usage is not None


def test_it_is_short() -> None:
    """A stranger reads it to the end."""
    assert len(README.read_text().splitlines()) <= 150

"""What a source may be, which of its models are taken, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase

from services.catalog.domain.errors import SourceInvalid

GLOBS_MAX = 100
GLOB_LENGTH_MAX = 256
INTERVAL_S_MIN = 60
FAILURES_KEPT_MAX = 1000
# Models that no configured source brings carry these.
RESERVED_IDS = frozenset({"content", "import", "upload", "hub"})

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# What providers list besides models that answer chat or embeddings, by words of their names.
_OTHER_WORDS = frozenset(
    [
        "whisper",
        "tts",
        "dall",
        "image",
        "diffusion",
        "moderation",
        "realtime",
        "transcribe",
        "audio",
        "sora",
        "rerank",
        "davinci",
        "babbage",
    ]
)
_CHAT, _EMBEDDINGS, _NONE = "CHAT_COMPLETION", "EMBEDDINGS", ""
TASK_WORDS = {"chat-completion": _CHAT, "embeddings": _EMBEDDINGS, "none": _NONE}


class SyncState(IntEnum):
    """The numbers are those of `modelyard.catalog.v1.SyncState`."""

    PENDING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    INTERRUPTED = 5

    @property
    def ended(self) -> bool:
        return self >= SyncState.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Selection:
    """Globs over names; what is excluded wins, and no include at all takes everything."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether a model of this name is taken."""
        wanted = not self.include or any(fnmatchcase(name, glob) for glob in self.include)
        return wanted and not any(fnmatchcase(name, glob) for glob in self.exclude)


def check_globs(globs: Sequence[str], field: str) -> None:
    """Globs within their limits.

    Raises:
        SourceInvalid: naming the field and the limit.
    """
    if len(globs) > GLOBS_MAX:
        raise SourceInvalid(f"{field} has {len(globs)} globs; at most {GLOBS_MAX} are allowed", field=field)
    for glob in globs:
        if not 1 <= len(glob) <= GLOB_LENGTH_MAX or not glob.isprintable():
            raise SourceInvalid(
                f"{field} has the glob {glob[:64]!r}; 1 to {GLOB_LENGTH_MAX} printable characters are allowed",
                field=field,
            )


def check_interval(interval_s: int) -> None:
    """How often a source may be synced.

    Raises:
        SourceInvalid: naming the value and the limit.
    """
    if interval_s != 0 and interval_s < INTERVAL_S_MIN:
        raise SourceInvalid(
            f"interval_s is {interval_s}; at least {INTERVAL_S_MIN} is allowed, or 0 to sync only when asked to",
            field="interval_s",
        )


def model_id(name: str) -> str | None:
    """What a provider's model is called here; None where nothing fit is left of its name."""
    fit = _UNFIT.sub("-", name).strip("-._")
    return fit if _MODEL_ID.fullmatch(fit) else None


def task_of(name: str, rules: Mapping[str, str], capabilities: Mapping[str, bool] | None) -> str:
    """What a provider's model answers, as `modelyard.catalog.v1.Task` names it; empty where it is nothing of that.

    Args:
        rules: Task words by globs over names, as the operator configured them; the longest glob that matches decides.
        capabilities: What the provider says of it; None where it says nothing, and then its name decides.
    """
    matching = [glob for glob in rules if fnmatchcase(name, glob)]
    if matching:
        return TASK_WORDS[rules[max(matching, key=lambda glob: (len(glob), glob))]]
    if capabilities is not None:
        if capabilities.get("chat_completion"):
            return _CHAT
        return _EMBEDDINGS if capabilities.get("embeddings") else _NONE
    words = set(re.split(r"[^a-z]+", name.lower()))
    if words & _OTHER_WORDS:
        return _NONE
    return _EMBEDDINGS if any("embed" in word for word in words) else _CHAT

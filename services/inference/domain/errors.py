"""What inference refuses."""

from __future__ import annotations

from chassis.errors import Code, Problem
from services.inference.domain.usage import Counts


class KeyInvalid(Problem):
    """No key, or one that is wrong, expired or revoked: all answer alike."""

    code = Code.UNAUTHENTICATED
    reason = "KEY_INVALID"


class TemplatesBusy(Problem):
    """As many chat templates of hubs and projects are rendered as may be at once."""

    code = Code.UNAVAILABLE
    reason = "TEMPLATES_BUSY"


class ModelNotCallable(Problem):
    """The key may call no such endpoint or deployment, or there is none: both answer alike."""

    code = Code.NOT_FOUND
    reason = "MODEL_NOT_CALLABLE"


class TaskNotSupported(Problem):
    """The model behind the endpoint does something else."""

    code = Code.NOT_FOUND
    reason = "TASK_NOT_SUPPORTED"


class DeploymentRetired(Problem):
    """The version behind the deployment is retired."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_RETIRED"
    http = 410


class NoReadyInstance(Problem):
    """No instance answers now."""

    code = Code.UNAVAILABLE
    reason = "NO_READY_INSTANCE"


class TrialLimitReached(Problem):
    """One member of a project tried models too often."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "TRIAL_LIMIT_REACHED"


class TrialNotStarted(Problem):
    """No instance for a trial answered in time."""

    code = Code.UNAVAILABLE
    reason = "TRIAL_NOT_STARTED"


class RequestInvalid(Problem):
    """A field of the request is wrong."""

    code = Code.INVALID_ARGUMENT
    reason = "REQUEST_INVALID"


class BodyTooLarge(Problem):
    """The request's body is larger than the limit."""

    code = Code.INVALID_ARGUMENT
    reason = "BODY_TOO_LARGE"
    http = 413


class MediaInvalid(Problem):
    """A file that is no audio or image that the model takes."""

    code = Code.INVALID_ARGUMENT
    reason = "MEDIA_INVALID"


class MediaTooLarge(Problem):
    """Audio longer, or an image larger, than the model takes."""

    code = Code.INVALID_ARGUMENT
    reason = "MEDIA_TOO_LARGE"
    http = 413


class PromptTooLong(Problem):
    """The prompt does not fit the model's context."""

    code = Code.INVALID_ARGUMENT
    reason = "PROMPT_TOO_LONG"


class EngineBusy(Problem):
    """The engine's queue is full."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "ENGINE_BUSY"


class EngineFailed(Problem):
    """The instance broke while it answered; what it delivered before stands."""

    code = Code.UNAVAILABLE
    reason = "ENGINE_FAILED"


class EngineTimeout(Problem):
    """The instance took longer than the limit."""

    code = Code.DEADLINE_EXCEEDED
    reason = "ENGINE_TIMEOUT"


class ProviderBusy(Problem):
    """The external provider, or our own limit for it, takes no more calls now."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "PROVIDER_BUSY"


class ProviderUnreachable(Problem):
    """The external provider could not be reached; nothing happened."""

    code = Code.UNAVAILABLE
    reason = "PROVIDER_UNREACHABLE"


class ProviderFailed(Problem):
    """The external provider broke while it answered; what it delivered before stands."""

    code = Code.UNAVAILABLE
    reason = "PROVIDER_FAILED"
    http = 502


class ProviderTimeout(EngineTimeout):
    """The external provider took longer than the limit."""

    reason = "PROVIDER_TIMEOUT"
    http = 504


class ProviderMisconfigured(Problem):
    """The operator must act: the provider's credential is missing or refused, or the provider has no such model."""

    code = Code.UNAVAILABLE
    reason = "PROVIDER_MISCONFIGURED"
    http = 502


class ContentFiltered(Problem):
    """The external provider's content filter refused the prompt. `read` is what the provider says that it read."""

    code = Code.INVALID_ARGUMENT
    reason = "CONTENT_FILTER"

    def __init__(self, message: str, *, read: Counts) -> None:
        super().__init__(message, field="messages")
        self.read = read


class RawTensorsOnServerless(Problem):
    """Raw tensors would pass the meter on the shared pool."""

    code = Code.PERMISSION_DENIED
    reason = "RAW_TENSORS_ON_SERVERLESS"


class RoutesStale(Problem):
    """Routes and keys were not confirmed for too long."""

    code = Code.UNAVAILABLE
    reason = "ROUTES_STALE"


class JournalFull(Problem):
    """Usage could not be recorded, so no work is taken."""

    code = Code.UNAVAILABLE
    reason = "JOURNAL_FULL"


class JournalCorrupt(Problem):
    """The journal on disk is damaged where a crash cannot have damaged it."""

    code = Code.INTERNAL
    reason = "JOURNAL_CORRUPT"


class JournalLocked(Problem):
    """Another process writes this journal."""

    code = Code.FAILED_PRECONDITION
    reason = "JOURNAL_LOCKED"

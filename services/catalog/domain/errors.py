"""What the catalog refuses."""

from __future__ import annotations

from chassis.errors import Code, Problem


class ModelNotFound(Problem):
    """No such model or version."""

    code = Code.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class InstanceTypeNotFound(Problem):
    """No such instance type."""

    code = Code.NOT_FOUND
    reason = "INSTANCE_TYPE_NOT_FOUND"


class ContentInvalid(Problem):
    """A content file with a wrong field."""

    code = Code.INVALID_ARGUMENT
    reason = "CATALOG_CONTENT_INVALID"


class LicenseDigestMismatch(Problem):
    """The text that was read is not the licence's text now."""

    code = Code.FAILED_PRECONDITION
    reason = "LICENSE_DIGEST_MISMATCH"


class PolicyInvalid(Problem):
    """A policy with too many entries, or with one that cannot be a name."""

    code = Code.INVALID_ARGUMENT
    reason = "POLICY_INVALID"


class ModelWithdrawn(Problem):
    """The model left its source."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_WITHDRAWN"


class ModelRetired(Problem):
    """The version answers nothing any more."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_RETIRED"
    http = 410


class ModelDeprecated(Problem):
    """The version takes no new deployments."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_DEPRECATED"


class PolicyRefused(Problem):
    """The project's policy does not allow the model."""

    code = Code.FAILED_PRECONDITION
    reason = "POLICY_REFUSED"


class LicenseNotAccepted(Problem):
    """The project has not accepted the licence's text as it stands now."""

    code = Code.FAILED_PRECONDITION
    reason = "LICENSE_NOT_ACCEPTED"


class ModelNotRunnable(Problem):
    """The version cannot run on this platform this way."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_NOT_RUNNABLE"


class ArchitectureNotSupported(Problem):
    """No engine of this platform runs the version's architecture."""

    code = Code.FAILED_PRECONDITION
    reason = "ARCHITECTURE_NOT_SUPPORTED"


class InstanceTypeTooSmall(Problem):
    """The type has less than the version needs."""

    code = Code.FAILED_PRECONDITION
    reason = "INSTANCE_TYPE_TOO_SMALL"


class InstanceTypeNotAllowed(Problem):
    """The publisher names the types the version may run on, and this one is not among them."""

    code = Code.FAILED_PRECONDITION
    reason = "INSTANCE_TYPE_NOT_ALLOWED"


class InstanceTypeNotQuotable(Problem):
    """The type's shape, or its price, is not known."""

    code = Code.FAILED_PRECONDITION
    reason = "INSTANCE_TYPE_NOT_QUOTABLE"


class HubUnavailable(Problem):
    """A hub is away or wants to be left alone."""

    code = Code.UNAVAILABLE
    reason = "HUB_UNAVAILABLE"


class HubModelNotFound(Problem):
    """The hub has no such model, revision or file."""

    code = Code.NOT_FOUND
    reason = "HUB_MODEL_NOT_FOUND"


class HubModelGated(Problem):
    """The hub gives the model's files only to accounts that were admitted."""

    code = Code.FAILED_PRECONDITION
    reason = "HUB_MODEL_GATED"


class HubModelNotEligible(Problem):
    """The model is at the hub and is not taken in."""

    code = Code.FAILED_PRECONDITION
    reason = "HUB_MODEL_NOT_ELIGIBLE"


class HubContentChanged(Problem):
    """A file at the hub is not the one that was described."""

    code = Code.FAILED_PRECONDITION
    reason = "HUB_CONTENT_CHANGED"


class ModelOfOtherSource(Problem):
    """Another source brought the model of this name, and that one alone changes it."""

    code = Code.ALREADY_EXISTS
    reason = "MODEL_OF_OTHER_SOURCE"


class HubCredentialUnusable(Problem):
    """The token that a hub is to be shown cannot be read."""

    code = Code.FAILED_PRECONDITION
    reason = "HUB_CREDENTIAL_UNUSABLE"


class ArtifactNotFound(Problem):
    """No such file in the version."""

    code = Code.NOT_FOUND
    reason = "ARTIFACT_NOT_FOUND"


class WeightsNotOffered(Problem):
    """The version is not offered for managed compute, so its weights are not given out."""

    code = Code.FAILED_PRECONDITION
    reason = "WEIGHTS_NOT_OFFERED"


class WeightsNotHere(Problem):
    """The version's files are not on this platform."""

    code = Code.FAILED_PRECONDITION
    reason = "WEIGHTS_NOT_HERE"


class DownloadUrlInvalid(Problem):
    """A download address that was not made here, or was altered."""

    code = Code.PERMISSION_DENIED
    reason = "DOWNLOAD_URL_INVALID"


class DownloadUrlExpired(Problem):
    """A download address whose time has passed."""

    code = Code.PERMISSION_DENIED
    reason = "DOWNLOAD_URL_EXPIRED"


class RangeNotSatisfiable(Problem):
    """None of the bytes asked for are in the file."""

    code = Code.OUT_OF_RANGE
    reason = "RANGE_NOT_SATISFIABLE"
    http = 416

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message, metadata={"size_bytes": str(size_bytes)})
        self.size_bytes = size_bytes


class DownloadsBusy(Problem):
    """As many downloads run as may."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "DOWNLOADS_BUSY"
    http = 503


class StoreUnavailable(Problem):
    """The artifact store does not answer, or has lost a content."""

    code = Code.UNAVAILABLE
    reason = "ARTIFACT_STORE_UNAVAILABLE"


class UploadDigestWrong(Problem):
    """What was uploaded is not what was announced."""

    code = Code.FAILED_PRECONDITION
    reason = "UPLOAD_DIGEST_WRONG"


class SearchUnavailable(Problem):
    """The search index cannot be read; another one is being built."""

    code = Code.UNAVAILABLE
    reason = "SEARCH_UNAVAILABLE"


class SearchFolderLocked(Problem):
    """Another process has its search index in this one's data folder."""

    code = Code.FAILED_PRECONDITION
    reason = "SEARCH_FOLDER_LOCKED"


class SourceInvalid(Problem):
    """A source with a wrong field."""

    code = Code.INVALID_ARGUMENT
    reason = "SOURCE_INVALID"


class SourceExists(Problem):
    """The name is taken."""

    code = Code.ALREADY_EXISTS
    reason = "SOURCE_EXISTS"


class SourceNotFound(Problem):
    """No such source."""

    code = Code.NOT_FOUND
    reason = "SOURCE_NOT_FOUND"


class SyncRunNotFound(Problem):
    """No such run, or one that is not kept any more."""

    code = Code.NOT_FOUND
    reason = "SYNC_RUN_NOT_FOUND"


class SourceUnavailable(Problem):
    """A source that cannot be read now; what was stored of it stands."""

    code = Code.UNAVAILABLE
    reason = "SOURCE_UNAVAILABLE"


class InstallFailed(Problem):
    """The wheels of a model could not be fetched or unpacked; nothing of it is left."""

    code = Code.FAILED_PRECONDITION
    reason = "INSTALL_FAILED"


class InstallRunning(Problem):
    """Somebody else installs into the same folder."""

    code = Code.UNAVAILABLE
    reason = "INSTALL_RUNNING"


class InstallNotOffered(Problem):
    """Nothing of the model is installed on demand."""

    code = Code.FAILED_PRECONDITION
    reason = "INSTALL_NOT_OFFERED"

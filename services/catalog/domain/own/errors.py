"""What uploading and registering refuses."""

from __future__ import annotations

from chassis.errors import Code, Problem


class UploadNotFound(Problem):
    """No such upload in this project, or one that was given up."""

    code = Code.NOT_FOUND
    reason = "UPLOAD_NOT_FOUND"


class UploadTooLarge(Problem):
    """A file larger than the platform takes."""

    code = Code.INVALID_ARGUMENT
    reason = "UPLOAD_TOO_LARGE"
    http = 413


class UploadOffsetWrong(Problem):
    """A part that is not the next one."""

    code = Code.FAILED_PRECONDITION
    reason = "UPLOAD_OFFSET_WRONG"


class UploadNotStored(Problem):
    """A version names a content that the project has not uploaded."""

    code = Code.FAILED_PRECONDITION
    reason = "UPLOAD_NOT_STORED"


class QuotaExceeded(Problem):
    """The project has as much as it may."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"


class ModelFilesInvalid(Problem):
    """The files make no model that an engine here serves."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_FILES_INVALID"


class ModelVersionExists(Problem):
    """The version's id is taken; versions never change."""

    code = Code.ALREADY_EXISTS
    reason = "MODEL_VERSION_EXISTS"


class ModelArchived(Problem):
    """The project archived it."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_ARCHIVED"


class LabelInvalid(Problem):
    """A label that cannot be one, or that names no version."""

    code = Code.INVALID_ARGUMENT
    reason = "LABEL_INVALID"

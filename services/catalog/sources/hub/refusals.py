"""What a hub refuses, in this catalog's words."""

from __future__ import annotations

from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from chassis.errors import Problem
from services.catalog.domain.errors import HubModelGated, HubModelNotFound, HubUnavailable


def problem_from_hub(error: HfHubHTTPError, repository: str, endpoint: str) -> Problem:
    """The refusal that an answer of a hub means. The library's own text holds request ids and addresses, so it stays out."""
    # A gate is a kind of "not found" to the library, so it comes first.
    if isinstance(error, GatedRepoError):
        return HubModelGated(
            f"{repository} is gated at {endpoint}: accept its terms at {endpoint}/{repository} with an account whose token "
            "this source has, and try again"
        )
    if isinstance(error, RevisionNotFoundError):
        return HubModelNotFound(f"{repository} has no such revision at {endpoint}; name a branch, a tag or a commit")
    if isinstance(error, RemoteEntryNotFoundError):
        return HubModelNotFound(f"a file of {repository} is not at {endpoint} any more; import the model anew")
    if isinstance(error, RepositoryNotFoundError):
        return HubModelNotFound(f"{repository} is not at {endpoint}, or is private; check its name there")
    if isinstance(error, DisabledRepoError):
        return HubModelNotFound(f"{repository} is disabled at {endpoint}")
    status = error.response.status_code
    if status in (401, 403):
        return HubModelGated(f"{endpoint} does not take the token of this source for {repository}; renew it")
    return HubUnavailable(f"the hub at {endpoint} answers {status}; try again later")

"""What a project lets itself take into use: allow-lists and a block-list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.catalog.domain.errors import PolicyInvalid

COLLECTIONS, PUBLISHERS, LICENSES, BLOCKED = "allowed_collections", "allowed_publishers", "allowed_licenses", "blocked"
ENTRY_LENGTH_MAX = 512


@dataclass(frozen=True, slots=True)
class Policed:
    """What rules look at: ids without their prefixes, resource names of the model and of one version."""

    collection: str
    publisher: str
    license_id: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Policy:
    """An empty allow-list allows all; every list has to agree. Ids and names are sorted."""

    allowed_collections: tuple[str, ...] = ()
    allowed_publishers: tuple[str, ...] = ()
    allowed_licenses: tuple[str, ...] = ()
    # Resource names of models and of versions.
    blocked: tuple[str, ...] = ()

    def lists(self) -> dict[str, tuple[str, ...]]:
        """Its lists by the names of their rules."""
        return {
            COLLECTIONS: self.allowed_collections,
            PUBLISHERS: self.allowed_publishers,
            LICENSES: self.allowed_licenses,
            BLOCKED: self.blocked,
        }


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that refuses, and what it refuses."""

    rule: str
    value: str


def violations(policy: Policy, policed: Policed) -> Iterator[Violation]:
    """Every rule that refuses, in the order of `Policy`."""
    for rule, allowed, value in (
        (COLLECTIONS, policy.allowed_collections, policed.collection),
        (PUBLISHERS, policy.allowed_publishers, policed.publisher),
        (LICENSES, policy.allowed_licenses, policed.license_id),
    ):
        if allowed and value not in allowed:
            yield Violation(rule, value)
    for name in (policed.model, policed.version):
        if name in policy.blocked:
            yield Violation(BLOCKED, name)


def check_policy(policy: Policy, entries_max: int) -> Policy:
    """The policy, each entry once and sorted.

    Raises:
        PolicyInvalid: naming the list, what is wrong with it and what is allowed.
    """
    for rule, entries in policy.lists().items():
        if len(entries) > entries_max:
            raise PolicyInvalid(
                f"{rule} has {len(entries)} entries; at most {entries_max} are allowed", field=f"policy.{rule}"
            )
        for entry in entries:
            if not 1 <= len(entry) <= ENTRY_LENGTH_MAX or not entry.isprintable():
                raise PolicyInvalid(
                    f"{rule} holds {entry[:64]!r}; an entry has 1 to {ENTRY_LENGTH_MAX} printable characters",
                    field=f"policy.{rule}",
                )
    return Policy(*(tuple(sorted(set(entries))) for entries in policy.lists().values()))

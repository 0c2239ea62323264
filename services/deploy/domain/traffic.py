"""Traffic splits."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from services.deploy.domain.errors import DeploymentNotFound, TrafficNotWhole


def check_traffic(traffic: Mapping[str, int], deployments: Collection[str]) -> dict[str, int]:
    """A split as it is stored: shares of existing deployments, whole percentages totalling 100, or nothing.

    Raises:
        DeploymentNotFound: a share of a deployment that is not there.
        TrafficNotWhole: any other total than 0 or 100, or a share outside 0 to 100.
    """
    for deployment, share in traffic.items():
        if deployment not in deployments:
            raise DeploymentNotFound(
                f"deployment {deployment!r} is not behind this endpoint; it has {', '.join(sorted(deployments)) or 'none'}",
                field="traffic",
            )
        if not 0 <= share <= 100:
            raise TrafficNotWhole(f"traffic of {deployment!r} is {share}; 0 to 100 are allowed", field="traffic")
    total = sum(traffic.values())
    if total not in (0, 100):
        raise TrafficNotWhole(f"traffic totals {total}; it totals 100, or is empty", field="traffic")
    return {deployment: share for deployment, share in sorted(traffic.items()) if share}


def without(traffic: Mapping[str, int], deployment: str) -> dict[str, int]:
    """The split when a deployment goes: what is left grows in proportion to 100, largest remainders first."""
    left = {name: share for name, share in traffic.items() if name != deployment and share}
    total = sum(left.values())
    if not total:
        return {}
    shares = {name: share * 100 // total for name, share in left.items()}
    by_remainder = sorted(left, key=lambda name: (-(left[name] * 100 % total), name))
    for name in by_remainder[: 100 - sum(shares.values())]:
        shares[name] += 1
    return shares

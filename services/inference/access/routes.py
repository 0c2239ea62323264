"""Routes, as deploy projects them; a key finds endpoints of its own project only."""

from __future__ import annotations

import random
from dataclasses import dataclass

from modelyard.deploy.v1 import routes_pb2

from chassis.bus import Bus
from chassis.clock import Clock, ms_from_time
from services.inference.access.dates import tell_dates
from services.inference.domain.balance import choose_by_weight
from services.inference.domain.calls import split_address
from services.inference.domain.errors import DeploymentRetired, ModelNotCallable, NoReadyInstance, RoutesStale


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one call goes."""

    route: routes_pb2.Route
    deployment: routes_pb2.RouteDeployment


class RouteDirectory:
    """Every route of the platform.

    Args:
        stale_s_max: How long routes serve without being confirmed.
        arrive_s: Longest wait for what deploy has written and is on its way here.
        arriving_max: How many calls wait so at once.
    """

    BUCKET = "routes"

    def __init__(
        self, bus: Bus, clock: Clock, *, stale_s_max: float, arrive_s: float = 1.0, arriving_max: int = 100
    ) -> None:
        self._clock = clock
        self._stale_s_max = stale_s_max
        self._arrive_s = arrive_s
        self._arriving = 0
        self._arriving_max = arriving_max
        self._by_uid: dict[str, routes_pb2.Route] = {}
        self._by_name: dict[tuple[str, str], routes_pb2.Route] = {}
        self.watch = bus.watch_bucket(self.BUCKET, self._changed)

    async def find_arriving(self, key: routes_pb2.KeyAccess, model: str) -> Destination:
        """As `find`, and once more when everything is here that deploy had written by now: what became ACTIVE a moment
        ago may be on its way. A wrong name is refused after one question to NATS.
        """
        try:
            return self.find(key, model)
        except (ModelNotCallable, NoReadyInstance):
            if self._arriving >= self._arriving_max:
                raise
        self._arriving += 1
        try:
            await self.watch.catch_up(timeout_s=self._arrive_s)
        finally:
            self._arriving -= 1
        return self.find(key, model)

    def find(self, key: routes_pb2.KeyAccess, model: str) -> Destination:
        """The deployment that takes this call; the dates of its version are told beside the answer.

        Raises:
            ModelNotCallable: no such endpoint or deployment for this key, or it takes no traffic.
            DeploymentRetired: by this machine's own clock.
            NoReadyInstance: none answers now.
            RoutesStale: what is known of routes is too old to trust.
        """
        if self.watch.staleness_s > self._stale_s_max:
            raise RoutesStale(
                f"routes were last confirmed {self.watch.staleness_s:.0f} s ago; at most {self._stale_s_max:.0f} s are "
                "allowed: bring NATS back",
                retry_after_s=5.0,
            )
        endpoint, named = split_address(model)
        route = self._by_name.get((key.project_uid, endpoint))
        if route is None or not _in_scope(key, route):
            raise ModelNotCallable(
                f"model {model!r} is not callable with this key; GET /v1/models lists what is", field="model"
            )
        deployment = _named(route, named, model) if named else _by_traffic(route, model)
        tell_dates(deployment)
        if deployment.HasField("retire_time") and deployment.retire_time.ToMilliseconds() <= ms_from_time(
            self._clock.now()
        ):
            raise DeploymentRetired(
                f"{deployment.model_version} behind {model!r} was retired on "
                f"{deployment.retire_time.ToDatetime():%Y-%m-%d}; deploy its replacement",
                field="model",
            )
        if not deployment.targets and not deployment.HasField("provider"):
            raise NoReadyInstance(
                f"no instance of {model!r} answers now; `modelyard deployments` shows its state", retry_after_s=2.0
            )
        return Destination(route, deployment)

    def callable_with(self, key: routes_pb2.KeyAccess) -> list[tuple[str, Destination]]:
        """Every address the key may call, ordered: each endpoint with traffic, and each of its deployments."""
        found: list[tuple[str, Destination]] = []
        for route in self._by_uid.values():
            if route.project_uid != key.project_uid or not _in_scope(key, route):
                continue
            heaviest = max(route.deployments, key=lambda one: one.weight, default=None)
            if heaviest is not None and heaviest.weight:
                found.append((route.endpoint, Destination(route, heaviest)))
            found += [(f"{route.endpoint}/{one.deployment}", Destination(route, one)) for one in route.deployments]
        return sorted(found, key=lambda pair: pair[0])

    def of_project(self, project_uid: str) -> list[routes_pb2.Route]:
        """Routes of one project, by endpoint."""
        routes = [route for route in self._by_uid.values() if route.project_uid == project_uid]
        return sorted(routes, key=lambda route: route.endpoint)

    def _changed(self, key: str, value: bytes | None, _sequence: int) -> None:
        known = self._by_uid.pop(key, None)
        if known is not None and self._by_name.get((known.project_uid, known.endpoint)) is known:
            del self._by_name[known.project_uid, known.endpoint]
        if value is None:
            return
        route = routes_pb2.Route.FromString(value)
        self._by_uid[key] = route
        self._by_name[route.project_uid, route.endpoint] = route


def _in_scope(key: routes_pb2.KeyAccess, route: routes_pb2.Route) -> bool:
    return not key.endpoint_uids or route.endpoint_uid in key.endpoint_uids


def _named(route: routes_pb2.Route, name: str, model: str) -> routes_pb2.RouteDeployment:
    for deployment in route.deployments:
        if deployment.deployment == name:
            return deployment
    raise ModelNotCallable(
        f"model {model!r} is not callable with this key; GET /v1/models lists what is", field="model"
    )


def _by_traffic(route: routes_pb2.Route, model: str) -> routes_pb2.RouteDeployment:
    weights = [(deployment.deployment, deployment.weight) for deployment in route.deployments]
    chosen = choose_by_weight(weights, random.random())  # noqa: S311 - spreads load, protects nothing
    if chosen is None:
        raise ModelNotCallable(
            f"endpoint {model!r} sends no traffic to any deployment; name one as '{model}/DEPLOYMENT', or set its traffic",
            field="model",
        )
    return _named(route, chosen, model)


def unreached(destination: Destination) -> NoReadyInstance:
    """No instance of a destination took the call; nothing happened."""
    return NoReadyInstance(
        f"no instance of {destination.route.endpoint!r} could be reached; it is being mended, try again",
        retry_after_s=1.0,
    )

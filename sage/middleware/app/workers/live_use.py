"""How busy each deployment is over all processes: fronts tell the owner, whose calls of low priority give way to
theirs, and whose ``GET /models`` shows the sum."""

from __future__ import annotations

from sage.middleware.app.workers.messages import LiveUse
from sage.middleware.dispatch.deployment import Deployment
from sage.middleware.registry.registry import Registry

Place = tuple[str, int]


class UseReport:
    """What a front says of its deployments: only what has changed since it was last asked."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._told: dict[Place, tuple[int, float | None]] = {}

    def changes(self) -> LiveUse | None:
        """``None`` means that nothing has changed."""
        changed: dict[Place, tuple[int, float | None]] = {}
        for model in self._registry.known():
            for index, deployment in enumerate(model.deployments):
                if deployment.last_used is None and not deployment.in_flight:
                    continue
                place, use = (model.name, index), (deployment.in_flight, deployment.last_used)
                if self._told.get(place) != use:
                    self._told[place] = changed[place] = use
        return LiveUse(changed) if changed else None


class FrontUse:
    """What one front's requests take, added to the owner's own numbers for as long as they run."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._added: dict[Place, tuple[Deployment, int]] = {}

    @property
    def in_flight(self) -> int:
        """Calls of models that the front runs."""
        return sum(in_flight for _, in_flight in self._added.values())

    def heard(self, use: LiveUse) -> None:
        for place, (in_flight, last_used) in use.deployments.items():
            self._take_back(place)
            model = self._registry.get(place[0])
            if model is None or place[1] >= len(model.deployments):
                continue
            deployment = model.deployments[place[1]]
            deployment.in_flight += in_flight
            if last_used is not None:
                deployment.last_used = max(last_used, deployment.last_used or 0.0)
            self._added[place] = deployment, in_flight

    def end(self) -> None:
        """The front has ended, and with it what it ran."""
        for place in list(self._added):
            self._take_back(place)

    def _take_back(self, place: Place) -> None:
        deployment, in_flight = self._added.pop(place, (None, 0))
        if deployment is not None:
            deployment.in_flight -= in_flight

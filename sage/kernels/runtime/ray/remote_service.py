"""A service whose replicas are actors of Ray, as one process calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.errors import Unavailable
from sage.kernels.runtime.ray.errors import unpacked
from sage.kernels.runtime.ray.link import Link
from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.ray.patience import Patience
from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.spec import Method
from sage.kernels.runtime.streams.key_hash import key_hash

_FIND = 30.0
"""Seconds that a service which another process started has to answer, on an idle machine."""


def actor_name(service: str, replica: int) -> str:
    return f"service/{replica}/{service}"


class Replicas:
    """The replicas of one service, as one process calls them."""

    def __init__(self, service: str, links: list[Link], methods: Mapping[str, Method]) -> None:
        self.service = service
        self.links = links
        self._methods = methods
        self._turn = 0

    def methods(self) -> Mapping[str, Method]:
        return self._methods

    def submit(self, call: ServiceCall) -> None:
        link = self._choose(call)
        if call._ready is not None and call.order is None and link.up and link.end_error is None:
            link.call(call)
        else:
            link.submit(call)

    def _choose(self, call: ServiceCall) -> Link:
        """That of its ordered key; else the live one with the fewest calls from here, in turns among equals."""
        links = self.links
        if len(links) == 1:
            return links[0]
        if call.order is not None:
            return links[key_hash(call.order) % len(links)]
        self._turn = turn = (self._turn + 1) % len(links)
        return min(links[turn:] + links[:turn], key=lambda link: (link.end_error is not None, not link.up, link.load))

    def close(self) -> None:
        for link in self.links:
            link.close()


def link_replicas(service: str, actors: list[Any], patience: Patience) -> Replicas:
    """Waits until all actors are set up, as long as ``patience`` lasts; raises what the setup of one raised."""
    ray = load_ray()
    refs = [actor.about.options(concurrency_group="control").remote() for actor in actors]
    try:
        abouts = _await_all(refs, patience)
    except ray.exceptions.RayActorError as exc:
        raise Unavailable(f"an actor of the service '{service}' died during its setup: {exc}") from exc
    if abouts is None:
        raise Unavailable(
            f"the actors of the service '{service}' are not placed within {patience.waited:.3g} s: the cluster lacks "
            "what their placement asks for, or their setup takes longer (config: ray.start_timeout)",
            code="not_placed",
        )
    for about in abouts:
        if about["error"] is not None:
            raise unpacked(about["error"])
    links = [Link(service, actor, about) for actor, about in zip(actors, abouts, strict=True)]
    return Replicas(service, links, abouts[0]["methods"])


def _await_all(refs: list[Any], patience: Patience) -> list[Any] | None:
    """The results; ``None`` means that they have not come while the patience lasted."""
    ray = load_ray()
    for seconds in patience.waits():
        try:
            results: list[Any] = ray.get(refs, timeout=seconds)
        except ray.exceptions.GetTimeoutError:
            continue
        return results
    return None


def find_service(service: str, namespace: str) -> Replicas | None:
    """The service of that name in ``namespace``, which another process started; ``None`` means there is none."""
    ray = load_ray()
    try:
        first = ray.get_actor(actor_name(service, 0), namespace=namespace)
    except ValueError:
        return None
    patience = Patience(_FIND)
    found = _await_all([first.about.options(concurrency_group="control").remote()], patience)
    if found is None:
        raise Unavailable(f"the service '{service}' did not answer within {patience.waited:.3g} s", code="not_placed")
    about: Any = found[0]
    others = [actor_name(service, replica) for replica in range(1, about["replicas"])]
    actors = [first, *(ray.get_actor(name, namespace=namespace) for name in others)]
    return link_replicas(service, actors, Patience(_FIND))

"""The services of an environment, as its actors find them: by name, in its namespace."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from sage.kernels.runtime.ray.package import load_ray
from sage.kernels.runtime.ray.remote_service import find_service
from sage.kernels.runtime.services.callers import AsyncServiceCaller, Callers, ServiceCaller
from sage.kernels.runtime.services.spec import CallTarget


class Directory(Mapping[str, CallTarget]):
    """The services by name. The actors of a service are looked up when this process first calls it."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._services: dict[str, CallTarget] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> CallTarget:
        with self._lock:
            if name not in self._services:
                if (service := find_service(name, self._namespace)) is None:
                    raise KeyError(name)
                self._services[name] = service
            return self._services[name]

    def __iter__(self) -> Iterator[str]:
        for actor in load_ray().util.list_named_actors(all_namespaces=True):
            kind, replica, name = (*actor["name"].split("/", 2), "", "")[:3]
            if actor["namespace"] == self._namespace and kind == "service" and replica == "0":
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


def callers_of(namespace: str, environment: str) -> Callers:
    """The callers for a service or a function that runs in an actor."""
    directory = Directory(namespace)
    return ServiceCaller(lambda: directory, environment), AsyncServiceCaller(lambda: directory, environment)

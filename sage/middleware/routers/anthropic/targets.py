"""What the deployments that may answer a request can do, as far as its translation depends on that."""

from __future__ import annotations

from typing import Any, NamedTuple

from sage.errors import SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.deployment import Deployment, PublicModel
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import Native, TokenForm
from sage.middleware.routers.http.asgi import FIELDS, Scope

KIND = "anthropic"
"""Anthropic's own wire (:class:`sage.middleware.providers.base.Native`)."""
_HEADERS = ("anthropic-version", "anthropic-beta")
"""Those of a request that belong to its wire."""


class Targets(NamedTuple):
    """The abilities of all deployments that may answer."""

    native: bool
    """One of them may answer in Anthropic's wire."""
    marks: bool
    """All of them read :attr:`Provider.reads_marks`."""
    tokenizes: frozenset[TokenForm]
    """What all of them have a tokenizer for."""
    deployments: tuple[Deployment, ...] = ()

    @property
    def read_effort(self) -> bool:
        """Whether all of them take ``reasoning_effort`` as a field, where it is more than a hint."""
        return bool(self.deployments) and all(each.provider.reads_effort(each.model) for each in self.deployments)


def known_targets(gateway: Gateway, name: str, fallbacks: tuple[str, ...]) -> Targets | None:
    """As :func:`targets_of`, at once, where only the requested model may answer, and is known; ``None`` for others."""
    model = gateway.registry.get(name)
    if model is None or fallbacks or model.fallbacks:
        return None
    return _targets(tuple(model.deployments))


async def targets_of(gateway: Gateway, principal: Principal, name: str, fallbacks: tuple[str, ...]) -> Targets:
    """What the deployments of the model ``name`` can do, and of those that it falls back on.

    Of a model that is not known here anything may be true; whether it may be asked is checked later. Raises
    :class:`sage.errors.PermissionDenied` for a name that is not registered and that the caller may not use.
    """
    registry = gateway.registry
    model = registry.get(name)
    if model is None:
        principal.require_model(name)
        try:
            model = await registry.resolve(name)
        except SageError:  # it will be refused, or another process knows it
            return Targets(native=True, marks=False, tokenizes=frozenset())
    models = [model]
    if fallbacks or model.fallbacks:
        models = _with_fallbacks(gateway, model, fallbacks)
    return _targets(tuple([deployment for each in models for deployment in each.deployments]))


def _targets(deployments: tuple[Deployment, ...]) -> Targets:
    if len(deployments) == 1:
        provider = deployments[0].provider
        return Targets(KIND in provider.native_answers, provider.reads_marks, provider.tokenizes, deployments)
    providers = {deployment.provider for deployment in deployments}
    forms = [provider.tokenizes for provider in providers]
    return Targets(
        any(KIND in provider.native_answers for provider in providers),
        all(provider.reads_marks for provider in providers),
        frozenset.intersection(*forms) if forms else frozenset(),
        deployments,
    )


def _with_fallbacks(gateway: Gateway, model: PublicModel, fallbacks: tuple[str, ...]) -> list[PublicModel]:
    """``model`` and all that may answer in its place, as far as they are registered."""
    models, names = [model], [*fallbacks, *model.fallbacks]
    seen = {model.name}
    for name in names:  # it grows: fallbacks have fallbacks of their own
        if name not in seen:
            seen.add(name)
            other = gateway.registry.get(name)
            if other is not None:
                models.append(other)
                names += other.fallbacks
    return models


def native_request(scope: Scope, body: dict[str, Any]) -> Native:
    """The request as it came, for a provider of Anthropic's wire."""
    fields = scope[FIELDS]
    headers = {name: fields[name.encode()].decode("latin-1") for name in _HEADERS if name.encode() in fields}
    return Native(KIND, body, headers)

"""Whose models a caller may have asked for a collection."""

from __future__ import annotations

from sage.errors import PermissionDenied
from sage.middleware.auth.principal import Principal
from sage.middleware.hub.sources import is_source, without_pins


def require_model_access(principal: Principal, model: str, param: str) -> None:
    """Raises :class:`PermissionDenied` for a model that the caller does not reach."""
    names = {model, without_pins(model)} if is_source(model) else {model}
    if not any(map(principal.allows_model, names)):
        raise PermissionDenied(
            f"this credential does not reach the model '{model}'; it reaches: {principal.reach}",
            param=param,
            code="model_not_allowed",
        )


def require_embedder_access(principal: Principal, name: str, param: str) -> None:
    """As :func:`require_model_access`; built-in embedders are everybody's, the others are models of the registry."""
    from sage.middleware.retrieval.embedding.builtin import is_builtin

    if not is_builtin(name):
        require_model_access(principal, name, param)

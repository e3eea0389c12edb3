"""The one table of every HTTP route and the scope it asks for; ``None`` is public. A test holds it complete."""

from __future__ import annotations

from sage.middleware.auth.principal import Scope

ROUTES: dict[str, Scope | None] = {
    # accounts
    "auth_token": None,
    "auth_refresh": None,
    "auth_setup": None,
    "jwks": None,
    "auth_logout": Scope.ACCOUNT,
    "auth_me": Scope.ACCOUNT,
    "auth_keys_list": Scope.ACCOUNT,
    "auth_keys_create": Scope.ACCOUNT,
    "auth_keys_revoke": Scope.ACCOUNT,
    "auth_users_list": Scope.ADMIN,
    "auth_users_create": Scope.ADMIN,
    "auth_users_change": Scope.ADMIN,
    # inference
    "generate": Scope.GENERATE,
    "chat_completions": Scope.GENERATE,
    "completions": Scope.GENERATE,
    "embeddings": Scope.GENERATE,
    # models
    "openai_models": Scope.MODELS_READ,
    "openai_model": Scope.MODELS_READ,
    "models_list": Scope.MODELS_READ,
    "models_show": Scope.MODELS_READ,
    "models_load": Scope.MODELS_WRITE,
    "models_unload": Scope.MODELS_WRITE,
    # state and documentation
    "health": None,
    "ready": None,
    "metrics": Scope.METRICS,
    "docs": None,
    "docs_oauth2_redirect": None,
    "redoc": None,
    "openapi": None,
    "docs_static": None,
}

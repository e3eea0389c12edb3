"""Files of other programs that bear the name of ours: ``config.yaml`` is a common one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

from sage.errors import ConfigError

LITELLM = "LiteLLM"
_OWNERS = {
    LITELLM: {
        "model_list",
        "litellm_settings",
        "router_settings",
        "general_settings",
        "environment_variables",
        "credential_list",
    },
    "upstream SAGE": {"pipeline", "source", "sink", "generator", "retriever", "promptor", "writer"},
    "Kubernetes": {"apiVersion", "kind", "metadata"},
    "Docker Compose": {"networks", "volumes", "secrets", "configs"},
    "Prometheus": {"scrape_configs", "rule_files", "alerting"},
    "OpenTelemetry": {"receivers", "exporters", "processors"},
    "llama-swap": {"healthCheckTimeout", "macros", "hooks", "startPort"},
    "vLLM": {"served-model-name", "tensor-parallel-size", "max-model-len", "gpu-memory-utilization"},
    "Continue": {"schema", "mcpServers", "rules", "prompts"},
    "Hugo": {"baseURL", "languageCode", "theme"},
    "Jekyll": {"baseurl", "permalink", "plugins"},
    "Home Assistant": {"homeassistant", "default_config"},
}
"""Programs, and the top-level keys that only they have of those that may meet here."""


def is_foreign(keys: Collection[str], sections: Iterable[str]) -> bool:
    """Whether a file with these top-level keys is another program's: it has none of our ``sections``, nor a slip of
    one."""
    ours = list(sections)
    return bool(keys) and not any(
        key in ours or (owner_of([key]) is None and difflib.get_close_matches(key, ours, 1, 0.6)) for key in keys
    )


def owner_of(keys: Iterable[str]) -> str | None:
    """The program that has most of these top-level keys; ``None`` means that no known one has any."""
    given = set(keys)
    owner, known = max(_OWNERS.items(), key=lambda row: len(row[1] & given))
    return owner if known & given else None


def foreign_error(path: Path, keys: Collection[str]) -> ConfigError:
    """The error for a file that :func:`is_foreign`, with what to do about it."""
    named = ", ".join(list(keys)[:4])
    owner = owner_of(keys)
    if owner == LITELLM:
        return ConfigError(
            f"{path}: this looks like LiteLLM's configuration, not SAGE's (it has {named}); "
            f"'sage import litellm {path} --output sage.yaml' converts it, then name that file with --config or "
            "SAGE_CONFIG"
        )
    if owner is not None:
        return ConfigError(
            f"{path}: this looks like a file of {owner}, not SAGE's configuration (it has {named}); "
            "start SAGE in another directory, or name its own file with --config or SAGE_CONFIG"
        )
    return ConfigError(
        f"{path}: this is not SAGE's configuration (it has {named}); start SAGE in another directory, or name its own "
        "file with --config or SAGE_CONFIG ('sage config init FILE' writes one)"
    )

"""The providers of the result: one for each address, key and set of headers that LiteLLM's deployments have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from sage.middleware.cli.litellm.report import ConversionReport
from sage.middleware.cli.litellm.source import variable_of
from sage.middleware.cli.litellm.upstreams import PROVIDERS, LiteLLMProvider
from sage.middleware.settings.quantities import check_base_url

_API_VERSION = "2024-10-21"
"""Of Azure, where the configuration names none."""
_AZURE = ("azure", "azure_text")


class ProviderTable:
    """Collects the providers; deployments with the same address and key share one."""

    def __init__(self, report: ConversionReport) -> None:
        self.sections: dict[str, dict[str, Any]] = {}
        self._report = report

    def add(self, place: str, prefix: str, model: str, params: Mapping[str, Any]) -> str | None:
        """The name of the provider for a deployment; ``None`` means that none can be made, which the report says."""
        provider = PROVIDERS.get(prefix)
        if provider is None:
            reason = f"SAGE has no provider for '{prefix}'" if prefix else "its provider cannot be told from its name"
            self._report.leave_out(place, reason)
            return None
        base = params.get("api_base") or params.get("base_url") or provider.base_url
        if provider.needs_base and not base:
            self._report.leave_out(place, "it has no api_base")
            return None
        if base and variable_of(base) is None:
            try:
                check_base_url(str(base))
            except ValueError as exc:
                self._report.leave_out(place, str(exc).replace("base_url", "api_base"))
                return None
        section = self._section(prefix, provider, model, params, base)
        name = self._name(prefix, provider, params, base)
        return self._put(name, section)

    def _section(
        self, prefix: str, provider: LiteLLMProvider, model: str, params: Mapping[str, Any], base: Any
    ) -> dict[str, Any]:
        section: dict[str, Any] = {"kind": provider.kind}
        key = self._key(params.get("api_key"), provider.variable)
        headers = {
            str(name): self._text(value)
            for field in ("headers", "extra_headers")
            for name, value in _mapping(params.get(field)).items()
        }
        if prefix in _AZURE:
            section["base_url"] = self._azure_url(base, model, params.get("api_version"))
            headers = {"api-key": key or "", **headers}
        else:
            if base:
                section["base_url"] = self._address(base, provider.kind)
            if key is not None:
                section["api_key"] = key
        if headers:
            section["headers"] = headers
        if provider.kind == "openai" and params.get("organization"):
            section["organization"] = self._text(params["organization"])
        return section

    def _key(self, value: Any, variable: str | None) -> str | None:
        name = variable_of(value) if value else variable
        if name is not None:
            self._report.variables.add(name)
            return f"${{{name}:-}}"  # without it the provider is not configured, and that is all
        if not value:
            return None
        self._report.has_secrets = True
        return str(value)

    def _text(self, value: Any) -> str:
        name = variable_of(value)
        if name is None:
            return str(value)
        self._report.variables.add(name)
        return f"${{{name}:-}}"

    def _address(self, value: Any, kind: str) -> str:
        name = variable_of(value)
        if name is not None:
            self._report.variables.add(name)
            return f"${{{name}}}"  # without an address the key would go to the vendor
        address = str(value).rstrip("/")
        return address.removesuffix("/v1") if kind == "ollama" else address

    def _azure_url(self, base: Any, deployment: str, version: Any) -> str:
        named = self._text(version) if version else _API_VERSION
        root = self._address(base, "openai").partition("/openai/")[0]
        return f"{root}/openai/deployments/{quote(deployment)}?api-version={named}"

    def _name(self, prefix: str, provider: LiteLLMProvider, params: Mapping[str, Any], base: Any) -> str:
        """A provider that has the name of a vendor also answers for the vendor's models, so a server of one's own has
        that of its host."""
        if prefix in _AZURE or provider.kind in ("vllm", "ollama"):
            return provider.kind if prefix not in _AZURE else "azure"
        own = params.get("api_base") or params.get("base_url")
        if not own or (urlsplit(str(own)).hostname or "").endswith("api.openai.com"):
            return provider.kind if provider.base_url is None else prefix.replace("_", "-")
        variable = variable_of(own)
        host = variable or urlsplit(str(own)).netloc or str(own)
        return re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-") or "server"

    def _put(self, name: str, section: dict[str, Any]) -> str:
        number = 1
        while True:
            numbered = name if number == 1 else f"{name}-{number}"
            known = self.sections.setdefault(numbered, section)
            if {**known, "timeouts": None} == {**section, "timeouts": None}:
                return numbered
            number += 1


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}

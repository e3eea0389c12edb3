"""OpenAI's models at Azure: the same wire with a key in ``api-key``, and with the deployment in the path for servers of
dated versions.

``base_url`` is the resource (``https://NAME.openai.azure.com``), which has the wire at ``/openai/v1``, or with a dated
version (``…?api-version=2024-10-21``) at ``/openai/deployments/NAME``. A model is the name of a deployment there.

Source: Microsoft's pages *Azure OpenAI in Microsoft Foundry Models v1 API* and *Azure OpenAI REST API reference*.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from sage.middleware.providers.base import Endpoint, ModelCall, UpstreamModel, UpstreamRequest
from sage.middleware.providers.presets import PresetProvider

_ROOT = "/openai"
_V1 = "/openai/v1"


class AzureProvider(PresetProvider):
    """One resource at Azure and its keys."""

    def _api_root(self, base_url: str) -> str:
        for ending in (_V1, _ROOT):
            base_url = base_url.removesuffix(ending)
        return base_url

    def _with_key(self, key: str) -> Mapping[str, str]:
        headers = self._headers.copy()
        headers["api-key"] = key
        return headers

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        request = super().encode(call, target, endpoint)
        is_dated = "api-version=" in endpoint.query and "api-version=v1" not in endpoint.query
        is_whole = "/deployments/" in endpoint.base_url  # an address as of other gateways, with the deployment in it
        if not is_whole:
            root = f"{_ROOT}/deployments/{quote(target.model, safe='')}" if is_dated else _V1
            request.url = endpoint.url(f"{root}/{call.operation}")
        return request

"""OpenAI's models at Azure: the same wire with a key in ``api-key``, and with the deployment in the path for servers of
dated versions.

``base_url`` is the resource (``https://NAME.openai.azure.com``), which has the wire at ``/openai/v1``, or with a dated
version (``…?api-version=2024-10-21``) at ``/openai/deployments/NAME``. A model is the name of a deployment there.

Source: the client for dated versions in OpenAI's SDK (``openai/lib/azure.py``), which puts these operations below
``/deployments`` and ``/responses`` beside them; Microsoft's pages *Azure OpenAI in Microsoft Foundry Models v1 API* and
*Use the Azure OpenAI Responses API*.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from sage.middleware.providers.base import Endpoint, ModelCall, UpstreamModel, UpstreamRequest
from sage.middleware.providers.presets import PresetProvider
from sage.middleware.providers.wire.responses import PATH
from sage.middleware.settings.providers import RemoteProvider

_ROOT = "/openai"
_V1 = "/openai/v1"
_WHOLE = "/deployments/"
"""In an address as of other gateways, which has the deployment in it."""


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
        is_dated = _is_dated(endpoint.query)
        if call.native is not None and call.native.kind in self.native_answers:
            request.url = endpoint.url(f"{_ROOT if is_dated else _V1}{PATH}")
        elif _WHOLE not in endpoint.base_url:
            root = f"{_ROOT}/deployments/{quote(target.model, safe='')}" if is_dated else _V1
            request.url = endpoint.url(f"{root}/{call.operation}")
        return request

    @staticmethod
    def _has_responses(settings: RemoteProvider) -> bool:
        if settings.root is not None and _WHOLE in settings.root:
            return False
        return not _is_dated(settings.query) if settings.responses is None else settings.responses


def _is_dated(query: str) -> bool:
    return "api-version=" in query and "api-version=v1" not in query

"""NVIDIA's hosted models: OpenAI's wire, whose answer may come later.

Source: NVIDIA's API reference (docs.api.nvidia.com/nim, *statuspolling* of each model): a request that takes long is
answered with 202 and its id in ``NVCF-REQID``, and ``GET /status/{requestId}`` then has the result, or 202 again.
"""

from __future__ import annotations

import re

from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.presets import PresetProvider

_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{1,36}")


class NvidiaProvider(PresetProvider):
    """One account at NVIDIA and its keys."""

    def follow_up(self, request: UpstreamRequest, response: UpstreamResponse) -> UpstreamRequest | None:
        request_id = response.headers.get("nvcf-reqid", "")
        root = request.url
        for path in (*self.paths.values(), "/status/"):
            root = root.partition(path)[0]
        if _REQUEST_ID.fullmatch(request_id) is None:
            return None
        return UpstreamRequest(
            provider=request.provider,
            method="GET",
            url=f"{root}/status/{request_id}",
            headers=request.headers,
            body=b"",
            timeouts=request.timeouts,
            total=request.total,
            whole=request.whole,
            proxy=request.proxy,
            retry_on_broken_connection=True,
        )

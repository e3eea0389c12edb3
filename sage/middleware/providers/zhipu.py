"""To be written."""

from __future__ import annotations

from sage.middleware.providers.openai import OpenAIProvider


class ZhipuProvider(OpenAIProvider):
    """To be written."""

    kind = "zhipu"

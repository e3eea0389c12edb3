"""To be written."""

from __future__ import annotations

from sage.middleware.providers.openai import OpenAIProvider


class CohereProvider(OpenAIProvider):
    """To be written."""

    kind = "cohere"

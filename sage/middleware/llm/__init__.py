"""The gateway as a Python object."""

from sage.middleware.llm.answers import Generation
from sage.middleware.llm.service import LLMService, default_search_models

__all__ = ["Generation", "LLMService", "default_search_models"]

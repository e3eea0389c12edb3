"""The gateway as a Python object, and the client of its jobs."""

from sage.middleware.client.handle import JobHandle, JobUnsuccessful
from sage.middleware.client.jobs import JobsClient
from sage.middleware.llm.answers import Generation
from sage.middleware.llm.service import LLMService, default_search_models

__all__ = ["Generation", "JobHandle", "JobUnsuccessful", "JobsClient", "LLMService", "default_search_models"]

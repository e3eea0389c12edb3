"""The request of ``/generate``, checked before anything is looked up."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sage.errors import InvalidRequest
from sage.middleware.gateway.admission import check_names
from sage.middleware.gateway.collections.requests import SourcesRequest, parse
from sage.middleware.gateway.context.chat_memory import MemoryRequest
from sage.middleware.providers.base import MAX_NAME, ModelCall, Operation
from sage.middleware.settings.first_fault import first_fault

_OURS = frozenset({"prompt", "messages", "stream", "models", "search", "memory", "mcp", "cost"})


class GenerateRequest(BaseModel):
    """A prompt, or messages. Fields that are not listed go on to the provider unchanged."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=MAX_NAME, examples=["gemma-3-270m"])
    prompt: str | None = Field(None, examples=["What is the capital of France?"])
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = Field(None, examples=[50])
    temperature: float | int | None = Field(None, examples=[0])
    top_p: float | int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False
    models: list[str] | None = Field(
        None, max_length=8, description="Names of models that may answer instead, in this order."
    )
    search: SourcesRequest | None = Field(
        None, description="Answer from sources: documents that this search finds are put before the model."
    )
    memory: MemoryRequest | None = Field(
        None, description="Recall what earlier conversations hold, and store this turn once it is answered."
    )

    mcp: Any = Field(
        None,
        description="MCP servers of the configuration whose tools the gateway runs in this answer: names, or "
        '`{"server": …, "tools": […]}`. What was run comes back as `tool_runs`.',
    )
    cost: bool = Field(False, description="Say in the answer what it cost (USD). Not for streams.")

    @model_validator(mode="after")
    def _one_question(self) -> GenerateRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        if self.cost and self.stream:
            raise ValueError("'cost' is said of whole answers only; GET /usage/requests has that of a stream")
        return self

    def call(self) -> ModelCall:
        """The same question as an OpenAI chat."""
        fields = {**{name: getattr(self, name) for name in self.model_fields_set}, **(self.model_extra or {})}
        body = {
            name: value
            for name, value in fields.items()
            if name not in _OURS and not (value is None and name in GenerateRequest.model_fields)
        }
        question = [{"role": "user", "content": self.prompt}]
        body["messages"] = self.messages if self.messages is not None else question
        if self.stream:
            body["stream"] = True
        fallbacks = check_names(self.models or ())
        return ModelCall(Operation.CHAT, body, self.model, stream=self.stream, wants_usage=True, fallbacks=fallbacks)


def parse_generate(body: dict[str, Any]) -> GenerateRequest:
    """The validated request; raises :class:`InvalidRequest` that names the first field at fault."""
    if body.get("memory") is not None:
        body = {**body, "memory": parse(MemoryRequest, body["memory"], "memory")}
    if body.get("search") is not None:
        body = {**body, "search": parse(SourcesRequest, body["search"], "search")}
    if body.get("n") not in (None, 1):
        raise InvalidRequest("'n' must be 1 here: the answer holds one text", param="n")
    try:
        return GenerateRequest.model_validate(body)
    except ValidationError as exc:
        _, place, message = first_fault(exc, GenerateRequest.model_validate, body)
        field = ".".join(map(str, place[:1]))
        raise InvalidRequest(f"'{field}': {message}" if field else message, param=field or None) from None

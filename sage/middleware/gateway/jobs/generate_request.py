"""``POST /tasks/generate``: one request of ``/generate``, or thousands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.context.generate_request import GenerateRequest, parse_generate
from sage.middleware.gateway.context.prompts import last_user_message, text_of
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.lines import LineReader
from sage.middleware.gateway.jobs.named import NamedThings
from sage.middleware.gateway.jobs.options import JobOptions

_QUESTION = ("prompt", "messages")
_LONGEST_ID = 256
CustomId = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST_ID)]


class GenerateLine(GenerateRequest):
    """One request of ``/generate``; its answer comes back under the same `custom_id`."""

    custom_id: CustomId | None = None


class GenerateJobRequest(JobOptions):
    """One request of ``/generate`` as a job, or many in `requests`, or those of a file. Other fields are defaults of
    every one. With `Content-Type: application/x-ndjson` the body is one request a line."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = Field(None, examples=["gemma-3-270m"])
    prompt: str | None = Field(None, examples=["What is the capital of France?"])
    messages: list[dict[str, Any]] | None = None
    requests: list[GenerateLine] | None = Field(
        None, examples=[[{"custom_id": "1", "model": "gemma-3-270m", "prompt": "What is the capital of France?"}]]
    )
    input_file_id: str | None = Field(None, description="An uploaded file with one request a line.")


class CustomIds:
    """The ``custom_id`` of each line: a text that no other line has."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def check(self, body: dict[str, Any]) -> None:
        name = body.get("custom_id")
        if name is None:
            return
        if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_ID:
            raise InvalidRequest(f"'custom_id' must be a text of 1 to {_LONGEST_ID} characters", param="custom_id")
        if name in self._known:
            raise InvalidRequest(f"an earlier line has the 'custom_id' {name!r} too", param="custom_id")
        self._known.add(name)


class GenerateLines:
    """The lines of one job."""

    def __init__(self, gateway: Gateway, fields: dict[str, Any]) -> None:
        self._gateway = gateway
        self._named = NamedThings(gateway)
        self._ids = CustomIds()
        requests = fields.pop("requests", None)
        if requests is not None and not isinstance(requests, list):
            raise InvalidRequest("'requests' must be a list of requests", param="requests")
        parse(GenerateJobRequest, fields)
        question = next((name for name in _QUESTION if fields.get(name) is not None), None)
        self._is_single = requests is None and question is not None
        self.unit = "requests" if question is None else question
        if requests is not None and question is not None:
            raise InvalidRequest(f"give either '{question}' or 'requests'", param=question)
        self._requests = requests
        self._fields = fields

    @classmethod
    async def open(cls, gateway: Gateway, principal: Principal, fields: dict[str, Any]) -> GenerateLines:
        return cls(gateway, fields)

    def own_lines(self) -> list[Any] | None:
        if not self._is_single:
            return self._requests
        self.check({}, 0)  # a fault of its only request names the field itself
        self._ids = CustomIds()
        return [{}]

    def check(self, line: dict[str, Any], number: int) -> Sequence[dict[str, Any]]:
        body = {**self._fields, **line}
        self._ids.check(body)
        asked = {name: value for name, value in body.items() if name != "custom_id"}
        if asked.pop("stream", None):
            raise InvalidRequest("a job has no stream; leave 'stream' out", param="stream")
        self._check_request(parse_generate(asked), number)
        body.pop("stream", None)
        return (body,)

    def _check_request(self, request: GenerateRequest, number: int) -> None:
        call = request.call()
        self._gateway.check(call)
        self._named.add_models((call.model, *call.fallbacks), number)
        messages = call.body["messages"]
        if request.memory is not None:
            self._named.add_scope(Scope.MEMORY)
            last_user_message(messages, "memory")
        if request.search is not None:
            request.search.check_filter()
            self._named.add_collections((request.search.collection,), number)
            index = last_user_message(messages, "search")
            if not request.search.query and not text_of(messages[index].get("content")).strip():
                raise InvalidRequest(
                    "the last message of the user has no text to search for; give 'search.query'", param="search"
                )

    async def check_names(self, principal: Principal, reader: LineReader) -> None:
        await self._named.check(principal, reader)

    def params(self) -> dict[str, Any]:
        return {"single": self._is_single}

"""``/generate``: a prompt in, a text out, whatever the model."""

from __future__ import annotations

import secrets
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sage.errors import InvalidRequest, SageError
from sage.middleware.gateway.gateway import Answering, Gateway
from sage.middleware.providers.base import Call, Operation
from sage.middleware.providers.events import payloads
from sage.middleware.routers.asgi import (
    Departure,
    Receive,
    Scope,
    Send,
    caller,
    end_events,
    error_event,
    note,
    read_json,
    send_events,
    send_json,
    start_events,
)

_OURS = frozenset({"prompt", "messages", "stream", "models", "search", "memory"})


class GenerateRequest(BaseModel):
    """A prompt, or messages. Fields that are not listed go on to the provider unchanged."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=256, examples=["gemma-3-270m"])
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

    @model_validator(mode="after")
    def _one_question(self) -> GenerateRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        return self

    def call(self) -> Call:
        """The same question as an OpenAI chat."""
        body = {name: value for name, value in self.model_dump(exclude_unset=True).items() if name not in _OURS}
        for name in [name for name, value in body.items() if value is None and name in GenerateRequest.model_fields]:
            del body[name]
        body["messages"] = self.messages or [{"role": "user", "content": self.prompt}]
        if self.stream:
            body["stream"] = True
        return Call(
            Operation.CHAT, body, self.model, stream=self.stream, wants_usage=True, fallbacks=tuple(self.models or ())
        )


class TokenUsage(BaseModel):
    """Tokens of one answer, as the upstream counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class GenerateAnswer(BaseModel):
    """What ``/generate`` answers with."""

    id: str
    model: str
    text: str
    finish_reason: str | None
    usage: TokenUsage
    provider: str


class Generate:
    """The ASGI endpoint of ``/generate``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = parse_generate(await read_json(receive)).call()
        note(scope, model=call.model)
        with Departure(receive):
            async with self._gateway.call(caller(scope), call) as answer:
                note(scope, deployment=answer.deployment)
                if call.stream:
                    await _stream(answer, send)
                else:
                    await send_json(send, orjson.dumps(whole_answer(answer)), answer.headers())


def parse_generate(body: dict[str, Any]) -> GenerateRequest:
    """The validated request; raises :class:`InvalidRequest` that names the first field at fault."""
    for name in ("search", "memory"):
        if body.get(name) is not None:
            raise InvalidRequest(f"'{name}' is not served by this version of the gateway; leave it out", param=name)
    if body.get("n") not in (None, 1):
        raise InvalidRequest("'n' must be 1 here: the answer holds one text", param="n")
    try:
        return GenerateRequest.model_validate(body)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in error["loc"][:1])
        message = error["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"'{field}': {message}" if field else message, param=field or None) from None


def whole_answer(answer: Answering) -> dict[str, Any]:
    """``{id, model, text, finish_reason, usage, provider}`` from a whole chat answer."""
    chat = orjson.loads(answer.body)
    choice = chat["choices"][0] if chat["choices"] else {}
    message = choice.get("message") or {}
    return {
        "id": chat.get("id") or f"gen-{secrets.token_hex(12)}",
        "model": chat["model"],
        "text": message.get("content") or "",
        "finish_reason": choice.get("finish_reason"),
        "usage": _usage(chat.get("usage")),
        "provider": answer.provider,
    }


class TextStream:
    """Turns chat events into ``{"text"}`` events; the last one, from :meth:`end`, has the finish and the usage."""

    def __init__(self) -> None:
        self._finish: str | None = None
        self._usage: Any = None

    def texts(self, events: bytes) -> list[str]:
        """The pieces of text in ``events``."""
        pieces = []
        for chunk in payloads(events):
            if not isinstance(chunk, dict):
                continue
            self._usage = chunk.get("usage") or self._usage
            for choice in (chunk.get("choices") or ())[:1]:
                self._finish = choice.get("finish_reason") or self._finish
                text = (choice.get("delta") or {}).get("content")
                if text:
                    pieces.append(text)
        return pieces

    def end(self) -> dict[str, Any]:
        return {"text": "", "finish_reason": self._finish, "usage": _usage(self._usage)}


async def _stream(answer: Answering, send: Send) -> None:
    await start_events(send, answer.headers())
    stream = TextStream()
    try:
        events = answer.body
        while events:
            pieces = b"".join(b"data: " + orjson.dumps({"text": text}) + b"\n\n" for text in stream.texts(events))
            if pieces:
                await send_events(send, pieces)
            if answer.finished:
                break
            events = await answer.more()
        await send_events(send, b"data: " + orjson.dumps(stream.end()) + b"\n\ndata: [DONE]\n\n")
    except SageError as error:
        answer.broke(error)
        await send_events(send, error_event(error))
    else:
        await answer.drain()
    await end_events(send)


def _usage(usage: Any) -> dict[str, int]:
    counts = usage if isinstance(usage, dict) else {}
    prompt, completion = counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": counts.get("total_tokens") or prompt + completion,
    }

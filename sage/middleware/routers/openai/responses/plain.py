"""Requests of nothing but texts, as most are, read in one pass. What they become is what any other request does."""

from __future__ import annotations

from typing import Any

from sage.middleware.routers.http.asgi import take_model
from sage.middleware.routers.openai.responses import resource
from sage.middleware.routers.openai.responses.items import MAX_ITEMS, input_items
from sage.middleware.routers.openai.responses.request import ResponsesRequest

_FIELDS = frozenset({"model", "input", "instructions", "stream", "store", "max_output_tokens", "temperature", "top_p"})
_NUMBERS = frozenset({"temperature", "top_p"})
_TURNS, _SYSTEM = ("user", "assistant"), ("system", "developer")  # no sets: a role may be anything


class PlainRequest(ResponsesRequest):
    """A request of nothing but texts, with no more than the numbers that shape its answer."""

    model = ""

    def __init__(self, body: dict[str, Any], model: str, messages: list[dict[str, Any]]) -> None:
        """Its texts are right, and say the same as ``messages``."""
        self.body, self.model, self.input = body, model, input_items(body["input"])
        self.chat = {"model": model, "messages": messages}

    @classmethod
    def read(cls, body: dict[str, Any]) -> PlainRequest | None:
        """The request of ``body``; ``None`` for one that is to be looked at, as one that is wrong is."""
        if not _FIELDS.issuperset(body):
            return None
        messages = plain_messages(body.get("input"), body.get("instructions", ""))
        if messages is None:
            return None
        request = cls(body, take_model(body), messages)
        return request if request._is_right(body) else None

    def _is_right(self, body: dict[str, Any]) -> bool:
        """Reads the other fields, and tells whether all of them are as they should be."""
        chat = self.chat
        if "stream" in body:
            self.stream = stream = body["stream"]
            if stream is True:
                chat["stream"] = True
            elif stream is not False:
                return False
        if "store" in body:
            self.store = store = body["store"]
            if store is not True and store is not False:
                return False
        if "max_output_tokens" in body:
            chat["max_tokens"] = most = body["max_output_tokens"]
            if type(most) is not int or most < 1:
                return False
        for name in _NUMBERS.intersection(body):
            chat[name] = value = body[name]
            if type(value) is not float and type(value) is not int:
                return False
        return True

    def response(self, name: str) -> dict[str, Any]:
        """As :func:`resource.new_response`."""
        response = resource.response_of(self.body, name)
        del response["input"]
        response.pop("stream", None)
        return response


def plain_messages(items: Any, instructions: Any) -> list[dict[str, Any]] | None:
    """The chat's messages for a text, or for ``items`` that are messages of a text each; ``None`` for others."""
    if type(items) is str:
        items = [{"role": "user", "content": items}]
    if type(items) is not list or type(instructions) is not str or len(items) > MAX_ITEMS:
        return None
    messages: list[dict[str, Any]] = []
    for item in items:
        if type(item) is not dict or item.get("type", "message") != "message":
            return None
        role, content = item.get("role"), item.get("content")
        if type(content) is not str:
            return None
        if role in _TURNS:
            messages.append({"role": role, "content": content})
        elif role not in _SYSTEM:
            return None
        elif messages:
            messages.append({"role": "system", "content": content})
        elif content:
            instructions = f"{instructions}\n\n{content}" if instructions else content
    if instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    return messages or None

"""The input items of Responses as the messages of a chat.

Reasoning, text and calls that follow one another are one message of the assistant. Instructions and the system's and
developer's words at the beginning are one system message: many chat templates take only one, and only there.

Source: OpenAI's API reference (responses, *Input items*; chat/completions, *Messages*).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.gateway.tools.results import add_result
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.routers.openai.responses import reasoning
from sage.middleware.routers.openai.responses.approvals import ApprovedCall
from sage.middleware.routers.openai.responses.call_results import CallResults
from sage.middleware.routers.openai.responses.content import (
    Refuse,
    answer_texts,
    chat_content,
    chat_parts,
    joined_text,
)
from sage.middleware.routers.openai.responses.faults import name_in, only_native, text_in, wrong
from sage.middleware.routers.openai.responses.tools import ChatTools, custom_arguments

_SYSTEM = ("system", "developer")
_SEEN = "The tool's pictures and files follow in the next message."
_REFUSED = "The user has not approved this call, so it was not run"
_LOST = "The user has approved this call; what came of it is not known."
_APPROVAL = "approval_request_id"
_LONGEST_CALL_ID = 40
"""Characters of the id of a call that OpenAI's chat completions take."""
MAX_ITEMS = 10_000


class ChatMessages:
    """Makes the messages of a chat, item by item."""

    has_thoughts = False
    """Whether there are signed thoughts, which not every vendor reads."""
    refuses = False
    """Whether the caller has refused a call."""
    _assistant: dict[str, Any] | None = None
    """The assistant's message that goes on."""

    def __init__(self, instructions: str | None, tools: ChatTools, refuse: Refuse) -> None:
        """``refuse`` takes the error for an item that has no translation."""
        self._tools = tools
        self._refuse = refuse
        self._messages: list[dict[str, Any]] = []
        self._results = CallResults()
        self._system: list[str] = [instructions] if instructions else []
        self._parts: list[dict[str, Any]] = []
        """Pictures and files that tools have answered; no tool's message can hold them."""
        self._asked: dict[str, dict[str, Any]] = {}
        """Requests for the caller's approval, by their ids."""
        self._approved: dict[str, ApprovedCall] = {}
        """Calls to which the caller has agreed, and of which nothing more is said yet; by the ids of the requests."""

    def add(self, item: Any, where: str) -> None:
        """Adds one item. Raises :class:`sage.errors.InvalidRequest`, naming the field, for what is none."""
        if not isinstance(item, dict):
            wrong(where, "an object with a 'type' or a 'role'")
        kind = item.get("type")
        if kind == "message":  # nearly every item
            self._message(item, where)
            return
        if kind is None and "role" in item:
            kind = "message"
        add = _ITEMS.get(kind) if isinstance(kind, str) else None
        if add is not None:
            add(self, item, where)
        elif not isinstance(kind, str):
            wrong(f"{where}.type", "the type of an item")
        else:
            self._refuse(only_native(f"an item of the type '{kind[:100]}'", f"{where}.type", "leave it out"))

    def begin_input(self) -> None:
        """What follows is the request's own; what the caller has approved before has run, or is lost."""
        self._lose_approved()

    @property
    def approved(self) -> list[ApprovedCall]:
        """The calls that are to run now. The last of the assistant's messages has them, without results."""
        return list(self._approved.values()) if self._approved else []

    def messages(self) -> list[dict[str, Any]]:
        """All messages."""
        if self._assistant is not None or self._parts:
            self._end_turn()
        messages = self._results.placed(self._messages)
        if not self._system:
            return messages
        return [{"role": "system", "content": "\n\n".join(self._system)}, *messages]

    def _message(self, item: dict[str, Any], where: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role == "user":
            if self._assistant is not None or self._parts:
                self._end_turn()
            if type(content) is not str:
                content = chat_content(content, f"{where}.content", self._refuse)
            self._messages.append({"role": "user", "content": content})
        elif role == "assistant":
            self._answer(content, f"{where}.content")
        elif role in _SYSTEM:
            if self._assistant is not None or self._parts:
                self._end_turn()
            self._add_system(content, f"{where}.content")
        else:
            wrong(f"{where}.role", "'user', 'assistant', 'system' or 'developer'")

    def _add_system(self, content: Any, where: str) -> None:
        translated = content if type(content) is str else chat_content(content, where, self._refuse)
        text = translated if isinstance(translated, str) else joined_text(translated, "\n")
        if self._messages or text is None:
            self._messages.append({"role": "system", "content": translated if text is None else text})
        elif text:
            self._system.append(text)

    def _answer(self, content: Any, where: str) -> None:
        self._lose_approved()
        text, refusal = answer_texts(content, where)
        message = self._assistant
        if message is None or "tool_calls" in message or message["content"] is not None or "refusal" in message:
            message = self._begin_answer()
        message["content"] = text if text or not refusal else None
        if refusal:
            message["refusal"] = refusal

    def _begin_answer(self) -> dict[str, Any]:
        self._end_turn()
        self._assistant = {"role": "assistant", "content": None}
        self._messages.append(self._assistant)
        return self._assistant

    def _reasoning(self, item: dict[str, Any], where: str) -> None:
        for name in ("summary", "content"):
            if item.get(name) is not None and not isinstance(item[name], list):
                wrong(f"{where}.{name}", "a list of parts")
        self._lose_approved()
        opened = reasoning.opened(item.get("encrypted_content"))
        blocks: list[dict[str, Any]] = []
        if opened is not None:
            text, blocks = opened
        else:
            shown = objects(item.get("content")) or objects(item.get("summary"))
            text = "\n\n".join(part["text"] for part in shown if isinstance(part.get("text"), str))
        if not text and not blocks:
            return  # another upstream's, which nobody else can read
        message = self._assistant
        if message is None or message.keys() != {"role", "content"} or message["content"] is not None:
            message = self._begin_answer()
        if text:
            message["reasoning_content"] = text
        if blocks:
            message["thinking_blocks"] = blocks
            self.has_thoughts = True

    def _function_call(self, item: dict[str, Any], where: str) -> None:
        namespace = item.get("namespace")
        name = self._tools.chat_name(
            name_in(item, "name", where), namespace if isinstance(namespace, str) and namespace else None
        )
        self._call(name_in(item, "call_id", where), name, text_in(item, "arguments", where))

    def _custom_call(self, item: dict[str, Any], where: str) -> None:
        arguments = orjson.dumps(custom_arguments(text_in(item, "input", where))).decode()
        namespace = item.get("namespace")
        name = self._tools.chat_name(
            name_in(item, "name", where), namespace if isinstance(namespace, str) and namespace else None
        )
        self._call(name_in(item, "call_id", where), name, arguments)

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        message = self._assistant or self._begin_answer()
        function = {"name": name, "arguments": arguments or "{}"}
        message.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})
        self._results.note_call(call_id, message)

    def _call_output(self, item: dict[str, Any], where: str) -> None:
        output = item.get("output")
        content: str | None = output if isinstance(output, str) else None
        if content is None:
            parts = chat_parts(output, f"{where}.output", self._refuse)
            content = joined_text(parts, "\n")
            if content is None:
                self._parts += [part for part in parts if part["type"] != "text"]
                content = "\n".join([*(part["text"] for part in parts if part["type"] == "text"), _SEEN])
        result = {"role": "tool", "tool_call_id": name_in(item, "call_id", where), "content": content}
        if not self._results.add(self._messages, result):
            self._assistant = None

    def _server_call(self, item: dict[str, Any], where: str) -> None:
        """A call of a tool that the gateway has run, with what it answered."""
        call_id, error, approval = call_id_of(name_in(item, "id", where)), item.get("error"), item.get(_APPROVAL)
        approved = self._approved.pop(approval, None) if isinstance(approval, str) else None
        if approved is not None:
            call_id = approved.call_id
        else:
            self._lose_approved()
            self._call(call_id, self._server_name(item, where), text_in(item, "arguments", where))
        self._assistant = None
        output = item.get("output")
        if not isinstance(output, str):
            output = "" if error is None else error if isinstance(error, str) else orjson.dumps(error).decode()
        add_result(self._messages, call_id, output)

    def _server_name(self, item: dict[str, Any], where: str) -> str:
        """What a tool of a server is called in chat completions."""
        label, name = item.get("server_label"), name_in(item, "name", where)
        return self._tools.chat_name(name.replace(".", "_"), label if isinstance(label, str) and label else None)

    def _approval_request(self, item: dict[str, Any], where: str) -> None:
        """The model is told once the caller has answered."""
        for name in ("server_label", "name"):
            name_in(item, name, where)
        text_in(item, "arguments", where)
        self._asked[name_in(item, "id", where)] = item

    def _approval_response(self, item: dict[str, Any], where: str) -> None:
        name, reason = name_in(item, _APPROVAL, where), item.get("reason")
        approve, asked = item.get("approve"), self._asked.pop(name, None)
        if not isinstance(approve, bool):
            wrong(f"{where}.approve", "true or false")
        if reason is not None and not isinstance(reason, str):
            wrong(f"{where}.reason", "text")
        if asked is None:
            raise InvalidRequest(
                f"'{where}' answers no 'mcp_approval_request' before it: name its response in 'previous_response_id', "
                "or send the item back too; one is answered once",
                param=f"{where}.{_APPROVAL}",
                code="approval_not_found",
            )
        call_id = call_id_of(name)
        self._go_on_calling()
        self._call(call_id, self._server_name(asked, where), asked["arguments"])
        self._assistant = None
        if approve:
            self._approved[name] = ApprovedCall(where, asked, call_id)
        else:
            self.refuses = True
            add_result(self._messages, call_id, f"{_REFUSED}: {reason}" if reason else f"{_REFUSED}.")

    def _go_on_calling(self) -> None:
        """Goes on with the message of the assistant whose calls have only been answered by tools since: servers refuse
        one that comes between a call and its result."""
        said = next((message for message in reversed(self._messages) if message["role"] != "tool"), None)
        if self._assistant is None and said is not None and said.get("tool_calls"):
            self._assistant = said

    def _lose_approved(self) -> None:
        """The assistant has gone on: what is said of approved calls so far is all."""
        for call in self.approved if self._approved else ():
            add_result(self._messages, call.call_id, _LOST)
        self._approved.clear()

    def _nothing(self, item: dict[str, Any], where: str) -> None:
        """An item that says nothing to a model: its answer has told what there was to tell."""

    def _reference(self, item: dict[str, Any], where: str) -> None:
        wrong(where, "an item: one that is referred to by its id is not kept here (it needs 'store' then and now)")

    def _end_turn(self) -> None:
        """The assistant's turn is over."""
        message, self._assistant = self._assistant, None
        if message is not None and message["content"] is None and not {"tool_calls", "refusal"} & message.keys():
            self._messages.pop()  # reasoning that no answer has followed; it is the last message
        if self._parts:
            self._messages.append({"role": "user", "content": self._parts})
            self._parts = []


_ITEMS: Mapping[str, Callable[[ChatMessages, dict[str, Any], str], None]] = {
    "message": ChatMessages._message,
    "reasoning": ChatMessages._reasoning,
    "function_call": ChatMessages._function_call,
    "function_call_output": ChatMessages._call_output,
    "custom_tool_call": ChatMessages._custom_call,
    "custom_tool_call_output": ChatMessages._call_output,
    "mcp_call": ChatMessages._server_call,
    "mcp_list_tools": ChatMessages._nothing,
    "mcp_approval_request": ChatMessages._approval_request,
    "mcp_approval_response": ChatMessages._approval_response,
    "file_search_call": ChatMessages._nothing,
    "item_reference": ChatMessages._reference,
}


def call_id_of(name: str) -> str:
    """The id of the call in a chat that an item of that id tells of."""
    return name if len(name) <= _LONGEST_CALL_ID else f"call_{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def input_items(value: Any) -> list[Any]:
    """``input`` as a list of items. Raises :class:`sage.errors.InvalidRequest` for anything else."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list):
        wrong("input", "text or a list of items")
    if len(value) > MAX_ITEMS:
        wrong("input", f"a list of at most {MAX_ITEMS} items")
    return value

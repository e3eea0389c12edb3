"""Where the results of calls stand in a chat: behind the message with the calls, with nothing between.

Responses takes the output of a call anywhere behind it: after reasoning, after a text, after what the user has said
meanwhile. Servers of chat completions refuse a result that does not follow its call.
"""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]


class CallResults:
    """Notes the calls of one conversation, and keeps the results that come late until all messages are there."""

    __slots__ = ("_answered", "_callers", "_late")

    def __init__(self) -> None:
        self._callers: dict[str, Message] = {}
        """The messages of the assistant, by the ids of their calls."""
        self._answered: Message | None = None
        """The one whose results are at the end of the messages."""
        self._late: dict[int, list[Message]] = {}
        """Results by the ``id()`` of the message with the call."""

    def note_call(self, call_id: str, caller: Message) -> None:
        """``caller``, a message of the assistant, has a call of that id."""
        self._callers[call_id] = caller

    def add(self, messages: list[Message], result: Message) -> bool:
        """Adds a result to the end of ``messages``, where that is its place, or keeps it. Tells whether it was kept."""
        caller = self._callers.get(result["tool_call_id"])
        last = messages[-1] if messages else None
        follows = caller is last or (caller is self._answered and last is not None and last["role"] == "tool")
        if caller is None or follows:
            self._answered = caller
            messages.append(result)
            return False
        self._late.setdefault(id(caller), []).append(result)
        return True

    def placed(self, messages: list[Message]) -> list[Message]:
        """``messages`` with the late results behind those that were in time."""
        if not self._late:
            return messages
        complete: list[Message] = []
        waiting: list[Message] = []
        for message in messages:
            if waiting and message["role"] != "tool":
                complete += waiting
                waiting = []
            complete.append(message)
            waiting += self._late.get(id(message), ())
        return complete + waiting

"""One walk over all of a request that is not plain words: addresses are checked, amounts and sizes are bounded.

A chat of plain texts is not walked at all: :data:`HARMLESS` looks at the names of its fields, and admission at the
form of each message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.gateway import grammars, media, parameters
from sage.middleware.settings.settings import RequestLimits

_MAX_VALUES = 20_000
"""Values that one request may hold beside its texts and tokens: each costs the event loop a moment. A text that is
looked at counts as some."""


@dataclass(frozen=True, slots=True)
class KeyMeanings:
    """What the keys of objects mean somewhere in a request."""

    words: frozenset[str]
    """Under these a text is words, never an address."""
    free: frozenset[str] = frozenset()
    """Under these nothing is read as an address or an amount: schemas, the caller's own notes."""
    is_bounded: bool = True
    """Whether amounts and sizes have bounds here."""
    is_named: bool = False
    """Whether an error names the place within, rather than the whole."""


_SCHEMAS = frozenset({"function", "functions", "custom", "parameters", "input_schema", "schema", "json_schema"})
_PART = KeyMeanings(frozenset({"type", "text", "refusal", "thinking", "reasoning"}))
_PARAMETER = KeyMeanings(
    frozenset({"type", "text", "content", "name", "description", "instructions", "title", "role", "prompt"}),
    _SCHEMAS | {"metadata"},
    is_named=True,
)
_MESSAGE = KeyMeanings(
    frozenset(
        {"role", "content", "name", "refusal", "reasoning", "reasoning_content", "thinking", "id", "tool_call_id"}
        | {"tool_name", "tool_plan", "signature", "thought_signature"}
    ),
    # What an earlier answer said, which is sent back as it was: the pages that it cites are not fetched again.
    frozenset(
        {"tool_calls", "function_call", "annotations", "citations", "reasoning_details", "thinking_blocks", "metadata"}
    ),
)
_ITEM = KeyMeanings(
    _PART.words
    | {"role", "content", "name", "id", "call_id", "status", "arguments", "output", "input", "encrypted_content"}
    | {"namespace", "phase", "server_label"},
    frozenset({"annotations", "logprobs", "queries", "results"}),
)
"""An item of OpenAI's responses, which says what tools were called with and have answered, too."""
_DOCUMENT = KeyMeanings(
    frozenset({"id", "type", "text", "title", "snippet", "content", "contents", "body"}),
    frozenset({"data", "metadata"}),
    is_bounded=False,
    is_named=True,
)
_FUNCTION_TOOL = {"type", "function"}
_WORDS = frozenset(
    {"prompt", "input", "inputs", "texts", "text_1", "text_2", "query", "suffix", "system", "instruction", "tokens"}
    | {"instructions", "preamble", "template", "message", "chat_history"}
)
"""Fields at the top whose texts and tokens are words; objects in them are walked."""
_PLAIN = (
    _WORDS
    | {"model", "messages", "stream", "stream_options", "temperature", "top_p", "seed", "user", "frequency_penalty"}
    | {"presence_penalty", "metadata", "response_format", "functions", "format", "grammar", "guided_json", "regex"}
    | {"json_schema", "guided_regex", "guided_grammar", "ebnf", "structured_outputs", "safety_identifier"}
    | {"prompt_cache_key", "max_tokens", "max_completion_tokens", "n"}
)
"""Fields at the top that are words, schemas or notes of the caller, or that have checks of their own."""
_LISTED = frozenset({"functions", "metadata"})
"""Fields of these whose entries are counted."""
_SIZED = grammars.FIELDS | _LISTED
HARMLESS = _PLAIN - _WORDS - _SIZED
"""Fields at the top of which nothing is looked at here. Most chats have no others."""


class BodyWalk:
    """The walk over one request. Its methods raise :class:`InvalidRequest`, naming the field."""

    __slots__ = ("_left", "_limits")

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._left = _MAX_VALUES

    def check_fields(self, body: Mapping[str, Any]) -> None:
        """Checks all fields at the top of ``body`` that are no plain words and have no checks of their own."""
        if HARMLESS.issuperset(body):
            return
        for field in _WORDS.intersection(body):
            if not _is_words(body[field]):
                self._check_words(body[field], field)
        if not _SIZED.isdisjoint(body):
            self._check_sizes(body)
        for field in body.keys() - _PLAIN:
            value = body[field]
            if value is None or value is True or value is False:
                continue
            if field == "documents":
                self.check_documents(value)
            elif field == "tools" and isinstance(value, list):
                self._check_tools(value)
            else:
                self._walk(value, field, field, _PARAMETER)

    def _check_sizes(self, body: Mapping[str, Any]) -> None:
        """Checks schemas and notes, whose texts are not looked at, by their sizes."""
        grammars.check_grammars(body)
        for field in _LISTED.intersection(body):
            if isinstance(body[field], dict | list):
                parameters.check_entries(body[field], field, field)

    def _check_words(self, value: Any, field: str) -> None:
        """Checks the objects in ``value``, whose texts are words otherwise."""
        waiting = [value]
        while waiting:
            inner = waiting.pop()
            if isinstance(inner, dict):
                self._walk(inner, field, field, _ITEM if field == "input" else _PART)
            elif isinstance(inner, list) and not set(map(type, inner)) <= {int, float, str}:
                self._count(inner, field)
                waiting += inner

    def check_message(self, message: dict[str, Any], where: str) -> None:
        """Checks all of a message but a ``content`` that is text."""
        for key, value in message.items():
            if key in _MESSAGE.free or value is None or (key in _MESSAGE.words and isinstance(value, str)):
                continue
            if key == "content" and isinstance(value, list):
                self.check_parts(value, f"{where}.content")
            else:
                self._walk(value, f"{where}.{key}", key, _PART)

    def check_parts(self, parts: list[Any], where: str, *, is_result: bool = False) -> None:
        """Checks the parts of a message, of an input, or of a tool's result: objects that each have a ``type``."""
        self._count(parts, where)
        for index, part in enumerate(parts):
            field = f"{where}[{index}]"
            if not isinstance(part, dict):
                raise InvalidRequest(f"{field} must be an object with a 'type'", param=field)
            if str(part.get("type", "")).endswith("_embeds"):
                raise InvalidRequest(f"{field}: parts of embeddings are not passed on", param=field)
            if isinstance(part.get("image_url"), dict):
                media.restore_head(part["image_url"])
            for key, value in part.items():
                if (key in _PART.words and isinstance(value, str)) or _is_said(part, key):
                    continue
                if not is_result and key == "content" and part.get("type") == "tool_result" and isinstance(value, list):
                    self.check_parts(value, f"{field}.content", is_result=True)
                else:
                    is_document = key == "document" and part.get("type") == "document"
                    self._walk(value, f"{field}.{key}", key, _DOCUMENT if is_document else _PART)

    def check_documents(self, documents: Any) -> None:
        """Checks documents: texts, or objects of which ``data`` is the caller's own."""
        if not isinstance(documents, list) or all(isinstance(document, str) for document in documents):
            return
        for index, document in enumerate(documents):
            if not isinstance(document, str):
                self._walk(document, f"documents[{index}]", "documents", _DOCUMENT)

    def _check_tools(self, tools: list[Any]) -> None:
        """Checks tools; a function is a schema, and it is the caller who runs it."""
        parameters.check_entries(tools, "tools", "tools")
        for index, tool in enumerate(tools):
            if not (isinstance(tool, dict) and tool.keys() == _FUNCTION_TOOL and tool["type"] == "function"):
                self._walk(tool, f"tools[{index}]", "tools", _PARAMETER)

    def _walk(self, root: Any, where: str, key: str, position: KeyMeanings) -> None:
        """Checks ``root``, which stands under ``key``, and all in it; not by recursion, since nesting has no bound."""
        waiting: list[tuple[Any, str, str, bool]] = [(root, where, key, media.names_url(key))]
        while waiting:
            value, where, key, named = waiting.pop()
            if isinstance(value, str):
                self._check_text(value, where, key, position, named=named)
            elif isinstance(value, dict | list):
                self._count(value, where)
                if position.is_bounded:
                    parameters.check_entries(value, where, key)
                    if parameters.holds_words(key):
                        continue
                waiting += _inner(value, where, key, position, named=named)
            elif named:
                raise InvalidRequest(f"{where} must carry a URL", param=where)
            elif position.is_bounded and isinstance(value, int | float) and not isinstance(value, bool):
                parameters.check_number(value, where, key, self._limits)

    def _check_text(self, text: str, where: str, key: str, position: KeyMeanings, *, named: bool) -> None:
        if position.is_bounded and parameters.holds_words(key):
            parameters.check_word(text, where)
            return
        self._spend(min(len(text), media.WINDOW) // 64, where)
        media.check_text(text, where, key, self._limits.image_hosts, named=named)
        if position.is_bounded:
            parameters.check_number_in_text(text, where, key, self._limits)

    def _count(self, value: dict[str, Any] | list[Any], where: str) -> None:
        self._spend(len(value), where)

    def _spend(self, values: int, where: str) -> None:
        self._left -= values
        if self._left < 0:
            raise InvalidRequest(
                f"'{where}': a request may hold {_MAX_VALUES} values beside its texts and tokens", param=where
            )


def _is_words(value: Any) -> bool:
    """Whether ``value`` is a text, or a list of texts or of tokens, and nothing else: the usual cases."""
    if not isinstance(value, list):
        return not isinstance(value, dict)
    return set(map(type, value)) <= {str, int}


_OF_VENDOR = ("web_search", "web_fetch", "code_execution", "bash_code_execution", "text_editor_code_execution")
_SAID = {
    **{kind: frozenset({"input"}) for kind in ("tool_use", "server_tool_use", "mcp_tool_use")},
    **{f"{tool}_tool_result": frozenset({"content"}) for tool in (*_OF_VENDOR, "tool_search", "mcp")},
    "text": frozenset({"citations"}),
    "thinking": frozenset({"signature"}),
    "redacted_thinking": frozenset({"data"}),
}
"""Of Anthropic's blocks, what an earlier answer said: it is sent back as it was, and nobody fetches it again."""
_SAID_IN_WORDS = {
    "tool_result": frozenset({"content"}),
    "document": frozenset({"title", "context"}),
    "search_result": frozenset({"title", "source"}),
}
"""What is words there, if it is text."""
_NOTHING: frozenset[str] = frozenset()


def _is_said(part: dict[str, Any], key: str) -> bool:
    """Whether ``key`` of a block in Anthropic's form is words, or what an earlier answer said. Some agents send such
    blocks to every server."""
    kind = part.get("type")
    if not isinstance(kind, str):
        return False
    return key in _SAID.get(kind, _NOTHING) or (
        key in _SAID_IN_WORDS.get(kind, _NOTHING) and isinstance(part[key], str)
    )


def _inner(
    value: dict[str, Any] | list[Any], where: str, key: str, position: KeyMeanings, *, named: bool
) -> list[tuple[Any, str, str, bool]]:
    """What of ``value`` is to be checked, the first last."""
    if isinstance(value, list):
        if value and not named and set(map(type, value)) <= {int, float}:
            return [(number, where, key, False) for number in (min(value), max(value))]
        inner = [(item, f"{where}[{n}]" if position.is_named else where, key, named) for n, item in enumerate(value)]
    else:
        if named and not value.get("url"):
            raise InvalidRequest(f"{where} must carry a URL", param=where)
        words = position.words | {"filename"} if "file_data" in value else position.words  # the file came along
        inner = [
            (item, f"{where}.{name}" if position.is_named else where, name, media.names_url(name))
            for name, item in value.items()
            if not (item is None and not media.names_url(name))
            and not (name in position.free or (name in words and isinstance(item, str)))
        ]
    inner.reverse()
    return inner

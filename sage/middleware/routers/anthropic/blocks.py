"""Content blocks of Anthropic's Messages as messages and parts of OpenAI's chat.

Source: Anthropic's API reference (*Messages*, the types of content blocks), and OpenAI's (chat/completions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sage.errors import InvalidRequest

Part = dict[str, Any]
_PLAIN = {"type", "text"}
"""The fields of a text without a mark."""
_PDF = "application/pdf"
_PICTURE_FOLLOWS = "(the picture is in the next message)"
_FILE_FOLLOWS = "(the document is in the next message)"


@dataclass(frozen=True, slots=True)
class Foreign:
    """Something in a request that only Anthropic itself can do."""

    where: str
    kind: str


class BlockReader:
    """Reads the blocks of one request.

    ``marks``: keep ``cache_control``, the signatures of thinking and ``is_error``, and one part for each block. Without
    it, blocks of nothing but text become one text, which every server takes.

    ``foreign`` is the first block that no chat can say; such a block goes on as it is. Methods raise
    :class:`InvalidRequest`, which names the block, for one that is malformed.
    """

    def __init__(self, *, marks: bool) -> None:
        self._marks = marks
        self.foreign: Foreign | None = None

    def note_foreign(self, where: str, kind: str) -> None:
        """Notes what only Anthropic can do; the first is kept."""
        if self.foreign is None:
            self.foreign = Foreign(where, kind)

    def system(self, content: Any, where: str) -> dict[str, Any]:
        """The system message for a text, or for blocks of text."""
        if isinstance(content, str):
            return {"role": "system", "content": content}
        parts = [self._text(block, at) for block, at, _ in _typed(content, where, only="text")]
        return {"role": "system", "content": self._simplest(parts)}

    def user(self, content: Any, where: str) -> list[dict[str, Any]]:
        """The messages for what the user sent: results of tools first, each in a message of its own."""
        if isinstance(content, str):
            return [{"role": "user", "content": content}]
        messages: list[dict[str, Any]] = []
        parts: list[Part] = []
        for block, at, kind in _typed(content, where):
            if kind == "tool_result":
                messages.append(self._tool_result(block, at, parts))
            else:
                parts += self._parts(block, at, kind)
        if parts or not messages:
            messages.append({"role": "user", "content": self._simplest(parts)})
        return messages

    def assistant(self, content: Any, where: str) -> dict[str, Any]:
        """The message for an earlier answer."""
        if isinstance(content, str):
            return {"role": "assistant", "content": content}
        texts: list[Part] = []
        thoughts: list[str] = []
        thinking: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        for block, at, kind in _typed(content, where):
            if kind == "text":
                texts.append(self._text(block, at))
            elif kind == "tool_use":
                calls.append(_tool_call(block, at))
            elif kind == "thinking":
                thoughts.append(_string(block, "thinking", at))
                if block.get("signature"):
                    thinking.append({"type": kind, "thinking": thoughts[-1], "signature": block["signature"]})
            elif kind == "redacted_thinking":
                thinking.append({"type": kind, "data": _string(block, "data", at)})
            else:
                texts += self._parts(block, at, kind)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self._simplest(texts) if texts or not calls else None,
        }
        if reasoning := "\n\n".join(filter(None, thoughts)):
            message["reasoning_content"] = reasoning
        if thinking and self._marks:
            message["thinking_blocks"] = thinking
        if calls:
            message["tool_calls"] = calls
        return message

    def _simplest(self, parts: list[Part]) -> Any:
        """``parts`` as they are, or their texts as one."""
        if len(parts) == 1 and parts[0].keys() == _PLAIN:
            return parts[0]["text"]
        if not parts or (not self._marks and all(part.get("type") == "text" for part in parts)):
            return "\n\n".join(part["text"] for part in parts)
        return parts

    def _tool_result(self, block: Mapping[str, Any], where: str, parts: list[Part]) -> dict[str, Any]:
        """The message of a tool's result. ``parts`` gets what no such message can hold."""
        content = block.get("content")
        answer: Any = content
        if not isinstance(content, str):
            texts: list[Part] = []
            for inner, at, kind in _typed(content or [], f"{where}.content"):
                if kind in ("image", "document"):
                    parts += self._parts(inner, at, kind)
                    follows = _PICTURE_FOLLOWS if kind == "image" else _FILE_FOLLOWS
                    texts.append({"type": "text", "text": follows})
                else:
                    texts += self._parts(inner, at, kind)
            answer = self._simplest(texts)
        failed = block.get("is_error") is True
        if failed and not self._marks:
            answer = _as_error(answer)
        if self._marks and block.get("cache_control") is not None:
            answer = [{"type": "text", "text": answer}] if isinstance(answer, str) else answer
            answer[-1] = {**answer[-1], "cache_control": block["cache_control"]}
        message = {"role": "tool", "tool_call_id": _string(block, "tool_use_id", where), "content": answer}
        return {**message, "is_error": True} if failed and self._marks else message

    def _parts(self, block: Mapping[str, Any], where: str, kind: str) -> list[Part]:
        read = _READERS.get(kind)
        if kind == "text":
            return [self._text(block, where)]
        if read is None:
            self.note_foreign(where, kind)
            return [dict(block)]
        parts = read(block, where)
        if not parts:
            self.note_foreign(f"{where}.source", f"{kind} of the source '{block['source'].get('type')}'")
            return [dict(block)]
        return self._marked(parts, block)

    def _text(self, block: Mapping[str, Any], where: str) -> Part:
        part = {"type": "text", "text": _string(block, "text", where)}
        return self._marked([part], block)[0]

    def _marked(self, parts: list[Part], block: Mapping[str, Any]) -> list[Part]:
        """``parts`` with the mark of ``block`` on the last one."""
        if self._marks and block.get("cache_control") is not None:
            parts[-1]["cache_control"] = block["cache_control"]
        return parts


def _typed(content: Any, where: str, only: str | None = None) -> list[tuple[dict[str, Any], str, str]]:
    """Each block of ``content`` with its place and its type, which must be ``only`` if that is given."""
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be text or a list of content blocks", param=where)
    blocks = []
    for index, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            at = f"{where}[{index}]"
            raise InvalidRequest(f"{at} must be an object with a 'type'", param=at)
        if only is not None and kind != only:
            at = f"{where}[{index}]"
            raise InvalidRequest(f"{at} must be a block of the type '{only}', not '{kind[:100]}'", param=at)
        blocks.append((block, f"{where}[{index}]", kind))
    return blocks


def _string(block: Mapping[str, Any], field: str, where: str) -> str:
    value = block.get(field)
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}.{field} must be text", param=f"{where}.{field}")
    return value


def _tool_call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A call of a tool in an earlier answer; its input must be an object."""
    given = block.get("input")
    if not isinstance(given, dict):
        raise InvalidRequest(f"{where}.input must be an object", param=f"{where}.input")
    try:
        arguments = orjson.dumps(given).decode()
    except orjson.JSONEncodeError as exc:
        raise InvalidRequest(f"{where}.input cannot be passed on: {exc}", param=f"{where}.input") from exc
    function = {"name": _string(block, "name", where), "arguments": arguments}
    return {"id": _string(block, "id", where), "type": "function", "function": function}


def _as_error(answer: Any) -> Any:
    """The result of a tool that failed; a chat has no other sign of it."""
    if isinstance(answer, str):
        return f"Error: {answer}"
    return [{"type": "text", "text": "Error:"}, *answer]


def _source(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    source = block.get("source")
    if not isinstance(source, dict) or not isinstance(source.get("type"), str):
        raise InvalidRequest(f"{where}.source must be an object with a 'type'", param=f"{where}.source")
    return source


def _image(block: Mapping[str, Any], where: str) -> list[Part]:
    source, at = _source(block, where), f"{where}.source"
    if source["type"] == "base64":
        url = f"data:{_string(source, 'media_type', at)};base64,{_string(source, 'data', at)}"
    elif source["type"] == "url":
        url = _string(source, "url", at)
    else:
        return []
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Mapping[str, Any], where: str) -> list[Part]:
    """A PDF as a part with a file, text as text under its title."""
    source, at = _source(block, where), f"{where}.source"
    title = block.get("title")
    if source["type"] == "base64":
        media = _string(source, "media_type", at)
        name = title if isinstance(title, str) and title else "document.pdf" if media == _PDF else "document"
        file = {"filename": name, "file_data": f"data:{media};base64,{_string(source, 'data', at)}"}
        return [*_context(block), {"type": "file", "file": file}]
    if source["type"] == "text":
        return [{"type": "text", "text": _titled(block, _string(source, "data", at))}]
    if source["type"] != "content":
        return []
    content = source.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": _titled(block, content)}]
    parts: list[Part] = []
    for inner, inside, kind in _typed(content, f"{at}.content"):
        if kind == "text":
            parts.append({"type": "text", "text": _string(inner, "text", inside)})
        elif kind == "image" and (pictures := _image(inner, inside)):
            parts += pictures
        else:
            raise InvalidRequest(f"{inside}: a document holds text and images, not '{kind[:100]}'", param=inside)
    head = _titled(block, "")
    return [{"type": "text", "text": head}, *parts] if head or not parts else parts


def _context(block: Mapping[str, Any]) -> list[Part]:
    context = block.get("context")
    return [{"type": "text", "text": context}] if isinstance(context, str) and context else []


def _titled(block: Mapping[str, Any], text: str) -> str:
    """``text`` below the title and the context of its document."""
    heads = [block.get(name) for name in ("title", "context")]
    return "\n".join([*(head for head in heads if isinstance(head, str) and head), *([text] if text else [])])


def _search_result(block: Mapping[str, Any], where: str) -> list[Part]:
    texts = [
        _string(inner, "text", at) for inner, at, _ in _typed(block.get("content"), f"{where}.content", only="text")
    ]
    head: Sequence[str] = (_string(block, "title", where), _string(block, "source", where))
    return [{"type": "text", "text": "\n".join([*head, *texts])}]


_READERS: dict[str, Callable[[Mapping[str, Any], str], list[Part]]] = {
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}
"""The parts of a block. Empty means that only Anthropic can read its source (a file that is stored there, a PDF by its
address)."""

"""Cohere's chat and embed bodies as OpenAI's, and OpenAI's answers as Cohere's: pure functions.

What comes in is checked where it goes on (admission, then the provider): what is malformed passes through as it is.
"""

from __future__ import annotations

import base64
import secrets
import struct
from typing import Any

import orjson

from sage.errors import InvalidRequest, Unsupported, UpstreamFailed

_FINISH = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "function_call": "TOOL_CALL"}
_RENAMED = {"stop_sequences": "stop", "p": "top_p", "k": "top_k"}
# Fields that only Cohere has, and that nothing is lost of where another answers.
_OWN = frozenset({"citation_options"})


def chat_body(body: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's chat for Cohere's."""
    chat = {_RENAMED.get(name, name): value for name, value in body.items() if value is not None and name not in _OWN}
    if isinstance(body.get("messages"), list):
        chat["messages"] = [_message(item) if isinstance(item, dict) else item for item in body["messages"]]
    if chat.get("top_k") == 0:
        del chat["top_k"]  # all tokens, which is what leaving it out means
    if chat.get("tool_choice") in ("REQUIRED", "NONE"):
        chat["tool_choice"] = chat["tool_choice"].lower()
    if chat.pop("strict_tools", False) and isinstance(chat.get("tools"), list):
        chat["tools"] = [_strict(tool) for tool in chat["tools"]]
    if isinstance(chat.get("thinking"), dict) and chat["thinking"].get("type") == "disabled":
        del chat["thinking"]
        chat["reasoning_effort"] = "none"
    if isinstance(chat.get("response_format"), dict):
        chat["response_format"] = _response_format(chat["response_format"])
    return chat


def _strict(tool: Any) -> Any:
    if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
        return tool
    return {**tool, "function": {**tool["function"], "strict": True}}


def _response_format(wanted: dict[str, Any]) -> dict[str, Any]:
    schema = wanted.get("json_schema") or wanted.get("schema")
    if wanted.get("type") != "json_object" or not schema:
        return wanted
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list) and not all(_says(part) for part in content):
        return message  # with pictures, or with what admission refuses
    if message.get("role") == "assistant":
        return _assistant(message, content)
    if message.get("role") == "tool" and isinstance(content, list):
        return {**message, "content": "\n".join(_result(part) for part in content)}
    return message


def _says(part: Any) -> bool:
    """Whether ``part`` holds nothing but what is said, so that nobody has to check where it leads."""
    kind = part.get("type") if isinstance(part, dict) else None
    return kind in ("text", "thinking", "document") and part.keys() <= {"type", kind}


def _result(part: dict[str, Any]) -> str:
    """What a part of a tool's result says: its text, or its document as JSON."""
    said = part.get(part["type"])
    return said if isinstance(said, str) else orjson.dumps(said).decode()


def _assistant(message: dict[str, Any], content: Any) -> dict[str, Any]:
    """OpenAI has no plan of tool calls: it is what the model says beside them."""
    said = {
        name: value for name, value in message.items() if value is not None and name not in ("content", "tool_plan")
    }
    text = content
    if isinstance(content, list):
        text = "".join(block["text"] for block in content if isinstance(block.get("text"), str))
        if thinking := "".join(block["thinking"] for block in content if isinstance(block.get("thinking"), str)):
            said["reasoning_content"] = thinking
    said["content"] = text or message.get("tool_plan") or (None if message.get("tool_calls") else "")
    return said


def chat_answer(chat: dict[str, Any]) -> dict[str, Any]:
    """Cohere's whole answer for OpenAI's."""
    choice = chat["choices"][0] if chat["choices"] else {"message": {}}
    answer: dict[str, Any] = {
        "id": chat.get("id") or answer_id(),
        "message": _answered(choice["message"]),
        "finish_reason": finish_reason(choice.get("finish_reason")),
    }
    if isinstance(chat.get("usage"), dict):
        answer["usage"] = usage(chat["usage"])
    if isinstance(choice.get("logprobs"), dict):
        answer["logprobs"] = logprob_items(choice["logprobs"])
    return answer


def _answered(message: dict[str, Any]) -> dict[str, Any]:
    calls, plan, text = message.get("tool_calls"), message.get("tool_plan"), _text(message.get("content"))
    if calls and text and not plan:
        plan, text = text, ""
    blocks: list[dict[str, Any]] = []
    if thinking := thought(message):
        blocks.append({"type": "thinking", "thinking": thinking})
    if text or not calls:
        blocks.append({"type": "text", "text": text})
    answered: dict[str, Any] = {"role": "assistant"}
    fields = {"content": blocks, "tool_plan": plan, "tool_calls": calls, "citations": message.get("citations")}
    answered.update({name: value for name, value in fields.items() if value})
    return answered


def thought(message: dict[str, Any]) -> str:
    """The reasoning in a message or delta, under either of the names that servers have for it."""
    text = message.get("reasoning_content") or message.get("reasoning")
    return text if isinstance(text, str) else ""


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def finish_reason(finish: Any) -> str | None:
    """Cohere's word for OpenAI's; one that it has none for stays, in capitals. None if there is none."""
    return _FINISH.get(finish, finish.upper()) if isinstance(finish, str) else None


def usage(counted: dict[str, Any]) -> dict[str, Any]:
    """Cohere's ``usage``."""
    told: dict[str, Any] = {
        "tokens": {
            "input_tokens": counted.get("prompt_tokens") or 0,
            "output_tokens": counted.get("completion_tokens") or 0,
        }
    }
    if isinstance(counted.get("billed_units"), dict):
        told["billed_units"] = counted["billed_units"]
    details = counted.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens") is not None:
        told["cached_tokens"] = details["cached_tokens"]
    return told


def logprob_items(logprobs: dict[str, Any]) -> list[dict[str, Any]]:
    """Cohere's items for OpenAI's tokens: one a text, with the tokens that make it together."""
    items: list[dict[str, Any]] = []
    for token in each(logprobs.get("content")):
        if items and token.get("token") == "":
            item = items[-1]
        else:
            item = {"text": token.get("token"), "token_ids": [], "logprobs": []}
            items.append(item)
        item["logprobs"].append(token.get("logprob"))
        if "token_id" in token:
            item["token_ids"].append(token["token_id"])
    return items


def each(value: Any) -> list[dict[str, Any]]:
    """The objects in a list of an upstream's; none if it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def answer_id() -> str:
    """A fresh id for an answer whose upstream gave none."""
    return secrets.token_hex(16)


def embed_body(body: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's embeddings request for Cohere's. ``input_type`` means nothing to others, and Cohere gets its own."""
    given = [name for name in ("texts", "images", "inputs") if body.get(name) is not None]
    if len(given) != 1:
        raise InvalidRequest("give one of 'texts', 'images' and 'inputs'", param=given[1] if given else "texts")
    source, items = given[0], body[given[0]]
    if not isinstance(items, list) or not items:
        raise InvalidRequest(f"'{source}' must be a list with at least one item", param=source)
    embed = {"model": body["model"], "input": [_input(source, index, item) for index, item in enumerate(items)]}
    types = embedding_types(body)
    if types == ["base64"]:
        embed["encoding_format"] = "base64"
    elif not {"float", "base64"}.issuperset(types):
        embed["embedding_types"] = types
    if body.get("output_dimension") is not None:
        embed["dimensions"] = body["output_dimension"]
    known = {"model", "texts", "images", "inputs", "input_type", "embedding_types", "output_dimension"}
    further = {name: value for name, value in body.items() if name not in known and value is not None}
    if further.get("truncate") == "NONE":
        del further["truncate"]  # what is too long is refused, as everywhere
    return {**embed, **further}


def _input(source: str, index: int, item: Any) -> Any:
    if source == "images" and isinstance(item, str):
        return {"type": "image_url", "image_url": {"url": item}}
    if source == "texts" and isinstance(item, str):
        return item
    parts = item.get("content") if source == "inputs" and isinstance(item, dict) else None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        wanted = "an object with a list 'content'" if source == "inputs" else "text"
        raise InvalidRequest(f"{source}[{index}] must be {wanted}", param=f"{source}[{index}]")
    if len(parts) > 1:
        return {"content": parts}
    return parts[0]["text"] if _says(parts[0]) and isinstance(parts[0].get("text"), str) else parts[0]


def embedding_types(body: dict[str, Any]) -> list[str]:
    """The types that are asked for, each once."""
    types = body.get("embedding_types")
    if types is None or types == []:
        return ["float"]
    if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
        raise InvalidRequest("'embedding_types' must be a list of names", param="embedding_types")
    return list(dict.fromkeys(types))


def embed_answer(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Cohere's answer to ``body`` for OpenAI's; raises :class:`Unsupported` for a type that the provider has not."""
    by_type = answer.get("embeddings")
    vectors = [item.get("embedding") for item in each(answer["data"])]
    found = by_type if isinstance(by_type, dict) else {}
    try:
        embeddings = {kind: found.get(kind) or _as_type(kind, vectors, body["model"]) for kind in embedding_types(body)}
    except (TypeError, ValueError, OverflowError, struct.error) as exc:
        raise UpstreamFailed(
            f"model '{body['model']}' answered with something that is no list of embeddings", code="upstream_nonsense"
        ) from exc
    told = answer.get("usage")
    counted = told if isinstance(told, dict) else {}
    whole: dict[str, Any] = {
        "id": answer.get("id") or answer_id(),
        "response_type": "embeddings_by_type",
        "embeddings": embeddings,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": counted.get("billed_units") or {"input_tokens": counted.get("prompt_tokens") or 0},
        },
    }
    if body.get("texts") is not None:
        whole["texts"] = body["texts"]
    return whole


def _as_type(kind: str, vectors: list[Any], model: str) -> list[Any]:
    """Numbers, or their base64: four bytes a number, the lowest first, as OpenAI's and Cohere's are."""
    if kind == "float":
        return [_unpacked(vector) if isinstance(vector, str) else vector for vector in vectors]
    if kind == "base64":
        return [vector if isinstance(vector, str) else _packed(vector) for vector in vectors]
    raise Unsupported(
        f"model '{model}' has no embeddings of type '{kind}'; it has float and base64", param="embedding_types"
    )


def _unpacked(vector: str) -> list[float]:
    data = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

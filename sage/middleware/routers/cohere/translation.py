"""Cohere's chat and embed bodies as OpenAI's, and OpenAI's answers as Cohere's: pure functions.

Bodies are checked later, by admission and the provider: what is malformed passes through unchanged.
"""

from __future__ import annotations

import secrets
from typing import Any

import orjson

from sage.errors import InvalidRequest, Unsupported, UpstreamFailed
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.messages import Message, finish_of, read_message
from sage.middleware.providers.wire.tool_calls import with_arguments_text
from sage.middleware.providers.wire.vectors import encoded

_FINISH = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "function_call": "TOOL_CALL"}
_RENAMED = {"stop_sequences": "stop", "p": "top_p", "k": "top_k"}
# Fields that only Cohere has; without them nothing of an answer is lost.
_COHERE_ONLY = frozenset({"citation_options"})


def chat_body(body: dict[str, Any]) -> dict[str, Any]:
    """Cohere's chat as OpenAI's."""
    chat = {
        _RENAMED.get(name, name): value
        for name, value in body.items()
        if value is not None and name not in _COHERE_ONLY
    }
    if isinstance(body.get("messages"), list):
        chat["messages"] = [_message(item) if isinstance(item, dict) else item for item in body["messages"]]
    if chat.get("top_k") == 0:
        del chat["top_k"]  # all tokens, which is what leaving it out means
    if chat.get("tool_choice") in ("REQUIRED", "NONE"):
        chat["tool_choice"] = chat["tool_choice"].lower()
    if chat.pop("strict_tools", False) and isinstance(chat.get("tools"), list):
        chat["tools"] = [_strict(tool) for tool in chat["tools"]]
    if disables_thinking(body):
        del chat["thinking"]
    if isinstance(chat.get("response_format"), dict):
        chat["response_format"] = _response_format(chat["response_format"])
    return chat


def disables_thinking(body: dict[str, Any]) -> bool:
    """Whether the model is not to think, which asks nothing of a vendor whose models do not."""
    return isinstance(body.get("thinking"), dict) and body["thinking"].get("type") == "disabled"


def _strict(tool: Any) -> Any:
    if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
        return tool
    return {**tool, "function": {**tool["function"], "strict": True}}


def _response_format(form: dict[str, Any]) -> dict[str, Any]:
    schema = form.get("json_schema") or form.get("schema")
    if form.get("type") != "json_object" or not schema:
        return form
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list) and not all(_is_plain(part) for part in content):
        return message  # it has pictures, or something that admission refuses
    if message.get("role") == "assistant":
        return _assistant(message, content)
    if message.get("role") == "tool" and isinstance(content, list):
        return {**message, "content": "\n".join(_result(part) for part in content)}
    return message


def _is_plain(part: Any) -> bool:
    """Whether ``part`` holds nothing but text or a document, so that there is no URL in it to check."""
    kind = part.get("type") if isinstance(part, dict) else None
    return kind in ("text", "thinking", "document") and part.keys() <= {"type", kind}


def _result(part: dict[str, Any]) -> str:
    """A part of a tool's result as text; a document becomes JSON."""
    value = part.get(part["type"])
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _assistant(message: dict[str, Any], content: Any) -> dict[str, Any]:
    """An assistant's message. OpenAI has no plan of tool calls: it becomes the text beside them."""
    translated = {
        name: value for name, value in message.items() if value is not None and name not in ("content", "tool_plan")
    }
    text = content
    if isinstance(content, list):
        text = "".join(block["text"] for block in content if isinstance(block.get("text"), str))
        if thinking := "".join(block["thinking"] for block in content if isinstance(block.get("thinking"), str)):
            translated["reasoning_content"] = thinking
    if isinstance(message.get("tool_calls"), list):
        translated["tool_calls"] = [with_arguments_text(call) for call in message["tool_calls"]]
    translated["content"] = text or message.get("tool_plan") or (None if message.get("tool_calls") else "")
    return translated


def chat_answer(chat: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's complete answer as Cohere's."""
    choice = chat["choices"][0] if chat["choices"] else {"message": {}}
    message = read_message(choice["message"])
    answer: dict[str, Any] = {
        "id": chat.get("id") or answer_id(),
        "message": _answer_message(message, choice["message"]),
        "finish_reason": finish_reason(finish_of(choice), calls=bool(message.calls)),
    }
    if isinstance(chat.get("usage"), dict):
        answer["usage"] = usage(chat["usage"])
    if isinstance(choice.get("logprobs"), dict):
        answer["logprobs"] = logprob_items(choice["logprobs"])
    return answer


def _answer_message(message: Message, sent: dict[str, Any]) -> dict[str, Any]:
    """Cohere's message for what ``message`` says; ``sent`` has the fields that are Cohere's own."""
    calls, plan, text = message.calls, sent.get("tool_plan"), message.shown
    if calls and text and not plan:
        plan, text = text, ""
    blocks: list[dict[str, Any]] = []
    if message.reasoning:
        blocks.append({"type": "thinking", "thinking": message.reasoning})
    if text or not calls:
        blocks.append({"type": "text", "text": text})
    translated: dict[str, Any] = {"role": "assistant"}
    fields = {
        "content": blocks,
        "tool_plan": plan,
        "tool_calls": [call.as_openai() for call in calls],
        "citations": sent.get("citations"),
    }
    translated.update({name: value for name, value in fields.items() if value})
    return translated


def finish_reason(finish: Any, *, calls: bool) -> str | None:
    """OpenAI's finish reason as Cohere's; one that Cohere does not have stays, in capitals.

    Cohere's clients run tools only on ``TOOL_CALL``, while many servers end ``calls`` with ``stop``.
    """
    reason = _FINISH.get(finish, finish.upper()) if isinstance(finish, str) and finish else None
    return "TOOL_CALL" if calls and reason in (None, "COMPLETE") else reason


def usage(openai: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's ``usage`` as Cohere's."""
    cohere: dict[str, Any] = {
        "tokens": {
            "input_tokens": openai.get("prompt_tokens") or 0,
            "output_tokens": openai.get("completion_tokens") or 0,
        }
    }
    if isinstance(openai.get("billed_units"), dict):
        cohere["billed_units"] = openai["billed_units"]
    details = openai.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens") is not None:
        cohere["cached_tokens"] = details["cached_tokens"]
    return cohere


def logprob_items(logprobs: dict[str, Any]) -> list[dict[str, Any]]:
    """OpenAI's log probabilities as Cohere's: one item for each text, with all tokens that make it up."""
    items: list[dict[str, Any]] = []
    for token in objects(logprobs.get("content") or logprobs.get("refusal")):
        if items and token.get("token") == "":
            item = items[-1]
        else:
            item = {"text": token.get("token"), "token_ids": [], "logprobs": []}
            items.append(item)
        item["logprobs"].append(token.get("logprob"))
        if "token_id" in token:
            item["token_ids"].append(token["token_id"])
    return items


def answer_id() -> str:
    """A new id, for an answer whose upstream sent none."""
    return secrets.token_hex(16)


def embed_body(body: dict[str, Any]) -> dict[str, Any]:
    """Cohere's embeddings request as OpenAI's, without ``input_type``: only Cohere has it, and gets its own body."""
    fields = [name for name in ("texts", "images", "inputs") if body.get(name) is not None]
    if len(fields) != 1:
        raise InvalidRequest("give one of 'texts', 'images' and 'inputs'", param=fields[1] if fields else "texts")
    field, items = fields[0], body[fields[0]]
    if not isinstance(items, list) or not items:
        raise InvalidRequest(f"'{field}' must be a list with at least one item", param=field)
    embed = {"model": body["model"], "input": [_input(field, index, item) for index, item in enumerate(items)]}
    types = embedding_types(body)
    if types == ["base64"]:
        embed["encoding_format"] = "base64"
    elif not {"float", "base64"}.issuperset(types):
        embed["embedding_types"] = types
    if body.get("output_dimension") is not None:
        embed["dimensions"] = body["output_dimension"]
    translated = {"model", "texts", "images", "inputs", "input_type", "embedding_types", "output_dimension"}
    others = {name: value for name, value in body.items() if name not in translated and value is not None}
    if others.get("truncate") == "NONE":
        del others["truncate"]  # a text that is too long is refused anyway
    return {**embed, **others}


def _input(field: str, index: int, item: Any) -> Any:
    if field == "images" and isinstance(item, str):
        return {"type": "image_url", "image_url": {"url": item}}
    if field == "texts" and isinstance(item, str):
        return item
    parts = item.get("content") if field == "inputs" and isinstance(item, dict) else None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        expected = "an object with a list 'content'" if field == "inputs" else "text"
        raise InvalidRequest(f"{field}[{index}] must be {expected}", param=f"{field}[{index}]")
    if len(parts) > 1:
        return {"content": parts}
    return parts[0]["text"] if _is_plain(parts[0]) and isinstance(parts[0].get("text"), str) else parts[0]


def embedding_types(body: dict[str, Any]) -> list[str]:
    """The requested types, each once."""
    types = body.get("embedding_types")
    if types is None or types == []:
        return ["float"]
    if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
        raise InvalidRequest("'embedding_types' must be a list of names", param="embedding_types")
    return list(dict.fromkeys(types))


def embed_answer(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's ``answer`` as Cohere's to ``body``. Raises :class:`Unsupported` for a type that the provider lacks."""
    by_type = answer.get("embeddings")
    vectors = [item.get("embedding") for item in objects(answer["data"])]
    typed = by_type if isinstance(by_type, dict) else {}
    embeddings = {kind: typed.get(kind) or _as_type(kind, vectors, body["model"]) for kind in embedding_types(body)}
    if not all(isinstance(vector, list | str) for kind in embeddings.values() for vector in kind):
        raise UpstreamFailed(
            f"model '{body['model']}' answered with something that is not a list of embeddings",
            code="upstream_nonsense",
        )
    value = answer.get("usage")
    counts = value if isinstance(value, dict) else {}
    translated: dict[str, Any] = {
        "id": answer.get("id") or answer_id(),
        "response_type": "embeddings_by_type",
        "embeddings": embeddings,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": counts.get("billed_units") or {"input_tokens": counts.get("prompt_tokens") or 0},
        },
    }
    if body.get("texts") is not None:
        translated["texts"] = body["texts"]
    return translated


def _as_type(kind: str, vectors: list[Any], model: str) -> list[Any]:
    """Vectors as numbers or as base64."""
    if kind in ("float", "base64"):
        return [encoded(vector, as_base64=kind == "base64", name=model) for vector in vectors]
    raise Unsupported(
        f"model '{model}' has no embeddings of type '{kind}'; it has float and base64", param="embedding_types"
    )

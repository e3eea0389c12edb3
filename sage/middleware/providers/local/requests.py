"""llama.cpp's wire where it is not OpenAI's: rerank, scores and tokens, and the fields that it does not support.

That a field is not supported was observed with the llama.cpp of ``xllamacpp``. Source of all else: llama.cpp,
``tools/server/README.md``.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.base import ModelCall, Operation, Usage, count_prompts
from sage.middleware.providers.local.fields import Cannot, keep_allowed
from sage.middleware.providers.vendor import HINTS
from sage.middleware.providers.wire.chunks import usage_object
from sage.middleware.providers.wire.messages import content_of

_ONE_ANSWER = ": llama.cpp counts the tokens of one answer only; ask once for each"
_IGNORED = {
    Operation.CHAT: (
        *("audio", "functions", "function_call", "modalities", "prediction", "reasoning_effort", "verbosity"),
        "web_search_options",
    ),
    Operation.COMPLETIONS: ("best_of", "echo", "suffix"),
}
_KNOWN: dict[Operation, frozenset[str]] = {
    Operation.RERANK: frozenset({"query", "documents", "top_n", "max_tokens_per_doc"}),
    Operation.SCORE: frozenset({"text_1", "text_2"}),
    Operation.TOKENIZE: frozenset({"prompt", "messages", "add_special_tokens", "return_token_strs"}),
    Operation.DETOKENIZE: frozenset({"tokens"}),
}
"""The fields of each translated operation, besides those that never change an answer."""
_NEUTRAL: tuple[Any, ...] = (None, "", "none", [], {}, ["text"])


def check_known(body: dict[str, Any], operation: Operation, cannot: Cannot) -> None:
    """Refuses every field of a translated operation that its translation does not read."""
    for field, value in body.items():
        if field not in _KNOWN[operation] and field not in HINTS and _asks(value):
            cannot(field, "")


def drop_unsupported(
    body: dict[str, Any], operation: Operation, template: str | None, context: int, cannot: Cannot
) -> None:
    """Removes from the ``body`` of a chat or a completion what llama.cpp would silently ignore, or must not get.

    ``template`` is the chat template in use; ``None`` means unknown. ``context`` is in tokens.
    """
    for field in _IGNORED[operation]:
        if field in body and _asks(body.pop(field)):
            cannot(field, ": llama.cpp ignores it")
    for field in ("n", "n_cmpl"):
        if body.get(field) not in (None, 1):
            cannot(field, _ONE_ANSWER)
            del body[field]
    if operation is Operation.CHAT:
        _drop_unsupported_tools(body, template, cannot)
        body["messages"] = [_only_text(message, number, cannot) for number, message in enumerate(body["messages"])]
    elif count_prompts(body) > 1:
        cannot("prompt", " in a list of several: llama.cpp counts the tokens of one answer only")
        raise InvalidRequest("'prompt' must be one text or the tokens of one: ask once for each", param="prompt")
    keep_allowed(body, context, cannot, _asks)


def has_grammar(body: dict[str, Any]) -> bool:
    """Whether the answer has to follow a grammar, which also says where it ends."""
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    return kind in ("json_object", "json_schema") or bool(body.get("json_schema"))


def _asks(value: Any) -> bool:
    return value is not False and not (type(value) is int and value == 1) and value not in _NEUTRAL


def _drop_unsupported_tools(body: dict[str, Any], template: str | None, cannot: Cannot) -> None:
    choice = body.pop("tool_choice", None)
    body.pop("parallel_tool_calls", None)  # llama.cpp reads as many calls as there are: see `wire.single_call`
    if not body.get("tools") or choice == "none":
        body.pop("tools", None)
        return
    if template is not None and "tools" not in template:
        cannot("tools", ": the model's chat template has no place for them")
        del body["tools"]
        return
    if choice not in (None, "auto"):
        # "required" is accepted but not enforced, and a function's name is read as "auto".
        cannot("tool_choice", " other than 'auto' and 'none': llama.cpp does not enforce it")


def _only_text(message: dict[str, Any], number: int, cannot: Cannot) -> dict[str, Any]:
    parts = content_of(message)
    if not isinstance(parts, list):
        return message if parts is message.get("content") else {**message, "content": parts}
    texts = []
    for index, part in enumerate(parts):
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind == "text":
            texts.append(part)
        elif kind == "refusal":
            texts.append({"type": "text", "text": part.get("refusal")})
        else:
            where = f"messages[{number}].content[{index}]"
            cannot(where, f": its models read text, and this is '{kind}'")
    return {**message, "content": texts}


class CompletionLogprobs:
    """Gives ``completions`` their own shape of ``logprobs``, parallel lists; llama.cpp sends that of chats.

    Make one for each answer or stream: it counts the characters as they come.
    """

    def __init__(self) -> None:
        self._offset: dict[int, int] = {}

    def __call__(self, answer: dict[str, Any]) -> None:
        for choice in answer.get("choices") or ():
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
                choice["logprobs"] = self._lists(choice.get("index", 0), logprobs["content"])

    def _lists(self, index: int, content: list[dict[str, Any]]) -> dict[str, Any]:
        offsets, offset = [], self._offset.get(index, 0)
        for token in content:
            offsets.append(offset)
            offset += len(token["token"])
        self._offset[index] = offset
        return {
            "tokens": [token["token"] for token in content],
            "token_logprobs": [token["logprob"] for token in content],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in token.get("top_logprobs") or ()} for token in content
            ],
            "text_offset": offsets,
        }


def embeddings_request(body: dict[str, Any]) -> dict[str, Any]:
    """The body for llama.cpp's ``/v1/embeddings``; raises for an ``input`` that is not texts or tokens."""
    items = body.get("input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            raise InvalidRequest(f"input[{index}] is no text: local models embed text only", param=f"input[{index}]")
    return {field: body[field] for field in ("model", "input", "encoding_format") if field in body}


def rerank_request(body: dict[str, Any], cannot: Cannot) -> dict[str, Any]:
    """The body for llama.cpp's ``/v1/rerank``, which follows Cohere's."""
    if body.get("max_tokens_per_doc") is not None:
        cannot("max_tokens_per_doc", ": llama.cpp cuts no document")
    query, documents, top = body.get("query"), body.get("documents"), body.get("top_n")
    if not isinstance(query, str):
        raise InvalidRequest("'query' must be a text", param="query")
    if top is not None and (not isinstance(top, int) or top < 1):
        raise InvalidRequest("'top_n' must be a whole number from 1", param="top_n")
    request: dict[str, Any] = {"query": query, "documents": _texts(documents, "documents")}
    return request if top is None else {**request, "top_n": top}


def rerank_answer(answer: dict[str, Any], usage: Usage | None) -> dict[str, Any]:
    """Cohere's answer. The scores are the model's own: higher is more relevant, and they have no bounds."""
    ranked = sorted(answer["results"], key=lambda result: -result["relevance_score"])
    return {
        "id": f"rerank-{secrets.token_hex(12)}",
        "results": [{"index": item["index"], "relevance_score": item["relevance_score"]} for item in ranked],
        "meta": {"tokens": {"input_tokens": usage.prompt_tokens if usage else 0}},
    }


def score_request(body: dict[str, Any]) -> dict[str, Any]:
    """The body that ranks all of ``text_2`` for the query ``text_1``."""
    first, second = body.get("text_1"), body.get("text_2")
    if isinstance(first, list) and len(first) == 1:
        first = first[0]
    if not isinstance(first, str):
        raise InvalidRequest(
            "'text_1' must be one text for a local model: it scores one text against many", param="text_1"
        )
    return {"query": first, "documents": _texts([second] if isinstance(second, str) else second, "text_2")}


def score_answer(call: ModelCall, answer: dict[str, Any], usage: Usage | None) -> dict[str, Any]:
    """vLLM's answer: the scores in the order of the texts."""
    scores = sorted(answer["results"], key=lambda result: int(result["index"]))
    return {
        "id": f"score-{secrets.token_hex(12)}",
        "object": "list",
        "created": int(time.time()),
        "model": call.model,
        "data": [{"index": item["index"], "object": "score", "score": item["relevance_score"]} for item in scores],
        "usage": usage_object(usage or Usage()),
    }


def tokenize_request(body: dict[str, Any], cannot: Cannot) -> dict[str, Any]:
    """The body for llama.cpp's ``/tokenize``, made of one for vLLM's."""
    if body.get("messages") is not None:
        cannot("messages", ": llama.cpp takes a prompt for tokens, not messages; give 'prompt'")
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidRequest("'prompt' must be a text", param="prompt")
    special = body.get("add_special_tokens")
    return {
        "content": prompt,
        "add_special": special is None or bool(special),
        "parse_special": True,
        "with_pieces": bool(body.get("return_token_strs")),
    }


def tokenize_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """vLLM's answer, but llama.cpp does not report ``max_model_len`` here."""
    tokens = answer["tokens"]
    strings = None
    if tokens and isinstance(tokens[0], dict):
        strings = [_piece(token["piece"]) for token in tokens]
        tokens = [token["id"] for token in tokens]
    translated = {"count": len(tokens), "max_model_len": None, "tokens": tokens}
    return translated if strings is None else {**translated, "token_strs": strings}


def detokenize_request(body: dict[str, Any]) -> dict[str, Any]:
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int and token >= 0 for token in tokens):
        raise InvalidRequest("'tokens' must be a list of whole numbers", param="tokens")
    return {"tokens": tokens}


def detokenize_answer(answer: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": answer["content"]}


def _piece(piece: Any) -> str:
    """The text of a token; llama.cpp sends bytes where the token is only a part of a character."""
    return bytes(piece).decode("utf-8", "replace") if isinstance(piece, list) else str(piece)


def _texts(value: Any, field: str) -> list[str]:
    """The texts in a list of texts, or of objects with a ``text``."""
    items = value if isinstance(value, list) else []
    texts = [item.get("text") if isinstance(item, dict) else item for item in items]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(f"'{field}' must be a list of texts, with at least one", param=field)
    return [str(text) for text in texts]

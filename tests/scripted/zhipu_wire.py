"""Zhipu's wire as a script for :class:`upstream.Upstream`: strict about requests, and its answers are in its own shape.

Source: Zhipu's API reference, and what its SDK sends and reads.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from upstream import Received, Script, Upstream, reply, stream

ROOT = "/api/paas/v4"
KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9.Zh1puS3cretHalf"
PLAIN_KEY = "plain-zhipu-key-without-halves"
_CHAT = {
    "model",
    "messages",
    "stream",
    "max_tokens",
    "temperature",
    "top_p",
    "do_sample",
    "seed",
    "stop",
    "tools",
    "tool_choice",
    "tool_stream",
    "thinking",
    "reasoning_effort",
    "response_format",
    "request_id",
    "user_id",
    "sensitive_word_check",
    "watermark_enabled",
    "meta",
    "extra",
}
_FIELDS = {
    "/chat/completions": _CHAT,
    "/embeddings": {"model", "input", "dimensions", "encoding_format", "user", "request_id", "sensitive_word_check"},
    "/rerank": {"model", "query", "documents", "top_n", "return_raw_scores", "user_id"},
}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}}


def base_url(up: Upstream) -> str:
    return f"http://127.0.0.1:{up.port}{ROOT}"


def error(code: str, message: str, status: int = 400, **headers: str) -> Script:
    return reply({"error": {"code": code, "message": message}}, status=status, headers=headers)


def decoded(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a signed token, unchecked."""
    head, claims, _ = token.split(".")
    return _json(head), _json(claims)


def check_token(token: str, key: str, now: float | None = None) -> str | None:
    """What is wrong with a signed token for ``key``, by the vendor's rules (HS256, times in milliseconds)."""
    identity, secret = key.split(".")
    signed, _, signature = token.rpartition(".")
    right = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(_bytes(signature), right):
        return "the signature is wrong"
    head, claims = decoded(token)
    if head.get("alg") != "HS256" or head.get("sign_type") != "SIGN":
        return f"the header is {head}"
    at = (time.time() if now is None else now) * 1000
    if claims.get("api_key") != identity or set(claims) != {"api_key", "exp", "timestamp"}:
        return f"the claims are {claims}"
    if not claims["timestamp"] - 1000 <= at < claims["exp"]:
        return "it is not valid now"
    return None


def zhipu_like(request: Received) -> Script:
    """What the vendor would answer: chat that echoes, embeddings and rankings that can be foretold."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or (token not in (KEY, PLAIN_KEY) and (token.count(".") != 2 or check_token(token, KEY))):
        return error("1002", f"Invalid Authentication Token {token}", 401)
    path = request.path.removeprefix(ROOT)
    if path not in _FIELDS:
        return reply({"code": 500, "msg": "404 NOT_FOUND", "success": False})
    wrong = _wrong(path, request.body)
    if wrong is not None:
        return error("1210", wrong)
    return {"/chat/completions": _chat, "/embeddings": _embeddings, "/rerank": _rerank}[path](request.body)


def _wrong(path: str, body: dict[str, Any]) -> str | None:
    unknown = set(body) - _FIELDS[path]
    # The SDK itself sends nulls for what was not given.
    unknown = {field for field in unknown if body[field] is not None}
    if unknown:
        return f"API parameter error: {sorted(unknown)}"
    temperature, stop = body.get("temperature"), body.get("stop")
    if temperature is not None and not 0.0 < temperature <= 1.0:
        return "temperature must be in (0, 1]"
    if stop is not None and (not isinstance(stop, list) or len(stop) > 1):
        return "stop takes one text"
    if body.get("tool_choice") not in (None, "auto"):
        return "tool_choice is auto"
    if (body.get("response_format") or {}).get("type") not in (None, "text", "json_object"):
        return "response_format is text or json_object"
    for message in body.get("messages") or ():
        if message["role"] not in ("system", "user", "assistant", "tool"):
            return f"there is no role {message['role']}"
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url" and part["image_url"]["url"].startswith("data:"):
                return "an image is an address or base64"
    return None


def echo_text(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _chat(body: dict[str, Any]) -> Script:
    thinks = (body.get("thinking") or {}).get("type") == "enabled"
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        return _calls(body)
    text = '{"echo": true}' if (body.get("response_format") or {}).get("type") == "json_object" else echo_text(body)
    if not body.get("stream"):
        message = {"role": "assistant", "content": text} | ({"reasoning_content": "hm"} if thinks else {})
        return reply(answer(body["model"], message))
    deltas = [{"role": "assistant", "reasoning_content": part} for part in ("h", "m") if thinks]
    words = text.split(" ")
    deltas += [{"role": "assistant", "content": w + " " * (i + 1 < len(words))} for i, w in enumerate(words)]
    return stream([*(chunk(body["model"], delta) for delta in deltas), last(body["model"])])


def _calls(body: dict[str, Any]) -> Script:
    """One call of each function, its arguments whole, or in pieces when ``tool_stream`` asks for it."""
    names = [tool["function"]["name"] for tool in body["tools"] if tool["type"] == "function"]
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": f'{{"city": "{name}-ville"}}'}}
        for i, name in enumerate(names)
    ]
    if not body.get("stream"):
        return reply(answer(body["model"], {"role": "assistant", "content": "", "tool_calls": calls}, "tool_calls"))
    deltas = []
    for i, call in enumerate(calls):
        complete = call["function"]["arguments"]
        pieces = [complete[:5], complete[5:]] if body.get("tool_stream") else [complete]
        deltas.append([{"index": i, **call, "function": {**call["function"], "arguments": pieces[0]}}])
        deltas += [[{"index": i, "function": {"arguments": piece}}] for piece in pieces[1:]]
    events = [chunk(body["model"], {"role": "assistant", "tool_calls": delta}) for delta in deltas]
    return stream([*events, last(body["model"], "tool_calls")])


def answer(model: str, message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return {
        "id": "2026112214124489",
        "request_id": "2026112214124489",
        "created": 1_760_000_000,
        "model": model,
        "choices": [choice],
        "usage": USAGE,
    }


def chunk(model: str, delta: dict[str, Any], finish: str | None = None, **extra: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta} | ({"finish_reason": finish} if finish else {})
    return {"id": "2026112214124489", "created": 1_760_000_000, "model": model, "choices": [choice], **extra}


def last(model: str, finish: str = "stop") -> dict[str, Any]:
    """The chunk with the finish, which always carries the usage."""
    return chunk(model, {"role": "assistant", "content": ""}, finish, usage=USAGE)


def _embeddings(body: dict[str, Any]) -> Script:
    """Floats only, whatever ``encoding_format`` says: the length of the text and its place, then zeros."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    rest = [0.1] * ((body.get("dimensions") or 4) - 2)
    data = [
        {"object": "embedding", "index": i, "embedding": [float(len(text)), float(i), *rest]}
        for i, text in enumerate(texts)
    ]
    return reply({"object": "list", "model": body["model"], "data": data, "usage": USAGE | {"completion_tokens": 0}})


def _rerank(body: dict[str, Any]) -> Script:
    """Scores by how many words of the query a document has; in the order of the documents."""
    words = set(body["query"].lower().split())
    results = []
    for i, text in enumerate(body["documents"]):
        results.append({"index": i, "relevance_score": len(words & set(text.lower().split())) / len(words)})
    best = sorted(results, key=lambda result: -result["relevance_score"])[: body.get("top_n") or None]
    results = [result for result in results if result in best]
    usage = {"prompt_tokens": 72, "total_tokens": 72}
    return reply({"id": "rank-1", "request_id": "r", "created": 1, "results": results, "usage": usage})


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _json(text: str) -> dict[str, Any]:
    value = json.loads(_bytes(text))
    assert isinstance(value, dict)
    return value

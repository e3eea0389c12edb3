"""vLLM's wire for the scripted upstream: OpenAI's, and what vLLM has beside it.

    wire = VllmWire("base-model")
    up.handler = wire

Shapes as a vLLM 0.32 answers them, null fields and all (seen at a real one, see tests/vllm).
"""

from __future__ import annotations

from typing import Any

from upstream import Received, Script, openai_like, reply, stream, usage

NO_ROUTE = {"detail": "Not Found"}
"""FastAPI's own answer where vLLM has no route."""


class VllmWire:
    """One server with one model: ``adapters`` are loaded LoRA adapters, ``asleep`` tells whether it sleeps."""

    def __init__(self, model: str = "base-model", *, lora: bool = True, sleep: bool = True) -> None:
        self.model = model
        self.adapters: dict[str, str] = {}
        self.asleep = False
        self._lora = lora
        self._sleep = sleep

    def __call__(self, request: Received) -> Script:
        path, _, query = request.path.partition("?")
        body = request.body if isinstance(request.body, dict) else {}
        if path == "/v1/models":
            return reply({"object": "list", "data": [_card(self.model, self.model), *self._cards()]})
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return self._change_adapter(path, body) if self._lora else reply(NO_ROUTE, status=404)
        if path in ("/is_sleeping", "/sleep", "/wake_up"):
            return self._switch(path, query) if self._sleep else reply(NO_ROUTE, status=404)
        if path == "/version":
            return reply({"version": "0.32.0"})
        if body.get("model") not in (self.model, *self.adapters):
            return _refused(404, f"The model `{body.get('model')}` does not exist.", "NotFoundError", "model")
        return self._answer(path, request, body)

    def _answer(self, path: str, request: Received, body: dict[str, Any]) -> Script:
        if path == "/v1/chat/completions":
            return _chat(body)
        if path in ("/v1/completions", "/v1/embeddings"):
            return openai_like(request)
        if path == "/v1/rerank":
            return reply(_rerank(body))
        if path == "/v1/score":
            return reply(_score(body))
        if path == "/tokenize":
            return reply(_tokens(body))
        if path == "/detokenize":
            return reply({"prompt": "".join(chr(token) for token in body["tokens"])})
        return reply(NO_ROUTE, status=404)

    def _cards(self) -> list[dict[str, Any]]:
        return [{**_card(name, path), "parent": self.model} for name, path in self.adapters.items()]

    def _change_adapter(self, path: str, body: dict[str, Any]) -> Script:
        name = body["lora_name"]
        if path.startswith("/v1/unload"):
            if self.adapters.pop(name, None) is None:
                return _refused(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
            return reply(body=f"Success: LoRA adapter '{name}' removed successfully.".encode())
        if name in self.adapters:
            return _refused(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        self.adapters[name] = body["lora_path"]
        return reply(body=f"Success: LoRA adapter '{name}' added successfully.".encode())

    def _switch(self, path: str, query: str) -> Script:
        if path == "/is_sleeping":
            return reply({"is_sleeping": self.asleep})
        self.asleep = path == "/sleep"
        return reply({"status": "sleeping", "level": 1} if self.asleep else {"status": "awake", "tags": None})


def _card(name: str, root: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 1_760_000_000,
        "owned_by": "vllm",
        "root": root,
        "parent": None,
        "max_model_len": 256,
        "permission": [],
    }


def _refused(status: int, message: str, kind: str, param: str | None = None) -> Script:
    return reply({"error": {"message": message, "type": kind, "param": param, "code": status}}, status=status)


def _chat(body: dict[str, Any]) -> Script:
    """Echoes the last message, and thinks of its length first where it is told to think."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    thought = f"{len(text)} letters" if (body.get("chat_template_kwargs") or {}).get("enable_thinking") else None
    counted = {**usage(len(text.split()) + 1, len(text.split())), "prompt_tokens_details": None}
    head = {"id": "chatcmpl-8b1c", "created": 1_760_000_000, "model": body["model"]}
    if body.get("stream"):
        deltas = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning": word} for word in (thought or "").split()]
        deltas += [{"content": word} for word in text.split(" ")]
        chunks = [
            {**head, "object": "chat.completion.chunk", "choices": [_choice(delta=delta, finish_reason=None)]}
            for delta in deltas
        ]
        chunks[-1]["choices"][0]["finish_reason"] = "stop"
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": counted})
        return stream(chunks)
    message = {"role": "assistant", "content": text, "refusal": None, "function_call": None, "reasoning": thought}
    choice = _choice(message=message, finish_reason="stop", stop_reason=None, token_ids=None)
    return reply({**head, "object": "chat.completion", "choices": [choice], "usage": counted, "prompt_logprobs": None})


def _choice(**fields: Any) -> dict[str, Any]:
    return {"index": 0, "logprobs": None, **fields}


def _rerank(body: dict[str, Any]) -> dict[str, Any]:
    """By how many words of the query a document has; the best first, as vLLM does it."""
    words = set(body["query"].split())
    results = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": _share(words, text)}
        for index, text in enumerate(body["documents"])
    ]
    results.sort(key=lambda result: -result["relevance_score"])
    counted = {"prompt_tokens": 9, "total_tokens": 9}
    return {"id": "score-9f", "model": body["model"], "usage": counted, "results": results[: body.get("top_n") or None]}


def _score(body: dict[str, Any]) -> dict[str, Any]:
    texts = body["text_2"] if isinstance(body["text_2"], list) else [body["text_2"]]
    data = [
        {"index": index, "object": "score", "score": _share(set(body["text_1"].split()), text)}
        for index, text in enumerate(texts)
    ]
    head = {"id": "score-9e", "object": "list", "created": 1_760_000_000, "model": body["model"]}
    return {**head, "data": data, "usage": {**usage(7, 0), "prompt_tokens_details": None}}


def _share(words: set[str], text: str) -> float:
    return len(words & set(text.split())) / len(words)


def _tokens(body: dict[str, Any]) -> dict[str, Any]:
    """A token a letter."""
    text = body["prompt"] if "prompt" in body else "".join(message["content"] for message in body["messages"])
    strings = list(text) if body.get("return_token_strs") else None
    return {"count": len(text), "max_model_len": 256, "tokens": [ord(letter) for letter in text], "token_strs": strings}

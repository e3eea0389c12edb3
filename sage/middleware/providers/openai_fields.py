"""The fields that OpenAI's API has, for a model that is to leave out what its vendor cannot do (``drop_unsupported``).

Source: the parameter types of OpenAI's Python SDK; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping

from sage.middleware.providers.base import Operation

DOCUMENTED: Mapping[Operation, frozenset[str]] = {
    Operation.CHAT: frozenset(
        {"messages", "model", "stream", "stream_options", "n", "stop", "seed", "user", "metadata", "store"}
        | {"temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs"}
        | {"max_tokens", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls", "functions"}
        | {"function_call", "response_format", "reasoning_effort", "verbosity", "modalities", "audio", "prediction"}
        | {"web_search_options", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
        | {"prompt_cache_options", "moderation"}
    ),
    Operation.COMPLETIONS: frozenset(
        {"prompt", "model", "stream", "stream_options", "n", "best_of", "stop", "seed", "user", "suffix", "echo"}
        | {"temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "max_tokens"}
    ),
    Operation.EMBEDDINGS: frozenset({"input", "model", "dimensions", "encoding_format", "user"}),
}
"""Those of a request, by operation."""

MESSAGE = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call"})
"""Those of a message."""

FOREIGN_SAMPLING = frozenset(
    {"top_k", "top_a", "min_p", "typical_p", "tfs_z", "repeat_penalty", "repetition_penalty", "repeat_last_n"}
    | {"mirostat", "mirostat_eta", "mirostat_tau", "penalize_newline"}
)
"""What other servers have to choose the next token by."""

"""What the scripted upstream answers and the load expects: one place, so that every answer can be checked whole."""

from __future__ import annotations

UPSTREAM_MODEL = "bench-upstream-large"
"""The upstream's own name for the model; callers of a gateway never see it."""

PUBLIC_MODEL = "bench"
UPSTREAM_KEY = "sk-upstream-of-the-benchmark"
FIRST_NUMBER = 10_000_000
"""Numbers of requests have eight digits, so that every request of a kind has the same length."""


def usage(number: int) -> dict[str, int]:
    """The usage that belongs to the request of that number."""
    prompt, completion = number % 97 + 1, number % 89 + 1
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def answer(number: int) -> str:
    """The text that answers the request of that number."""
    return f"n={number}"


def piece(number: int | str, index: int) -> str:
    """The text of chunk ``index`` in the stream that answers that request."""
    return f"{number}:{index} "

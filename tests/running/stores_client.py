"""OpenAI's own client of a gateway with vector stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import openai
from waiting import wait_until


@dataclass
class Stores:
    """The gateway, if it runs in this process, and its client with the key of its admin."""

    running: Any
    client: openai.OpenAI

    def upload(self, name: str, content: bytes, purpose: str = "assistants") -> str:
        return self.client.files.create(file=(name, content), purpose=purpose).id  # type: ignore[arg-type]

    def as_other(self, **key: object) -> openai.OpenAI:
        """The client with another key."""
        return self.client.with_options(api_key=self.running.new_key(**key))

    def done(self, store: str) -> openai.types.VectorStore:
        """The store, once none of its files is being read."""

        wait_until(lambda: self.client.vector_stores.retrieve(store).status == "completed")
        return self.client.vector_stores.retrieve(store)

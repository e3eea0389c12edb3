"""A RAG pipeline: documents go into the vector database by one stream, questions are answered from them by another.

`python examples/rag_pipeline.py` answers by showing its sources. With a gateway, a model answers from them:
`SAGE_URL=http://127.0.0.1:8000 SAGE_API_KEY=… python examples/rag_pipeline.py gemma-3-270m`.
"""

import json
import os
import sys
import urllib.request
from typing import Any

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.service import KVService, VDBService, create_kv_service_factory, create_vdb_service_factory

DOCUMENTS = [
    {"id": "selene", "text": "The base on the moon is called Selene. It was founded in 2041."},
    {"id": "tea", "text": "Green tea should be brewed at 80 degrees for two minutes."},
    {"id": "茶", "text": "绿茶应该用八十度的水冲泡两分钟。"},
]
QUESTIONS = ["What is the base on the moon called?", "How hot should the water for green tea be?", "绿茶用多少度的水？"]


class Retrieve(BaseFunction):
    """Finds the sources of a question, and keeps them in the key-value store for the next time that it is asked."""

    def process(self, question: str) -> dict[str, Any]:
        kv = self.call_service["kv_service"]
        if (sources := kv.get(question)) is None:
            sources = self.call_service["vdb_service"].search(text=question, n_results=1, timeout=60)
            kv.put(question, sources, ttl=600)
        return {"question": question, "sources": sources}


class Answer(BaseFunction):
    """Asks a model of the gateway; without a model, the answer is the best source."""

    def __init__(self, model: str | None) -> None:
        self.model = model

    def process(self, record: dict[str, Any]) -> dict[str, Any]:
        sources = "\n".join(source["text"] for source in record["sources"])
        if self.model is None:
            return {**record, "answer": sources}
        prompt = f"{sources}\n\n{record['question']}"
        request = urllib.request.Request(  # noqa: S310 - the gateway's own address
            f"{os.environ['SAGE_URL']}/generate",
            json.dumps({"model": self.model, "prompt": prompt, "temperature": 0}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['SAGE_API_KEY']}"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return {**record, "answer": json.load(answer)["text"]}


def main() -> None:
    env = LocalEnvironment("rag", {})
    env.register_service("kv_service", KVService, create_kv_service_factory())
    env.register_service("vdb_service", VDBService, create_vdb_service_factory(embedder="auto"))
    with env:
        # A service as a stage of its own, which is called with each document.
        env.from_batch(DOCUMENTS).map(lambda document: [document]).through("vdb_service", method="add").sink(len)
        env.execute()
        questions = env.from_batch(QUESTIONS).map(Retrieve, parallelism=2)
        questions.map(Answer(sys.argv[1] if len(sys.argv) > 1 else None)).sink(
            lambda record: print(f"{record['question']}\n  {record['answer']}")
        )
        env.execute()


if __name__ == "__main__":
    main()
